// Who may connect to a port: by what the kernel says of the process that called connect(2). Control thread.
#pragma once

#include <sys/socket.h>
#include <sys/types.h>

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace sluice {

struct PeerPolicy {
  std::vector<uid_t> uids;
  std::vector<gid_t> gids;  // its own group or one of its supplementary ones
  std::string cgroup;       // of cgroup v2, "/machine.slice/vm0.scope": there or below; empty: anywhere
  // A user or a group that is listed, and the cgroup. Without any of the three: root and the process's own
  // user, or everybody.
  bool everybody = false;
};

// Errors: a policy that cannot be kept on this machine, each in a sentence.
Result<void> check_policy(const PeerPolicy& policy);
// In a user namespace whose `map` (/proc/self/uid_map) leaves ids out, all of those look like `overflow`.
// Listing that one would let everybody in.
bool stands_for_strangers(std::uint32_t id, std::string_view map, std::uint32_t overflow);
// `path` is `allowed` or below it.
bool cgroup_is_within(std::string_view path, std::string_view allowed);

struct Peer {
  ucred who{};
  std::string refusal;  // a sentence; empty: it may connect
  bool allowed() const { return refusal.empty(); }
};

// Who is at the other end of `socket`, and whether the policy of port `port` lets it in. Asks the kernel
// only, nothing that the peer could hold up.
Result<Peer> judge_peer(int socket, const PeerPolicy& policy, const std::string& port);

}  // namespace sluice
