// Nic: one NIC at run time, as the engine sees it: its XDP program, and the sockets on its queues.
// Machine: where NICs come from. Tests have both of their own.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/mac.h"
#include "base/result.h"
#include "control/config/config.h"
#include "demux/program.h"
#include "memory/pool.h"
#include "port/nic/nic_info.h"
#include "stats/counter.h"
#include "worker/worker.h"

namespace sluice {

class KeptQueue;
class QueueKeeper;
class Umem;

inline constexpr std::uint16_t kMaxNics = 64;

// Which worker serves a queue: all workers in turn, the same for every NIC.
constexpr WorkerId worker_of(QueueId queue, std::size_t workers) {
  return WorkerId{static_cast<std::uint16_t>(raw(queue) % workers)};
}

// Control thread. Calls into the workers to give them queues and to take them away.
class Nic {
 public:
  struct Wiring {
    NicId id{0};
    PortId port{0};  // what an app's uplink names
    std::span<const std::unique_ptr<Worker>> workers;
    QueueKeeper* keeper = nullptr;
  };

  // The queues begin to close, the program goes, and everything passes to the kernel again.
  virtual ~Nic() = default;

  const NicConfig& config() const { return config_; }
  NicId id() const { return wiring_.id; }
  PortId port() const { return wiring_.port; }
  const NicInfo& info() const { return info_; }
  virtual void update_info(const NicInfo& info) { info_ = info; }
  const std::vector<QueueId>& given_queues() const { return given_; }

  virtual NicProgram& program() = 0;
  const NicProgram& program() const { return const_cast<Nic*>(this)->program(); }
  virtual bool native() const = 0;

  // Which of the queues that we were given have an owner is the engine's knowledge; the rest are the host's.
  // Each begins to open; what becomes of it: queues(). One that fails is tried again.
  virtual void open_host_queue(QueueId queue) = 0;
  // `observe`: what is for other ports comes by this queue, too, and the owner can read it. The UMEM and the
  // pool live until QueueKeeper::when_unused().
  virtual void open_owned_queue(QueueId queue, PortId owner, bool observe, Umem& umem, PagePool& pool) = 0;
  // It begins to close: neither the program nor the worker uses it when this returns.
  virtual void close_queue(QueueId queue) = 0;
  virtual bool has_queue(QueueId queue) const = 0;                  // wanted, open or not
  virtual std::optional<PortId> owner_of(QueueId queue) const = 0;  // none: the host's, or not wanted
  virtual std::uint32_t pages_of_queue(QueueId queue) const = 0;    // that one has at the most
  virtual bool worker_sends(
      WorkerId worker) const = 0;  // it serves a host queue of this NIC, once that is open

  // For the ports with addresses of their own behind this NIC: it takes in packets for these addresses, and
  // brings what the wire says to everybody to the worker of its first host queue. None: no longer.
  virtual Result<void> serve_addresses(std::span<const MacAddress> macs) = 0;

  // What all its sockets count together.
  virtual void visit(CounterVisitor& visitor) const = 0;
  // Those that are wanted, open or not.
  virtual const std::map<QueueId, KeptQueue*>& queues() const = 0;

 protected:
  Nic(const NicConfig& config, const Wiring& wiring) : config_(config), wiring_(wiring) {}

  const NicConfig config_;
  const Wiring wiring_;
  NicInfo info_;
  std::vector<QueueId> given_;
};

// Control thread.
class Machine {
 public:
  virtual ~Machine() = default;
  // Loads the program, attaches it (everything passes to the kernel), opens no queue yet.
  virtual Result<std::unique_ptr<Nic>> attach(const NicConfig& config, const Nic::Wiring& wiring) = 0;
  virtual Result<NicInfo> nic_info(const std::string& netdev) = 0;
  virtual unsigned ifindex(const std::string& netdev) = 0;  // 0: there is none

  static Machine& real();
};

}  // namespace sluice
