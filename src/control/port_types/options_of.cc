#include "control/port_types/options_of.h"

namespace sluice {

WorkerOptions worker_options(const WorkerConfig& config, WorkerId id) {
  return {.id = id, .cpu = config.cpu, .idle = config.idle, .latency_us = config.latency_us};
}

Result<PeerPolicy> policy_of(const SocketConfig& port) {
  PeerPolicy policy;
  for (const std::string& user : port.allow_users) {
    auto uid = read_user(user);
    SLUICE_TRY(uid);
    policy.uids.push_back(*uid);
  }
  for (const std::string& group : port.allow_groups) {
    auto gid = read_group(group);
    SLUICE_TRY(gid);
    policy.gids.push_back(*gid);
  }
  policy.cgroup = port.allow_cgroup;
  return policy;
}

}  // namespace sluice
