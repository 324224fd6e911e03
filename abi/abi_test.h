/* The layout of every structure, field by field: what stands here has crossed a border of processes of
 * different builds, so a change is a new SLUICE_APP_VERSION. Included by the same test in C, C++ and BPF C.
 */
#include <stddef.h>

#ifdef __cplusplus
#define PIN(type, field, offset) static_assert(offsetof(struct type, field) == (offset), #type "." #field)
#else
#define PIN(type, field, offset) _Static_assert(offsetof(struct type, field) == (offset), #type "." #field)
#endif

#ifndef __bpf__
PIN(sluice_ring_producer, producer, 0);
PIN(sluice_ring_consumer, consumer, 0);
PIN(sluice_ring_consumer, need_wakeup, 4);

PIN(sluice_app_hello, magic, 0);
PIN(sluice_app_hello, version, 4);
PIN(sluice_app_hello, reserved, 6);
PIN(sluice_app_hello, client, 8);

PIN(sluice_app_welcome, magic, 0);
PIN(sluice_app_welcome, version, 4);
PIN(sluice_app_welcome, status, 6);
PIN(sluice_app_welcome, message, 8);
PIN(sluice_app_welcome, lane_count, 200);
PIN(sluice_app_welcome, page_bytes, 204);
PIN(sluice_app_welcome, page_count, 208);
PIN(sluice_app_welcome, rx_entries, 212);
PIN(sluice_app_welcome, back_entries, 216);
PIN(sluice_app_welcome, tx_entries, 220);
PIN(sluice_app_welcome, tx_slot_bytes, 224);
PIN(sluice_app_welcome, page_limit, 228);
PIN(sluice_app_welcome, rx_arena_bytes, 232);
PIN(sluice_app_welcome, tx_arena_bytes, 240);
PIN(sluice_app_welcome, daemon_segment_bytes, 248);
PIN(sluice_app_welcome, app_segment_bytes, 256);
PIN(sluice_app_welcome, daemon_lane_stride, 264);
PIN(sluice_app_welcome, app_lane_stride, 272);
PIN(sluice_app_welcome, source_mac, 280);
PIN(sluice_app_welcome, flags, 286);
PIN(sluice_app_welcome, tx_lanes_low, 288);
PIN(sluice_app_welcome, tx_lanes_high, 292);

PIN(sluice_app_mapped, magic, 0);
PIN(sluice_app_mapped, version, 4);
PIN(sluice_app_mapped, reserved, 6);
PIN(sluice_app_served, magic, 0);
PIN(sluice_app_served, version, 4);
PIN(sluice_app_served, status, 6);

PIN(sluice_rx_entry, page, 0);
PIN(sluice_rx_entry, offset, 4);
PIN(sluice_rx_entry, length, 6);
PIN(sluice_rx_entry, rule, 8);
PIN(sluice_rx_entry, flow_hash, 12);
PIN(sluice_rx_entry, timestamp_ns, 16);
PIN(sluice_rx_entry, nic, 24);
PIN(sluice_rx_entry, queue, 26);
PIN(sluice_tx_entry, offset, 0);
PIN(sluice_tx_entry, length, 4);

PIN(sluice_lane_stats, rx_packets, 0);
PIN(sluice_lane_stats, rx_bytes, 8);
PIN(sluice_lane_stats, rx_dropped_ring_full, 16);
PIN(sluice_lane_stats, rx_dropped_page_limit, 24);
PIN(sluice_lane_stats, tx_packets, 32);
PIN(sluice_lane_stats, tx_dropped, 40);
PIN(sluice_lane_stats, pages_held, 48);
PIN(sluice_lane_stats, faults, 56);
#endif

PIN(sluice_packet_meta, word, 0);
