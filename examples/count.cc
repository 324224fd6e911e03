// Counts what arrives on a port: packets and bytes, once a second.
//
//   count dns --seconds 10 --json
#include <sluice/sluice.hpp>

#include <CLI/CLI.hpp>
#include <array>
#include <csignal>
#include <cstdio>

namespace {

using Clock = std::chrono::steady_clock;

volatile std::sig_atomic_t stop = 0;

struct Totals {
  std::uintmax_t packets = 0, bytes = 0;
};

void report(const char* what, const Totals& totals, double seconds, const sluice::Counters& counters,
            bool json) {
  const auto dropped = counters.rx_dropped_ring_full + counters.rx_dropped_page_limit;
  std::printf(json ? "{\"interval\": \"%s\", \"packets\": %ju, \"bytes\": %ju, \"packets_per_second\": %.0f, "
                     "\"bytes_per_second\": %.0f, \"dropped\": %ju}\n"
                   : "%-6s %12ju packets %14ju bytes %12.0f packets/s %14.0f bytes/s, dropped so far %ju\n",
              what, totals.packets, totals.bytes, static_cast<double>(totals.packets) / seconds,
              static_cast<double>(totals.bytes) / seconds, dropped);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Counts what arrives on a port of Sluice.");
  std::string name;
  double seconds = 0;
  bool json = false;
  app.add_option("port", name, "the port's name, or the path of its socket")->required();
  app.add_option("--seconds", seconds, "end after so long; 0: on Ctrl-C");
  app.add_flag("--json", json, "one JSON object a line");
  CLI11_PARSE(app, argc, argv);
  for (int signal : {SIGINT, SIGTERM}) {
    std::signal(signal, [](int) { stop = 1; });
  }

  auto port = sluice::Port::attach(name);
  if (!port) {
    std::fprintf(stderr, "count: %s\n", port.error().message.c_str());
    return 1;
  }

  std::array<sluice::Packet, 64> packets;
  Totals all, second;
  const auto begin = Clock::now();
  const auto end =
      seconds > 0
          ? begin + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds))
          : Clock::time_point::max();
  auto last_report = begin, now = begin;
  for (; stop == 0 && now < end; now = Clock::now()) {
    const auto next = std::min(end, last_report + std::chrono::seconds(1));
    const std::size_t count = port->receive_for(packets, std::max(next - now, Clock::duration(1)));
    for (const sluice::Packet& packet : std::span(packets).first(count)) {
      ++second.packets;
      second.bytes += packet.bytes().size();
    }
    if (std::chrono::duration<double> passed = Clock::now() - last_report; passed.count() >= 1) {
      report("second", second, passed.count(), port->counters(), json);
      all.packets += second.packets;
      all.bytes += second.bytes;
      second = {};
      last_report = Clock::now();
    }
  }
  all.packets += second.packets;
  all.bytes += second.bytes;
  report("total", all, std::chrono::duration<double>(now - begin).count(), port->counters(), json);
}
