// AttachedNic: a NIC of this machine (nic.h): the program's link, and a socket on each queue.
#pragma once

#include "control/engine/nic.h"
#include "control/engine/queue_keeper.h"
#include "demux/demux.h"
#include "port/nic/broadcast_queue.h"
#include "port/nic/queue.h"
#include "port/nic/xdp_link.h"

namespace sluice {

class AttachedNic final : public Nic {
 public:
  static Result<std::unique_ptr<Nic>> attach(const NicConfig& config, const Wiring& wiring);
  ~AttachedNic() override;

  NicProgram& program() override { return *demux_; }
  bool native() const override;
  void open_host_queue(QueueId queue) override;
  void open_owned_queue(QueueId queue, PortId owner, bool observe, Umem& umem, PagePool& pool) override;
  void close_queue(QueueId queue) override;
  bool has_queue(QueueId queue) const override { return queues_.contains(queue); }
  std::optional<PortId> owner_of(QueueId queue) const override;
  std::uint32_t pages_of_queue(QueueId queue) const override;
  bool worker_sends(WorkerId worker) const override;
  void update_info(const NicInfo& info) override;
  Result<void> serve_addresses(std::span<const MacAddress> macs) override;
  void visit(CounterVisitor& visitor) const override;
  const std::map<QueueId, KeptQueue*>& queues() const override { return queues_; }

 private:
  using Nic::Nic;
  Result<void> start();
  Result<void> choose_queues();
  void choose_mode();
  NicQueueOptions queue_options(QueueId queue, BindMode mode) const;
  void want(QueueWish wish);
  Result<void> serve(KeptQueue& queue);
  void leave_worker(KeptQueue& queue);
  void choose_uplink_lane(WorkerId worker, const KeptQueue* leaving = nullptr);
  void close_broadcasts();

  // The configured mode, or copy where that is `auto` and the driver's zero copy is not to be trusted.
  BindMode mode_ = BindMode::kAuto;
  std::unique_ptr<Demux> demux_;
  std::optional<XdpLink> link_;
  std::map<QueueId, KeptQueue*> queues_;
  std::unique_ptr<BroadcastQueue> broadcasts_;
  WorkerId broadcast_worker_{0};
};

}  // namespace sluice
