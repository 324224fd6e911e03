// Port: the public face of PortState.
#include <algorithm>
#include <cerrno>

#include "port_state.h"

using sluice::client::PortState;

namespace sluice::inline v1 {

Expected<Port> Port::attach(std::string_view name_or_path, const AttachOptions& options) {
  auto path = client::socket_path(name_or_path);
  if (!path) {
    return path.error();
  }
  if (options.timeout.count() <= 0) {
    return Error{ErrorCode::kInvalid, "the timeout for attaching must be positive"};
  }
  const auto timeout_ns = static_cast<std::uint64_t>(std::chrono::nanoseconds(options.timeout).count());
  auto attachment = std::make_shared<client::Attachment>(
      std::move(*path), options.client_name.empty() ? program_invocation_short_name : options.client_name,
      timeout_ns, options.reattach, std::uint64_t{options.spin_us} * 1000);
  auto state = PortState::create(attachment, 0, 1);
  if (!state) {
    return state.error();
  }
  auto session = attachment->attach();
  if (!session) {
    return session.error();
  }
  if (auto joined = (*state)->join(std::move(*session)); !joined) {
    return joined.error();
  }
  return Port(std::move(*state));
}

Port::Port(std::unique_ptr<PortState> state) noexcept : state_(std::move(state)) {}
Port::Port(Port&&) noexcept = default;
Port& Port::operator=(Port&&) noexcept = default;
Port::~Port() = default;

Expected<std::vector<Port>> Port::split(std::size_t parts) && {
  auto states = state_->split(parts);
  if (!states) {
    return states.error();
  }
  state_.reset();
  std::vector<Port> ports;
  for (auto& state : *states) {
    ports.push_back(Port(std::move(state)));
  }
  return ports;
}

// A Packet is a sluice_packet with an owner's manners, and nothing else: an array of one is an array of the
// other.
static_assert(sizeof(Packet) == sizeof(sluice_packet) && std::is_standard_layout_v<Packet>);

namespace {
sluice_packet* raw(std::span<Packet> packets) {
  return reinterpret_cast<sluice_packet*>(packets.data());
}
}  // namespace

std::size_t Port::receive(std::span<Packet> packets) noexcept {
  release(packets);
  return state_->receive(raw(packets), packets.size());
}

std::size_t Port::receive_for(std::span<Packet> packets, std::chrono::nanoseconds timeout) noexcept {
  release(packets);
  return state_->receive_for(raw(packets), packets.size(), timeout.count());
}

void Port::release(std::span<Packet> packets) noexcept {
  sluice_release(raw(packets), packets.size());
}
void Port::flush() noexcept {
  state_->flush();
}
int Port::fd() const noexcept {
  return state_->fd();
}
bool Port::arm() noexcept {
  return state_->arm();
}
void Port::disarm() noexcept {
  state_->disarm();
}

std::size_t Port::send(std::span<const std::span<const std::byte>> frames) noexcept {
  return state_->send(frames.size(),
                      [&](std::size_t i) { return std::pair(frames[i].data(), frames[i].size()); });
}
std::size_t Port::reserve(std::span<Frame> frames) noexcept {
  return state_->reserve(frames.data(), frames.size());
}
std::size_t Port::commit(std::span<const Frame> frames) noexcept {
  return state_->commit(frames.data(), frames.size());
}

bool Port::attached() const noexcept {
  return state_->attached();
}
Info Port::info() const noexcept {
  return state_->info();
}
Counters Port::counters() const noexcept {
  return state_->counters();
}
std::string Port::last_error() const {
  return state_->last_error();
}

}  // namespace sluice::inline v1
