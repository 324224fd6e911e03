// The part of a session that is about its rings.
#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "base/untrusted.h"
#include "port/guest/vhost_user/features.h"
#include "port/guest/vhost_user/session.h"

namespace sluice {

namespace {

// virtio 1.2, 2.7 and 2.8: what each area of a ring takes, and what its address is a multiple of.
struct Areas {
  std::uint64_t descriptor_bytes, driver_bytes, device_bytes;
  std::uint64_t descriptor_align, driver_align, device_align;
};

Areas areas_of(bool packed, bool event_idx, std::uint64_t entries) {
  if (packed) {
    return {16 * entries, 4, 4, 16, 4, 4};
  }
  const std::uint64_t event = event_idx ? 2 : 0;
  return {16 * entries, 4 + 2 * entries + event, 4 + 8 * entries + event, 16, 2, 4};
}

bool is_aligned(const std::byte* pointer, std::uint64_t to) {
  return reinterpret_cast<std::uintptr_t>(pointer) % to == 0;
}

// How a position travels in SET_ and GET_VRING_BASE: split, the available index alone; packed, the available
// position and wrap counter in the low half, those of used in the high half.
std::uint32_t base_word(const VringBase& base, bool packed) {
  return packed ? base.avail | std::uint32_t{base.used} << 16 : base.avail;
}

constexpr std::uint16_t kPackedPosition = 0x7fff;
constexpr std::uint16_t kPackedStart = 0x8000;  // position 0, wrap counter 1

// What the data half is told of a descriptor for kicks or calls.
int event_of(const PeerFd& fd) {
  return fd.is_eventfd() ? fd.get() : fd.kind() == PeerFd::Kind::kNone ? -1 : kNotAnEventfd;
}

}  // namespace

bool VhostSession::packed() const {
  return (features_ & kFeatureRingPacked) != 0;
}

bool VhostSession::any_running() const {
  return std::any_of(rings_.begin(), rings_.end(), [](const Ring& ring) { return ring.running; });
}

bool VhostSession::carries(const Ring& ring) const {
  return ring.enabled.value_or(!speaks_protocol_);
}

bool VhostSession::receives() const {
  for (std::size_t i = 0; i < rings_.size(); i += 2) {
    if (rings_[i].running && carries(rings_[i])) {
      return true;
    }
  }
  return false;
}

VhostSession::RingInfo VhostSession::ring(std::uint32_t index) const {
  const Ring& ring = rings_[index];
  return {.entries = ring.entries, .running = ring.running, .enabled = carries(ring)};
}

VhostSession::Verdict VhostSession::dispatch_ring(VhostMessage& message) {
  if (message.header.request == VHOST_USER_SET_VRING_ADDR) {
    auto place = message.as<vhost_user_vring_addr>();
    return place.index < rings_.size() ? set_place(place) : no(VhostFault::kIndex, "ring {}", place.index);
  }
  auto state = message.as<vhost_user_vring_state>();
  const std::uint32_t request = message.header.request;
  if (request == VHOST_USER_SET_VRING_KICK || request == VHOST_USER_SET_VRING_CALL ||
      request == VHOST_USER_SET_VRING_ERR) {
    state.index = static_cast<std::uint32_t>(message.as<std::uint64_t>() & VHOST_USER_VRING_INDEX_MASK);
  }
  if (state.index >= rings_.size()) {
    return no(VhostFault::kIndex, "ring {}", state.index);
  }
  PeerFd fd = message.fds.empty() ? PeerFd() : std::move(message.fds.front());
  switch (request) {
    case VHOST_USER_SET_VRING_NUM:
      return set_entries(state.index, state.value);
    case VHOST_USER_SET_VRING_BASE:
      return set_base(state.index, state.value);
    case VHOST_USER_GET_VRING_BASE:
      return get_base(state.index);
    case VHOST_USER_SET_VRING_KICK:
      return set_kick(state.index, std::move(fd));
    case VHOST_USER_SET_VRING_CALL:
      return set_call(state.index, std::move(fd));
    case VHOST_USER_SET_VRING_ERR:  // nobody needs to be told: the ring's state is shown and counted
      return {};
    case VHOST_USER_SET_VRING_ENABLE:
      return enable(state.index, state.value);
    default:
      return no(VhostFault::kUnknown, "not served");
  }
}

// ---- setting up

VhostSession::Verdict VhostSession::set_entries(std::uint32_t index, std::uint32_t entries) {
  if (rings_[index].running) {
    return no(VhostFault::kRunning, "ring {} runs", index);
  }
  if (entries == 0 || entries > kMaxVringEntries ||
      (features_ != 0 && !packed() && !std::has_single_bit(entries))) {
    return no(VhostFault::kRing, "ring {} of {} entries", index, entries);
  }
  rings_[index].entries = static_cast<std::uint16_t>(entries);
  return {};
}

VhostSession::Verdict VhostSession::set_place(const vhost_user_vring_addr& place) {
  Ring& ring = rings_[place.index];
  if (ring.running) {
    return no(VhostFault::kRunning, "ring {} runs", place.index);
  }
  if ((place.flags & 1) != 0) {
    return no(VhostFault::kNotOffered, "ring {}: logging of writes", place.index);
  }
  const Areas areas = areas_of(packed(), false, 1);
  if (place.descriptors % areas.descriptor_align != 0 || place.driver_area % areas.driver_align != 0 ||
      place.device_area % areas.device_align != 0) {
    return no(VhostFault::kRing, "ring {} is not aligned", place.index);
  }
  ring.place = place;
  return start_complete(place.index, 1);
}

VhostSession::Verdict VhostSession::set_base(std::uint32_t index, std::uint32_t word) {
  Ring& ring = rings_[index];
  if (ring.running) {
    return no(VhostFault::kRunning, "ring {} runs", index);
  }
  if (!packed() && word > 0xffff) {
    return no(VhostFault::kRing, "ring {}: a base of {:#x}", index, word);
  }
  auto avail = static_cast<std::uint16_t>(word);
  auto used = static_cast<std::uint16_t>(word >> 16);
  if (packed()) {
    // Front-ends that know one position only (DPDK) send no upper half: then both are the same. Where they
    // differ, buffers were taken and not given back: begin with those, or they are lost to the guest.
    avail = used != 0 ? used : avail;
    if (ring.entries != 0 && (avail & kPackedPosition) >= ring.entries) {
      return no(VhostFault::kRing, "ring {}: a base of {:#x} of {} entries", index, word, ring.entries);
    }
  }
  ring.base = {.avail = avail, .used = avail};
  ring.base_follows = false;
  return {};
}

// A descriptor that was there before is closed only when no worker knows it any more.
VhostSession::Verdict VhostSession::set_kick(std::uint32_t index, PeerFd fd) {
  Ring& ring = rings_[index];
  ring.has_kick = true;
  retired_fds_.push_back(std::exchange(ring.kick, std::move(fd)));
  if (ring.running) {
    later(index, [this, index, kick = event_of(ring.kick)] { control_.set_kick_fd(index, kick); });
    return {};
  }
  return start_complete(index, 1);
}

VhostSession::Verdict VhostSession::set_call(std::uint32_t index, PeerFd fd) {
  Ring& ring = rings_[index];
  retired_fds_.push_back(std::exchange(ring.call, std::move(fd)));
  if (ring.running) {
    later(index, [this, index, call = event_of(ring.call)] { control_.set_call_fd(index, call); });
  }
  return {};
}

VhostSession::Verdict VhostSession::enable(std::uint32_t index, std::uint32_t on) {
  if (on > 1) {
    return no(VhostFault::kValue, "ring {}: enable {}", index, on);
  }
  Ring& ring = rings_[index];
  const bool before = carries(ring);
  ring.enabled = on != 0;
  if (ring.running && carries(ring) != before) {
    later(index, [this, index, on] { control_.enable_ring(index, on != 0); });
  }
  return {};
}

void VhostSession::disable_all() {
  for (std::uint32_t i = 0; i < ring_count(); ++i) {
    rings_[i].enabled = false;
    if (rings_[i].running) {
      later(i, [this, i] { control_.enable_ring(i, false); });
    }
  }
}

// ---- starting and stopping

// The specification's way to stop a ring. It starts again with the next SET_VRING_KICK.
VhostSession::Verdict VhostSession::get_base(std::uint32_t index) {
  Ring& ring = rings_[index];
  if (std::exchange(ring.running, false)) {
    ring.base_follows = true;
    later(index, [this, index] { stop_now(index); });  // D7
  }
  ring.has_kick = false;
  retired_fds_.push_back(std::move(ring.kick));
  Verdict verdict;
  verdict.base_of = index;
  return verdict;
}

VringBase VhostSession::stop_now(std::uint32_t index) {
  const VringBase base = control_.stop_ring(index);
  if (std::exchange(rings_[index].base_follows, false)) {
    rings_[index].base = base;
  }
  return base;
}

void VhostSession::complete(Outcome& outcome) const {
  if (outcome.base_of && outcome.reply) {
    const std::uint32_t index = *outcome.base_of;
    const vhost_user_vring_state answer{.index = index, .value = base_word(rings_[index].base, packed())};
    static_assert(sizeof(answer) == sizeof(Payload));
    std::memcpy(outcome.reply->data(), &answer, sizeof(answer));
  }
}

void VhostSession::stop_all() {
  for (std::uint32_t i = 0; i < ring_count(); ++i) {
    if (std::exchange(rings_[i].running, false)) {
      rings_[i].base_follows = true;
      later(i, [this, i] { stop_now(i); });
    }
  }
}

bool VhostSession::complete(const Ring& ring) const {
  const bool needs_driver_ok = (protocol_features_ & 1ull << VHOST_USER_PROTOCOL_F_STATUS) != 0;
  return ring.entries != 0 && ring.place && ring.has_kick && !memory_->regions().empty() &&
         (!needs_driver_ok || (status_ & VHOST_USER_STATUS_DRIVER_OK) != 0);
}

Result<VringSetup> VhostSession::setup_of(const Ring& ring, const GuestMemory& memory) const {
  if ((features_ & kFeatureVersion1) == 0) {
    return fail("the driver speaks virtio before version 1, which has another packet header");
  }
  if (!packed() && !std::has_single_bit(ring.entries)) {
    return fail("a split ring of {} entries", ring.entries);
  }
  if (packed() && (ring.base.avail & kPackedPosition) >= ring.entries) {
    return fail("a base of {:#x} of {} entries", ring.base.avail, ring.entries);
  }
  const Areas areas = areas_of(packed(), (features_ & kFeatureEventIdx) != 0, ring.entries);
  VringSetup setup{.format = packed() ? VringFormat::kPacked : VringFormat::kSplit,
                   .entries = ring.entries,
                   .features = features_,
                   .descriptors = memory.at_user(ring.place->descriptors, areas.descriptor_bytes),
                   .driver_area = memory.at_user(ring.place->driver_area, areas.driver_bytes),
                   .device_area = memory.at_user(ring.place->device_area, areas.device_bytes),
                   .base = ring.base,
                   .kick_fd = event_of(ring.kick),
                   .call_fd = event_of(ring.call)};
  if (setup.descriptors == nullptr || setup.driver_area == nullptr || setup.device_area == nullptr) {
    return fail("its place is not in the guest's memory");
  }
  // The mapping may stand at an offset of the file that is not the address's: look at our own pointers.
  if (!is_aligned(setup.descriptors, areas.descriptor_align) ||
      !is_aligned(setup.driver_area, areas.driver_align) ||
      !is_aligned(setup.device_area, areas.device_align)) {
    return fail("it is not aligned where it is mapped");
  }
  return setup;
}

// Where the ring begins is known only now: changes collected before this one may have stopped it.
void VhostSession::start_now(std::uint32_t index, VringSetup setup, bool enabled) {
  Ring& ring = rings_[index];
  setup.base = ring.base;
  if (setup.format == VringFormat::kSplit) {
    setup.base.in_memory = true;
  } else if ((setup.base.avail & kPackedPosition) >= setup.entries) {
    setup.base = {.avail = kPackedStart, .used = kPackedStart};  // stopped where a larger ring stood
  }
  ring.base = setup.base;
  control_.start_ring(index, setup);
  control_.enable_ring(index, enabled);
}

VhostSession::Verdict VhostSession::start_complete(std::uint32_t first, std::uint32_t count) {
  Verdict verdict;
  for (std::uint32_t i = first; i < first + count; ++i) {
    if (rings_[i].running || !complete(rings_[i])) {
      continue;
    }
    auto setup = setup_of(rings_[i], *memory_);
    if (!setup) {
      verdict = no(VhostFault::kRing, "ring {} is not started: {}", i, setup.error().message);
      continue;
    }
    rings_[i].running = true;
    later(i, [this, i, setup = *setup, on = carries(rings_[i])] { start_now(i, setup, on); });
  }
  return verdict;
}

}  // namespace sluice
