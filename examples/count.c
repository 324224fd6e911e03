/* Counts what arrives on a port, in C: prints packets and bytes once a second, until it is interrupted.
 *
 *   count_c dns
 */
#include <signal.h>
#include <sluice/sluice.h>
#include <stdio.h>
#include <time.h>

static volatile sig_atomic_t stop;

static void on_signal(int signal) {
  (void)signal;
  stop = 1;
}

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

int main(int argc, char** argv) {
  if (argc != 2) {
    fprintf(stderr, "usage: %s PORT\n", argv[0]);
    return 2;
  }
  signal(SIGINT, on_signal);
  signal(SIGTERM, on_signal);
  sluice_port* port = NULL;
  if (sluice_attach(argv[1], NULL, &port) < 0) {
    fprintf(stderr, "%s\n", sluice_last_error());
    return 1;
  }

  unsigned long long packet_count = 0, byte_count = 0;
  double last = seconds();
  while (!stop) {
    sluice_packet packets[64];
    size_t count = sluice_receive_wait(port, packets, 64, 100 * 1000 * 1000);
    for (size_t i = 0; i < count; ++i) {
      byte_count += packets[i].length;
    }
    packet_count += count;
    sluice_release(packets, count);
    if (seconds() - last >= 1) {
      printf("%llu packets %llu bytes\n", packet_count, byte_count);
      fflush(stdout);
      last = seconds();
    }
  }
  sluice_detach(port);
  printf("%llu packets %llu bytes\n", packet_count, byte_count);
  return 0;
}
