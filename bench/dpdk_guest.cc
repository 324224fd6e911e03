// With DPDK's own flags; see bench/CMakeLists.txt.
#include "bench/dpdk_guest.h"

#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>
#include <sched.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

namespace sluice::bench {

namespace {

constexpr unsigned kMbufs = 8191, kCache = 250;
constexpr std::uint16_t kBurst = 64;

Result<void> start_eal(bool huge_pages) {
  static bool started = false;
  if (started) {
    return {};
  }
  std::vector<std::string> words = {"guest_bench",
                                    "--no-pci",
                                    "--no-telemetry",
                                    "--log-level=error",
                                    "--lcores",
                                    "0@" + std::to_string(::sched_getcpu()),
                                    "-m",
                                    "128"};
  if (huge_pages) {
    words.insert(words.end(), {"--in-memory", "--single-file-segments"});
  } else {
    words.insert(words.end(), {"--no-huge", "--no-shconf"});
  }
  std::vector<char*> arguments;
  for (std::string& word : words) {
    arguments.push_back(word.data());
  }
  if (::rte_eal_init(static_cast<int>(arguments.size()), arguments.data()) < 0) {
    return fail("DPDK's environment does not start: {}", ::rte_strerror(rte_errno));
  }
  started = true;
  return {};
}

class DpdkGuest final : public Guest {
 public:
  DpdkGuest(std::uint16_t port, rte_mempool* pool) : port_(port), pool_(pool) {}
  ~DpdkGuest() override {
    rte_eth_dev_info info{};
    rte_device* device = ::rte_eth_dev_info_get(port_, &info) == 0 ? info.device : nullptr;
    ::rte_eth_dev_stop(port_);
    ::rte_eth_dev_close(port_);
    if (device != nullptr) {
      ::rte_dev_remove(device);
    }
    ::rte_mempool_free(pool_);
  }

  std::uint64_t turn() override {
    std::array<rte_mbuf*, kBurst> packets;
    const std::uint16_t count = ::rte_eth_rx_burst(port_, 0, packets.data(), kBurst);
    for (std::uint16_t i = 0; i < count; ++i) {
      touched_ += *rte_pktmbuf_mtod(packets[i], std::uint8_t*);
    }
    if (count != 0) {
      ::rte_pktmbuf_free_bulk(packets.data(), count);
    }
    return count;
  }

  std::uint64_t send(const test::Frame& frame, std::uint64_t count) override {
    std::uint64_t sent = 0;
    while (sent < count) {
      std::array<rte_mbuf*, kBurst> packets;
      const auto wanted = static_cast<std::uint16_t>(std::min<std::uint64_t>(count - sent, kBurst));
      if (::rte_pktmbuf_alloc_bulk(pool_, packets.data(), wanted) != 0) {
        break;
      }
      for (std::uint16_t i = 0; i < wanted; ++i) {
        std::memcpy(::rte_pktmbuf_append(packets[i], static_cast<std::uint16_t>(frame.size())), frame.data(),
                    frame.size());
      }
      const std::uint16_t taken = ::rte_eth_tx_burst(port_, 0, packets.data(), wanted);
      if (taken < wanted) {
        ::rte_pktmbuf_free_bulk(packets.data() + taken, wanted - taken);
      }
      sent += taken;
      if (taken == 0) {
        break;
      }
    }
    return sent;
  }

 private:
  std::uint16_t port_;
  rte_mempool* pool_;
  std::uint64_t touched_ = 0;
};

}  // namespace

Result<std::unique_ptr<Guest>> open_dpdk_guest(const GuestOptions& options, bool huge_pages) {
  if (auto started = start_eal(huge_pages); !started) {
    return std::unexpected(started.error());
  }
  static int number = 0;
  const std::string name = fmt::format("net_virtio_user{}", number++);
  if (::rte_dev_probe(fmt::format("{},path={},mac={},queue_size={},mrg_rxbuf=1,packed_vq={},in_order={}",
                                  name, options.socket, options.mac, options.queue_size,
                                  options.packed ? 1 : 0, options.in_order ? 1 : 0)
                          .c_str()) < 0) {
    return fail("DPDK cannot make a virtio_user device on {}: {}", options.socket, ::rte_strerror(rte_errno));
  }
  std::uint16_t port = 0;
  rte_mempool* pool =
      ::rte_pktmbuf_pool_create(name.c_str(), kMbufs, kCache, 0, RTE_MBUF_DEFAULT_BUF_SIZE, 0);
  rte_eth_conf config{};
  const auto ring = static_cast<std::uint16_t>(options.queue_size);
  if (pool == nullptr || ::rte_eth_dev_get_port_by_name(name.c_str(), &port) < 0 ||
      ::rte_eth_dev_configure(port, 1, 1, &config) < 0 ||
      ::rte_eth_rx_queue_setup(port, 0, ring, 0, nullptr, pool) < 0 ||
      ::rte_eth_tx_queue_setup(port, 0, ring, 0, nullptr) < 0 || ::rte_eth_dev_start(port) < 0) {
    ::rte_mempool_free(pool);
    return fail("DPDK cannot start a virtio_user device: {}", ::rte_strerror(rte_errno));
  }
  return std::make_unique<DpdkGuest>(port, pool);
}

}  // namespace sluice::bench
