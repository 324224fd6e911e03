#include "port/guest/vhost_user/session.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <new>
#include <thread>
#include <utility>

#include "base/check.h"
#include "port/guest/vhost_user/features.h"

namespace sluice {

namespace {

constexpr std::uint64_t kMinMtu = 68;  // virtio 1.2, 5.1.4.1
constexpr std::uint64_t kMaxMtu = 65535;

// A front-end that did not ask for an answer cannot know that its message was refused. What it says about the
// guest's memory or features, everything after is built on: better an end than a misunderstanding. A ring
// that was not set up just does not run.
bool ends_the_connection(VhostFault fault) {
  switch (fault) {
    case VhostFault::kIndex:
    case VhostFault::kRing:
    case VhostFault::kRunning:
    case VhostFault::kStatus:
    case VhostFault::kValue:
    case VhostFault::kNotOffered:
      return false;
    default:
      return true;
  }
}

// Sender and reader do not mean the same by this message: nothing after it can be trusted.
bool is_syntax(VhostFault fault) {
  return fault == VhostFault::kSize || fault == VhostFault::kDescriptors;
}

VhostSession::Payload payload_of(std::uint64_t value) {
  VhostSession::Payload payload;
  std::memcpy(payload.data(), &value, sizeof(value));
  return payload;
}

}  // namespace

VhostSession::VhostSession(std::uint32_t queue_pairs, VringControl& control, const LossSignal& loss,
                           MemoryPolicy policy)
    : control_(control),
      loss_(loss),
      policy_(std::move(policy)),
      offered_(offered_features(queue_pairs)),
      queue_pairs_(queue_pairs),
      memory_(std::make_shared<const GuestMemory>()),
      rings_(std::size_t{2} * queue_pairs) {
  SLUICE_CHECK(queue_pairs >= 1 && queue_pairs <= kMaxQueuePairs, "{} queue pairs", queue_pairs);
}

VhostSession::~VhostSession() {
  for (;;) {
    try {
      end(VringControl::Patience::kForEver);
      return;
    } catch (const std::bad_alloc&) {
      // No worker may be left in memory that goes: for that, others' memory is waited for.
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
}

bool VhostSession::end(VringControl::Patience patience) {
  if (!std::exchange(ended_, true)) {
    pending_.reset();
    changes_.clear();  // none of them matters any more
    changed_.set();
    for (Ring& ring : rings_) {
      ring.running = false;
    }
  }
  return apply(patience);
}

bool VhostSession::stop_for_good(VringControl::Patience patience) {
  stopped_ =
      stopped_ || control_.quiesce(changed_, patience, [this] { control_.stop_all(ring_count(), nothing_); });
  if (stopped_) {
    retired_fds_.clear();
    retired_memory_.clear();
  }
  return stopped_;
}

void VhostSession::later(std::uint32_t ring, std::function<void()> change) {
  changed_.set(ring);
  changes_.push_back(std::move(change));
}

void VhostSession::later_for_all(std::function<void()> change) {
  changed_.set();
  changes_.push_back(std::move(change));
}

// Mapping and allocating were done before the workers pause; closing and unmapping are done after (D7).
bool VhostSession::apply(VringControl::Patience patience) {
  if (ended_) {
    return stop_for_good(patience);
  }
  if (changes_.empty()) {
    retired_fds_.clear();  // no worker had them
    return true;
  }
  const bool done = control_.quiesce(changed_, patience, [this] {
    for (const auto& change : changes_) {
      change();
    }
  });
  if (done) {
    changes_.clear();
    changed_.reset();
    retired_fds_.clear();
    retired_memory_.clear();
  }
  return done;
}

VhostSession::Outcome VhostSession::handle(VhostMessage& message) {
  SLUICE_CHECK(!pending_, "memory is still to be populated");
  Verdict verdict;
  verdict.fault = judge_message(message);
  if (verdict.fault == VhostFault::kNone) {
    verdict = dispatch(message);
  } else {
    verdict.sentence = fmt::format("{} bytes, {} descriptors", message.header.bytes, message.fds.size());
  }
  if (pending_) {
    pending_->header = message.header;
    Outcome outcome;
    outcome.waits = true;
    return outcome;
  }
  return conclude(message.header, std::move(verdict));
}

VhostSession::Outcome VhostSession::finish_memory(Result<void> populated) {
  SLUICE_CHECK(pending_, "no memory is to be populated");
  Pending pending = std::move(*pending_);
  pending_.reset();
  return conclude(pending.header, populated ? use_memory(std::move(pending.table))
                                            : no(VhostFault::kPopulate, "{}", populated.error().message));
}

VhostSession::Outcome VhostSession::conclude(const vhost_user_header& header, Verdict verdict) const {
  const VhostRow* row = find_row(header.request);
  const bool replies = row != nullptr && row->reply == VhostRow::Reply::kOwn;
  const bool asked = (header.flags & VHOST_USER_NEED_REPLY) != 0;
  Outcome outcome{.fault = verdict.fault, .sentence = {}, .reply = {}, .close = false, .base_of = {}};
  if (verdict.fault == VhostFault::kNone) {
    if (replies || asked) {
      outcome.reply = payload_of(replies ? verdict.value : 0);
      outcome.base_of = verdict.base_of;
    }
    return outcome;
  }
  outcome.sentence =
      fmt::format("{} ({}): {}", row == nullptr ? "unknown" : row->name, header.request, verdict.sentence);
  // Who waits for a reply of the request's own cannot be told "no".
  const bool told = asked && !replies;
  if (told) {
    outcome.reply = payload_of(1);
  }
  outcome.close = replies || is_syntax(verdict.fault) || (!told && ends_the_connection(verdict.fault));
  return outcome;
}

VhostSession::Verdict VhostSession::dispatch(VhostMessage& message) {
  switch (message.header.request) {
    case VHOST_USER_GET_FEATURES:
      return {.value = offered_};
    case VHOST_USER_SET_FEATURES:
      return set_features(message.as<std::uint64_t>());
    case VHOST_USER_GET_PROTOCOL_FEATURES:
      return {.value = offered_protocol_features()};
    case VHOST_USER_SET_PROTOCOL_FEATURES:
      return set_protocol_features(message.as<std::uint64_t>());
    case VHOST_USER_GET_QUEUE_NUM:
      return {.value = queue_pairs_};
    case VHOST_USER_GET_MAX_MEM_SLOTS:
      return {.value = kMaxGuestRegions};
    case VHOST_USER_SET_OWNER:  // one session has one owner anyway
    case VHOST_USER_SEND_RARP:  // switches learn nothing from us: our table of addresses is the config's
      return {};
    case VHOST_USER_RESET_OWNER:
      disable_all();
      return {};
    case VHOST_USER_RESET_DEVICE:
      reset_device();
      return {};
    case VHOST_USER_GET_STATUS:
      return {.value = status_};
    case VHOST_USER_SET_STATUS:
      return set_status(message.as<std::uint64_t>());
    case VHOST_USER_NET_SET_MTU: {
      std::uint64_t mtu = message.as<std::uint64_t>();
      return mtu >= kMinMtu && mtu <= kMaxMtu ? Verdict{} : no(VhostFault::kValue, "an MTU of {}", mtu);
    }
    case VHOST_USER_SET_MEM_TABLE:
      return set_mem_table(message);
    case VHOST_USER_ADD_MEM_REG:
      return take_memory(
          table_with(*memory_, message.as<vhost_user_mem_reg>().region, message.fds.front(), policy_, loss_));
    case VHOST_USER_REM_MEM_REG:
      return take_memory(table_without(*memory_, message.as<vhost_user_mem_reg>().region));
    default:
      return dispatch_ring(message);
  }
}

// ---- features and status

VhostSession::Verdict VhostSession::set_features(std::uint64_t bits) {
  if ((bits & ~offered_) != 0) {
    return no(VhostFault::kFeatures, "bits {:#x} were not offered", bits & ~offered_);
  }
  if ((bits & kFeatureRingPacked) != 0 && (bits & kFeatureVersion1) == 0) {
    return no(VhostFault::kFeatures, "packed rings without VERSION_1");
  }
  if (bits != features_ && any_running()) {
    return no(VhostFault::kFeatures, "other features while rings run");
  }
  features_ = bits;
  speaks_protocol_ = speaks_protocol_ || (bits & kFeatureProtocol) != 0;
  return start_complete(0, ring_count());
}

VhostSession::Verdict VhostSession::set_protocol_features(std::uint64_t bits) {
  if ((bits & ~offered_protocol_features()) != 0) {
    return no(VhostFault::kFeatures, "protocol bits {:#x} were not offered",
              bits & ~offered_protocol_features());
  }
  protocol_features_ = bits;
  // Front-ends there are that use these and do not acknowledge the bit that stands for them.
  speaks_protocol_ = true;
  return {};
}

VhostSession::Verdict VhostSession::set_status(std::uint64_t status) {
  if (status == 0) {
    reset_device();
    return {};
  }
  if (status > 0xff || (status_ & ~status) != 0) {
    return no(VhostFault::kStatus, "from {:#x} to {:#x}", status_, status);
  }
  if ((status & VHOST_USER_STATUS_DRIVER_OK) != 0 && (status & VHOST_USER_STATUS_FEATURES_OK) == 0) {
    return no(VhostFault::kStatus, "DRIVER_OK without FEATURES_OK");
  }
  status_ = static_cast<std::uint8_t>(status);
  return start_complete(0, ring_count());
}

// Virtio's reset: rings are as if never set up. Memory, features and descriptors for calls stay: front-ends
// send only what has changed of the first, and calls before they send features.
void VhostSession::reset_device() {
  stop_all();
  for (Ring& ring : rings_) {
    PeerFd call = std::move(ring.call);
    retired_fds_.push_back(std::move(ring.kick));
    ring = Ring{};
    ring.call = std::move(call);
  }
  status_ = 0;
}

// ---- memory

VhostSession::Verdict VhostSession::set_mem_table(const VhostMessage& message) {
  vhost_user_mem_table table = message.as<vhost_user_mem_table>();  // behind what was sent there are zeroes
  return take_memory(
      make_table(std::span(table.regions).first(table.region_count), message.fds, policy_, loss_));
}

VhostSession::Verdict VhostSession::take_memory(MadeTable made) {
  if (!made) {
    return no(made.error().fault, "{}", made.error().sentence);
  }
  const auto is_populated = [](const GuestRegion& region) { return region.mapping->populated; };
  if (policy_.populate && !std::ranges::all_of((*made)->regions(), is_populated)) {
    pending_.emplace(Pending{.table = std::move(*made), .header = {}});
    return {};
  }
  return use_memory(std::move(*made));
}

VhostSession::Verdict VhostSession::use_memory(MemoryTable table) {
  swap_memory(std::move(table));
  // A ring that found no place in it is not this message's fault.
  (void)start_complete(0, ring_count());
  return {};
}

// The rings that run go on in the new table from where they stood; one whose place is gone stops. Mapping was
// done before the workers pause, unmapping is done after.
void VhostSession::swap_memory(MemoryTable next) {
  std::vector<std::pair<std::uint32_t, std::optional<VringSetup>>> moves;
  for (std::uint32_t i = 0; i < ring_count(); ++i) {
    Ring& ring = rings_[i];
    if (!ring.running) {
      continue;
    }
    auto setup = setup_of(ring, *next);
    moves.emplace_back(i, setup ? std::optional(*setup) : std::nullopt);
    ring.running = setup.has_value();
    ring.base_follows = true;
  }
  std::vector<bool> carrying;
  for (const auto& [index, setup] : moves) {
    carrying.push_back(carries(rings_[index]));
  }
  later_for_all([this, next, moves, carrying] {
    std::vector<VringBase> stood;
    for (const auto& [index, setup] : moves) {
      stood.push_back(stop_now(index));
    }
    control_.set_memory(next);
    for (std::size_t i = 0; i < moves.size(); ++i) {
      auto [index, setup] = moves[i];
      if (setup) {
        setup->base = stood[i];
        control_.start_ring(index, *setup);
        control_.enable_ring(index, carrying[i]);
      }
    }
  });
  retired_memory_.push_back(std::exchange(memory_, std::move(next)));
}

}  // namespace sluice
