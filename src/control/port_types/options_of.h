// From the config's words to the options of what carries them out.
#pragma once

#include "base/result.h"
#include "control/config/config.h"
#include "port/peer_policy.h"
#include "worker/worker.h"

namespace sluice {

WorkerOptions worker_options(const WorkerConfig& config, WorkerId id);

// Who may attach, of the port's three keys.
Result<PeerPolicy> policy_of(const SocketConfig& port);

}  // namespace sluice
