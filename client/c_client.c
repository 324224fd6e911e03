/* A C11 program's view of libsluice. Returns 0, or the line of the first thing that was not as promised. */
#include <poll.h>
#include <string.h>

#include "sluice/sluice.h"

#define EXPECT(condition) \
  do {                    \
    if (!(condition)) {   \
      return __LINE__;    \
    }                     \
  } while (0)

int c_client_without_daemon(const char* path);
int c_client(const char* path, void (*deliver)(unsigned count, unsigned lane));

int c_client_without_daemon(const char* path) {
  sluice_port* port = (sluice_port*)&port;
  EXPECT(sluice_attach(path, NULL, &port) == SLUICE_ERROR_NO_DAEMON);
  EXPECT(port == NULL);
  EXPECT(strstr(sluice_last_error(), path) != NULL);
  EXPECT(sluice_attach(NULL, NULL, &port) == SLUICE_ERROR_INVALID);
  EXPECT(strcmp(sluice_strerror(SLUICE_ERROR_BUSY), "another program is attached") == 0);
  EXPECT(strcmp(sluice_strerror(-12345), "unknown error") == 0);
  sluice_detach(NULL);
  return 0;
}

int c_client(const char* path, void (*deliver)(unsigned count, unsigned lane)) {
  sluice_attach_options options = {.client_name = "c client", .timeout_ms = 5000, .spin_us = 1000};
  sluice_port* port = NULL;
  EXPECT(sluice_attach(path, &options, &port) == 0);

  sluice_packet packets[16];
  EXPECT(sluice_receive(port, packets, 16) == 0);
  EXPECT(sluice_receive_wait(port, packets, 16, 1000) ==
         0); /* shorter than spin_us: it spins, and does not sleep */
  sluice_info waits;
  sluice_get_info(port, &waits);
  EXPECT(waits.sleeps == 0 && waits.spins_hit == 0);
  deliver(3, 0);
  EXPECT(sluice_receive_wait(port, packets, 16, -1) == 3);
  EXPECT(packets[2].length == 62 && packets[2].rule == 5 && packets[2].data[0] == 62);
  sluice_info info;
  sluice_get_info(port, &info);
  EXPECT(info.pages_held == 3 && info.attached == 1 && info.lane_count == 2);
  sluice_release(packets, 3);
  sluice_release(packets, 3);
  EXPECT(packets[0].owner == NULL);
  sluice_flush(port);
  sluice_get_info(port, &info);
  EXPECT(info.pages_held == 0);

  EXPECT(sluice_arm(port) == 1);
  deliver(1, 1);
  struct pollfd query = {.fd = sluice_fd(port), .events = POLLIN};
  EXPECT(poll(&query, 1, 10000) == 1);
  EXPECT(sluice_receive(port, packets, 16) == 1);
  sluice_release(packets, 1);

  unsigned char frame[60] = {1, 2, 3};
  struct iovec frames[2] = {{frame, sizeof(frame)}, {frame, 3}};
  EXPECT(sluice_send(port, frames, 2) == 2);
  sluice_frame room[4];
  EXPECT(sluice_reserve(port, room, 4) == 4);
  memcpy(room[0].data, frame, sizeof(frame));
  room[0].length = sizeof(frame);
  EXPECT(sluice_commit(port, room, 1) == 1);
  sluice_counters counters;
  sluice_get_counters(port, &counters);
  EXPECT(counters.tx_bad_length == 1);

  sluice_port* parts[2];
  EXPECT(sluice_split(port, parts, 0) == SLUICE_ERROR_INVALID);
  EXPECT(sluice_split(port, parts, 2) == 0);
  deliver(1, 1);
  EXPECT(sluice_receive(parts[0], packets, 16) == 0);
  EXPECT(sluice_receive(parts[1], packets, 16) == 1);
  sluice_detach(parts[0]);
  sluice_detach(parts[1]);
  EXPECT(packets[0].data[0] == 60);
  sluice_release(packets, 1);
  return 0;
}
