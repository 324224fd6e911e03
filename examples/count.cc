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
  std::uint64_t packets = 0, bytes = 0;
};

void report(const char* what, const Totals& totals, double seconds, std::uint64_t dropped, bool json) {
  const double packets = static_cast<double>(totals.packets) / seconds,
               bytes = static_cast<double>(totals.bytes) / seconds;
  std::printf(
      json ? "{\"interval\": \"%s\", \"packets\": %llu, \"bytes\": %llu, \"packets_per_second\": %.0f, "
             "\"bytes_per_second\": %.0f, \"dropped\": %llu}\n"
           : "%-6s %12llu packets %14llu bytes %12.0f packets/s %14.0f bytes/s, dropped so far %llu\n",
      what, static_cast<unsigned long long>(totals.packets), static_cast<unsigned long long>(totals.bytes),
      packets, bytes, static_cast<unsigned long long>(dropped));
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
  auto dropped = [&] {
    return port->counters().rx_dropped_ring_full + port->counters().rx_dropped_page_limit;
  };

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
      report("second", second, passed.count(), dropped(), json);
      all.packets += second.packets;
      all.bytes += second.bytes;
      second = {};
      last_report = Clock::now();
    }
  }
  all.packets += second.packets;
  all.bytes += second.bytes;
  report("total", all, std::chrono::duration<double>(now - begin).count(), dropped(), json);
}
