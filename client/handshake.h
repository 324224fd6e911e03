// The handshake of abi/app.h, one step per function, so that it can be done without ever blocking.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "abi/app.h"
#include "os.h"

namespace sluice::inline v1::client {

// The daemon's welcome, checked: sizes fit, every offset lies inside, all descriptors are there.
struct Welcome {
  sluice_app_welcome message{};
  std::vector<Descriptor> fds;  // in the order of abi/app.h
};

// Descriptors in front of those of the lanes.
enum WelcomeFd : std::size_t {
  kRxArenaFd = 0,
  kDaemonSegmentFd = 1,
  kAppSegmentFd = 2,
  kTxArenaFd = 3,
  kFirstLaneFd = 4
};

// "dns" -> $SLUICE_RUN_DIR/dns.sock or /run/sluice/dns.sock; anything with a '/' stays as it is.
Expected<std::string> socket_path(std::string_view name_or_path);

// A non-blocking socket, connected, with the hello sent. Empty: the daemon's queue of new connections is
// full, as happens when many programs come at once. Try again.
Expected<Descriptor> send_hello(const std::string& path, const std::string& client_name);

// The answer, if it is there; nothing yet: an Expected that holds std::nullopt.
Expected<std::optional<Welcome>> receive_welcome(int socket, const std::string& path);

// Says that the memory of the session is mapped.
Expected<bool> send_mapped(int socket, const std::string& path);
// The answer to that: true when it is there; false: not yet.
Expected<bool> receive_served(int socket, const std::string& path);

}  // namespace sluice::inline v1::client
