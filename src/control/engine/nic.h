// Nic: one configured NIC at run time: its XDP program, the program's link, and the sockets on its
// queues.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "control/config/config.h"
#include "control/engine/queue_keeper.h"
#include "demux/demux.h"
#include "memory/pool.h"
#include "port/nic/broadcast_queue.h"
#include "port/nic/nic_info.h"
#include "port/nic/queue.h"
#include "port/nic/xdp_link.h"
#include "worker/worker.h"

namespace sluice {

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

  // Loads the program, attaches it (everything passes to the kernel), opens no queue yet.
  static Result<std::unique_ptr<Nic>> attach(const NicConfig& config, const Wiring& wiring);
  // The queues begin to close, the program goes, and everything passes to the kernel again.
  ~Nic();

  // Which of the queues that we were given have an owner is the engine's knowledge; the rest are the host's.
  // Each begins to open; what becomes of it: queues(). One that fails is tried again.
  void open_host_queue(QueueId queue);
  // `observe`: what is for other ports comes by this queue, too, and the owner can read it. The UMEM and the
  // pool live until QueueKeeper::when_unused().
  void open_owned_queue(QueueId queue, PortId owner, bool observe, Umem& umem, PagePool& pool);
  // It begins to close: neither the program nor the worker uses it when this returns.
  void close_queue(QueueId queue);

  // For the ports with addresses of their own behind this NIC: it takes in packets for these addresses, and
  // brings what the wire says to everybody to the worker of its first host queue. None: no longer.
  Result<void> serve_members(std::span<const MacAddress> macs);
  const BroadcastQueue* broadcasts() const { return broadcasts_.get(); }

  const NicConfig& config() const { return config_; }
  const NicInfo& info() const { return info_; }
  // The configured mode, or copy where that is `auto` and the driver's zero copy is not to be trusted.
  BindMode mode() const { return mode_; }
  void update_info(const NicInfo& info) { info_ = info; }
  NicId id() const { return wiring_.id; }
  PortId port() const { return wiring_.port; }
  Demux& demux() { return *demux_; }
  const Demux& demux() const { return *demux_; }
  const std::vector<QueueId>& given_queues() const { return given_; }
  bool native() const;
  NicQueueOptions queue_options(QueueId queue, BindMode mode) const;
  bool worker_sends(WorkerId worker) const;  // it serves a host queue of this NIC, once that is open

  // Those that are wanted, open or not.
  const std::map<QueueId, KeptQueue*>& queues() const { return queues_; }

 private:
  Nic(const NicConfig& config, const Wiring& wiring) : config_(config), wiring_(wiring) {}
  Result<void> start();
  void choose_mode();
  void want(QueueWish wish);
  Result<void> serve(KeptQueue& queue);
  void leave_worker(KeptQueue& queue);
  void choose_uplink_lane(WorkerId worker, const KeptQueue* leaving = nullptr);
  void close_broadcasts();

  NicConfig config_;
  Wiring wiring_;
  NicInfo info_;
  BindMode mode_ = BindMode::kAuto;
  std::vector<QueueId> given_;
  std::unique_ptr<Demux> demux_;
  std::optional<XdpLink> link_;
  std::map<QueueId, KeptQueue*> queues_;
  std::unique_ptr<BroadcastQueue> broadcasts_;
  WorkerId broadcast_worker_{0};
};

}  // namespace sluice
