// The front-end of vhost-user, as QEMU and DPDK play it, for tests, fuzzers and benches: speaks well, or
// sends any bytes with any descriptors in any pieces.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "abi/vhost_user.h"
#include "base/fd.h"

namespace sluice::test {

inline constexpr std::uint64_t kFrontEndDeadlineNs = 20'000'000'000;

// A piece of a guest's memory: a memfd that is mapped here too.
class GuestRam {
 public:
  // Where `bytes` of it begin: for the guest, at `guest_address`; for the front-end, where it is mapped here.
  explicit GuestRam(std::uint64_t bytes, std::uint64_t guest_address = 0x100000);

  int fd() const { return file_.get(); }
  std::byte* data() const { return mapping_.data(); }
  std::uint64_t bytes() const { return mapping_.bytes(); }
  std::uint64_t guest_address() const { return guest_address_; }
  vhost_user_region region() const;
  // The next `bytes` that nobody has, aligned; never given back.
  std::byte* allocate(std::uint64_t bytes, std::uint64_t align);
  std::uint64_t guest_address_of(const std::byte* pointer) const;

 private:
  UniqueFd file_;
  Mapping mapping_;
  std::uint64_t guest_address_;
  std::uint64_t next_ = 0;
};

// The areas of one virtqueue in a guest's memory, zeroed.
struct RingAreas {
  std::byte* descriptors = nullptr;
  std::byte* driver_area = nullptr;
  std::byte* device_area = nullptr;
  static RingAreas split(GuestRam& ram, std::uint32_t entries);
  static RingAreas packed(GuestRam& ram, std::uint32_t entries);
};

struct BackEndReply {
  vhost_user_header header{};
  std::array<std::byte, 264> payload{};
  std::uint64_t u64() const;
  vhost_user_vring_state state() const;
};

class FrontEnd {
 public:
  // `turn` runs the back-end a little, where it lives on this thread; it is called while waiting.
  using Turn = std::function<void()>;
  explicit FrontEnd(UniqueFd socket, Turn turn = {});
  // Connects; one that is not connected when nobody listens.
  static FrontEnd connect(const std::string& path, Turn turn = {});
  // Listens at `path` as QEMU's server=on does, and waits for the back-end.
  static FrontEnd accept_at(const std::string& path, Turn turn = {});

  bool connected() const { return static_cast<bool>(socket_); }
  int fd() const { return socket_.get(); }
  void close() { socket_.reset(); }

  // --- any bytes ---
  // One sendmsg(2), repeated while the socket is full. False: the other end is gone.
  bool send_bytes(std::span<const std::byte> bytes, std::span<const int> fds = {});
  // Byte by byte, the descriptors with the first one, the back-end's turn after each.
  bool send_slowly(std::span<const std::byte> bytes, std::span<const int> fds = {});
  static std::vector<std::byte> bytes_of(std::uint32_t request, std::span<const std::byte> payload,
                                         std::uint32_t flags = VHOST_USER_VERSION);

  // --- messages ---
  bool send(std::uint32_t request, std::span<const std::byte> payload, std::span<const int> fds = {},
            std::uint32_t flags = VHOST_USER_VERSION);
  template <typename T>
  bool send(std::uint32_t request, const T& payload, std::span<const int> fds = {},
            std::uint32_t flags = VHOST_USER_VERSION)
    requires(std::is_trivially_copyable_v<T> && !std::is_convertible_v<T, std::span<const std::byte>>)
  {
    return send(request, std::as_bytes(std::span(&payload, 1)), fds, flags);
  }
  bool send_table(std::span<const GuestRam* const> rams, std::uint32_t flags = VHOST_USER_VERSION);

  // Waits for one answer; none when the connection ends or the deadline passes.
  std::optional<BackEndReply> read_reply();
  // Whether an answer is there now.
  bool has_reply();
  // Sends, waits, and returns the answer's u64; none when the connection ended instead.
  std::optional<std::uint64_t> ask(std::uint32_t request) {
    return ask_bytes(request, {}, {}, VHOST_USER_VERSION);
  }
  std::optional<std::uint64_t> ask_bytes(std::uint32_t request, std::span<const std::byte> payload,
                                         std::span<const int> fds, std::uint32_t flags);
  // The same with NEED_REPLY: 0 is success.
  template <typename T>
  std::optional<std::uint64_t> tell(std::uint32_t request, const T& payload, std::span<const int> fds = {}) {
    return ask_bytes(request, std::as_bytes(std::span(&payload, 1)), fds,
                     VHOST_USER_VERSION | VHOST_USER_NEED_REPLY);
  }
  // Waits until the other end has closed; false after the deadline.
  bool wait_closed();
  // A round trip: everything that was sent before has been read when this returns true.
  bool barrier() { return ask(VHOST_USER_GET_FEATURES).has_value(); }

  // --- the usual course of things ---
  // Features, protocol features, owner. Returns what was offered.
  std::uint64_t negotiate(std::uint64_t features, std::uint64_t protocol_features);
  // Size, base, place, kick and call of a ring, in QEMU's order. -1: none.
  void set_up_ring(std::uint32_t index, std::uint32_t entries, const RingAreas& areas, std::uint32_t base,
                   int kick, int call);
  void enable(std::uint32_t index, bool on);
  std::optional<vhost_user_vring_state> stop_ring(std::uint32_t index);

 private:
  bool wait_for(short events);

  UniqueFd socket_;
  Turn turn_;
};

vhost_user_vring_addr place_of(std::uint32_t index, const RingAreas& areas);

}  // namespace sluice::test
