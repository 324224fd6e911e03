// The ends of traffic that are not Sluice's: the kernel's sockets behind the NIC, and the wire.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <thread>

#include "base/fd.h"
#include "test/support/frame.h"
#include "test/support/net_ns.h"
#include "test/system/tally.h"

namespace sluice::test {

// A UDP socket; `port` 0: any.
UniqueFd udp_socket(const NetNs& ns, const std::string& ip, std::uint16_t port);

// Everything that the kernel's stack sees arrive at a link, by a packet socket: on the NIC's end, what Sluice
// left to the kernel; on the wire's end, what the NIC has sent.
class Tap {
 public:
  Tap(const NetNs& ns, int ifindex);
  Frame next();                                             // empty: none now
  std::uint64_t count_udp_to(std::uint16_t udp_port);       // of what is there now; the rest is thrown away
  bool send(std::span<const std::byte> frame, int& error);  // out of this link, as it is

 private:
  UniqueFd fd_;
  int ifindex_;
};

// A program on the kernel's stack that receives numbered datagrams (LiveFrames), on a thread of its own.
class KernelReceiver {
 public:
  KernelReceiver(const NetNs& ns, const std::string& ip, std::uint16_t port, std::uint64_t window);
  ~KernelReceiver();
  std::uint64_t received() const { return received_; }
  const std::atomic<std::uint64_t>* allowed() const { return &allowed_; }
  void expect_all_once(std::uint64_t sequences);  // waits for them

 private:
  UniqueFd socket_;
  Tally tally_;
  std::uint64_t window_;
  std::atomic<std::uint64_t> received_{0}, allowed_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

// Bytes by TCP from one namespace to another, on threads of their own. What the receiver allows to be on its
// way is so little that it never fills a veth. True: all of them came as they were sent.
class TcpTransfer {
 public:
  TcpTransfer(const NetNs& from, const NetNs& to, const std::string& to_ip, std::uint64_t bytes);
  ~TcpTransfer();
  bool finish();  // waits for its end

 private:
  std::thread sender_, receiver_;
  std::atomic<bool> intact_{false};
};

}  // namespace sluice::test
