#include "bench/attacker_guest.h"

#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "base/untrusted.h"
#include "bench/attackers.h"
#include "port/guest/vhost_user/features.h"
#include "port/guest/virtio/ring/ring_layout.h"

namespace sluice::bench {

namespace {
constexpr std::uint32_t kHeaderBytes = 12;  // of virtio-net 1.0
constexpr std::uint32_t kPieceBytes = 5;
constexpr std::uint64_t kFeatures = kFeatureVersion1 | kFeatureProtocol | 1ull << VIRTIO_RING_F_INDIRECT_DESC;
constexpr std::uint64_t kProtocol = 1ull << VHOST_USER_PROTOCOL_F_REPLY_ACK;

test::Frame frame_to(const test::Mac& to, std::size_t bytes) {
  test::UdpFrame udp;
  udp.destination = to;
  udp.source = kAttackerMac;
  udp.frame_bytes = bytes;
  return test::udp_frame(udp);
}
}  // namespace

// ---- a ring

AttackerRing::AttackerRing(std::uint32_t index, test::GuestRam& ram)
    : index_(index),
      areas_(test::RingAreas::split(ram, kAttackerEntries)),
      kick_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

void AttackerRing::write(std::uint16_t i, GuestSegment what, std::uint16_t flags) {
  const vring_desc descriptor{.addr = what.address, .len = what.bytes, .flags = flags, .next = 0};
  std::memcpy(areas_.descriptors + sizeof descriptor * i, &descriptor, sizeof descriptor);
  std::memcpy(areas_.driver_area + 4 + 2 * std::size_t{i}, &i, sizeof i);
}

void AttackerRing::set(std::uint16_t i, GuestSegment buffer, bool device_writes) {
  write(i, buffer, device_writes ? std::uint16_t{VRING_DESC_F_WRITE} : std::uint16_t{0});
}

void AttackerRing::set_table(std::uint16_t i, GuestSegment table, bool device_writes) {
  write(i, table,
        device_writes ? std::uint16_t{VRING_DESC_F_INDIRECT | VRING_DESC_F_WRITE}
                      : std::uint16_t{VRING_DESC_F_INDIRECT});
}

std::uint32_t AttackerRing::refill() {
  auto& available = *reinterpret_cast<std::uint16_t*>(areas_.driver_area + 2);
  auto& used = *reinterpret_cast<std::uint16_t*>(areas_.device_area + 2);
  const auto seen = read_once(used, std::memory_order_acquire);
  write_once(available, static_cast<std::uint16_t>(seen + kAttackerEntries), std::memory_order_release);
  const auto came = static_cast<std::uint16_t>(seen - seen_);
  seen_ = seen;
  return came;
}

void AttackerRing::kick() {
  const std::uint64_t one = 1;
  (void)!::write(kick_.get(), &one, sizeof one);
}

// ---- a guest

AttackerGuest::AttackerGuest(const std::string& socket, std::uint64_t memory_bytes)
    : ram_(memory_bytes), front_(test::FrontEnd::connect(socket)) {
  if (!front_.connected()) {
    throw std::runtime_error("nobody listens");
  }
  front_.negotiate(kFeatures, kProtocol);
  if (!send_memory()) {
    throw std::runtime_error("cut off");
  }
}

AttackerRing& AttackerGuest::add_ring(std::uint32_t index) {
  return rings_.emplace_back(index, ram_);
}

void AttackerGuest::start() {
  for (AttackerRing& ring : rings_) {
    front_.set_up_ring(ring.index(), kAttackerEntries, ring.areas(), 0, ring.kick_fd(), call_);
    front_.enable(ring.index(), true);
  }
  if (!front_.barrier()) {
    throw std::runtime_error("cut off");
  }
  for (AttackerRing& ring : rings_) {
    (void)ring.refill();
    ring.kick();
  }
}

std::uint64_t AttackerGuest::reserve(std::uint64_t bytes) {
  return static_cast<std::uint64_t>(ram_.allocate(bytes, 4096) - ram_.data());
}

GuestSegment AttackerGuest::room(std::uint32_t bytes) {
  return {ram_.guest_address_of(ram_.allocate(bytes, 64)), bytes};
}

GuestSegment AttackerGuest::good_frame(const test::Mac& to) {
  const test::Frame frame = frame_to(to, 60);
  const auto bytes = static_cast<std::uint32_t>(kHeaderBytes + frame.size());
  std::byte* place = ram_.allocate(bytes, 64);
  std::memcpy(place + kHeaderBytes, frame.data(), frame.size());
  return {ram_.guest_address_of(place), bytes};
}

GuestSegment AttackerGuest::table(const test::Mac& to, bool good) {
  const test::Frame frame = frame_to(to, kTablePieces * kPieceBytes - kHeaderBytes);
  std::byte* whole = ram_.allocate(kTablePieces * kPieceBytes, 64);
  std::memcpy(whole + kHeaderBytes, frame.data(), frame.size());
  std::byte* place = ram_.allocate(kTablePieces * sizeof(vring_desc), 64);
  for (std::uint32_t i = 0; i < kTablePieces; ++i) {
    const bool last = i + 1 == kTablePieces;
    const vring_desc piece{
        .addr = last && !good ? nowhere().address : ram_.guest_address_of(whole + i * kPieceBytes),
        .len = kPieceBytes,
        .flags = last ? std::uint16_t{0} : std::uint16_t{VRING_DESC_F_NEXT},
        .next = last ? std::uint16_t{0} : static_cast<std::uint16_t>(i + 1)};
    std::memcpy(place + i * sizeof piece, &piece, sizeof piece);
  }
  return {ram_.guest_address_of(place), kTablePieces * static_cast<std::uint32_t>(sizeof(vring_desc))};
}

bool AttackerGuest::send_memory() {
  const test::GuestRam* rams[] = {&ram_};
  return front_.send_table(rams);
}

bool AttackerGuest::connected() {
  std::byte byte;
  const ssize_t got = ::recv(front_.fd(), &byte, 1, MSG_DONTWAIT | MSG_PEEK);
  return got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR));
}

}  // namespace sluice::bench
