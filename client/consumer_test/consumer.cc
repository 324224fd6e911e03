// Ends with 0 when attaching fails as it must: there is no daemon at this path.
#include <sluice/sluice.hpp>

#include <array>
#include <cstdio>

#if __cplusplus > 202002L
#error "the public headers are for C++20"
#endif

int main() {
  auto port = sluice::Port::attach("/nonexistent/port.sock");
  std::array<sluice::Packet, 4> packets;
  if (port || port.error().code != sluice::ErrorCode::kNoDaemon || packets[0]) {
    return 1;
  }
  std::puts(port.error().message.c_str());
}
