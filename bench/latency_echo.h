// The echoes that `latency_bench` measures, each the loop of a process of its own. They end with the process.
#pragma once

#include <cstdint>
#include <string>

namespace sluice::bench {

// Return only when something went wrong: one sentence.
std::string echo_on_socket();  // recvfrom and sendto on kEchoPort
std::string echo_on_port(const std::string& path,
                         std::uint32_t spin_us);     // on libsluice, as examples/udp_echo
std::string echo_as_guest(const std::string& path);  // on virtqueues, asleep when idle

}  // namespace sluice::bench
