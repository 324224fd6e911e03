#include "port/tap/tap_lane.h"

#include <poll.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/check.h"
#include "port/vlan.h"

namespace sluice {

namespace {

constexpr std::uint32_t kEthernetBytes = 14;

// The kernel bridges and routes as it is told to; an access VLAN is a border for it as well.
SourcePolicy source_policy(const TapLaneOptions& options) {
  return {.macs = {options.mac},
          .vlan = options.vlan,
          .any_mac = true,
          .any_tag = options.vlan == 0,
          .any_group = true,
          .limits = options.limits};
}

// Of a body, in one system call: an array on the stack. Linux's own drivers send at most 19 (MAX_SKB_FRAGS +
// 2).
constexpr std::uint32_t kMostSegments = 64;

}  // namespace

TapLane::TapLane(UniqueFd queue, const TapLaneOptions& options)
    : Lane({.segments = kMostSegments}),
      queue_(std::move(queue)),
      options_(options),
      guard_(source_policy(options)),
      longest_(options.mtu + kEthernetBytes + kVlanTagBytes),
      slot_bytes_((kVlanTagBytes + longest_ + 1 + 63) / 64 * 64),
      slots_(std::size_t{kBurst} * slot_bytes_) {}

void TapLane::copy_in(const BurstInfo&, std::span<Packet> packets) {
  delivered_ = true;
  std::uint64_t sent = 0, bytes = 0;
  for (std::size_t i = 0; i < packets.size(); ++i) {
    const Sent outcome = write_frame(packets[i]);
    if (outcome == Sent::kLinkDown) {
      counters_.drop_link_down.add(packets.size() - i);  // the others would go the same way
      break;
    }
    if (outcome == Sent::kYes) {
      ++sent;
      bytes += packets[i].bytes();
    }
  }
  counters_.copied.add(sent);
  counters_.copied_bytes.add(bytes);
  counters_.rx_packets.add(sent);
  counters_.rx_bytes.add(bytes);
}

TapLane::Sent TapLane::write_frame(const Packet& packet) {
  FrameSegments segments;
  if (!segments_for_access(packet, options_.vlan, segments)) {
    counters_.drop_vlan.add(1);
    return Sent::kNo;
  }
  std::array<iovec, segments.front.size() + kMostSegments> parts;
  int count = 0;
  segments.for_each([&](const Segment& segment) {
    if (segment.bytes != 0) {
      parts[static_cast<std::size_t>(count++)] = {const_cast<std::byte*>(segment.data), segment.bytes};
    }
  });
  if (::writev(queue_.get(), parts.data(), count) >= 0) {
    return Sent::kYes;
  }
  if (errno == EIO || errno == EBADFD) {
    return Sent::kLinkDown;
  }
  const bool no_room = errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM;
  (no_room ? counters_.drop_ring_full : counters_.drop_refused).add(1);
  return Sent::kNo;
}

std::uint32_t TapLane::burst(std::span<Packet> packets, BurstInfo& info) {
  SLUICE_CHECK(out_ == 0, "{} packets of the last burst are not done", out_);
  if (!options_.serves) {
    return 0;
  }
  const auto most = std::min(static_cast<std::uint32_t>(packets.size()), kBurst);
  std::uint64_t bytes = 0;
  guard_.begin_burst(most);
  std::uint32_t bytes_left = kTakenPerTurn;
  for (std::uint32_t reads = 0; reads < most; ++reads) {  // D6: also of frames that are dropped
    if (bytes_left < longest_) {
      info.more = true;
      break;
    }
    std::byte* head = slots_.data() + std::size_t{out_} * slot_bytes_ + kVlanTagBytes;
    const ssize_t got = ::read(queue_.get(), head, longest_ + 1);
    if (got < 0) {
      counters_.read_errors.add(errno == EAGAIN || errno == EINTR ? 0 : 1);
      break;
    }
    auto frame_bytes = static_cast<std::uint32_t>(got);
    if (frame_bytes > longest_) {
      counters_.drop_too_long.add(1);
      continue;
    }
    bytes_left -= frame_bytes;
    if (frame_bytes < kEthernetBytes) {
      counters_.drop_refused.add(1);
      continue;
    }
    std::uint32_t head_bytes = std::min(frame_bytes, guard_.most_head());
    const std::byte* body = head + head_bytes;
    const std::uint32_t body_bytes = frame_bytes - head_bytes;
    if (!guard_.admit(head, head_bytes, body_bytes == 0, counters_.source)) {
      continue;
    }
    packets[out_] = Packet{.body = body,
                           .head = head,
                           .body_bytes = body_bytes,
                           .head_bytes = static_cast<std::uint16_t>(head_bytes),
                           .port = options_.uplink};
    bytes += packets[out_++].bytes();
  }
  info.uplink = options_.uplink;
  counters_.tx_packets.add(out_);
  counters_.tx_bytes.add(bytes);
  return out_;
}

void TapLane::done(std::span<const Packet> packets) {
  SLUICE_CHECK(packets.size() == out_, "{} done of {} packets out", packets.size(), out_);
  out_ = 0;
}

bool TapLane::prepare_sleep() {
  if (!options_.serves) {
    return false;
  }
  pollfd ask{.fd = queue_.get(), .events = POLLIN, .revents = 0};
  return ::poll(&ask, 1, 0) == 1 && (ask.revents & POLLIN) != 0;
}

}  // namespace sluice
