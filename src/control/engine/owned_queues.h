// OwnedQueues: the RX queues whose pages lie in a port's own memory (D1), from the port's arena to the NIC.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "base/ids.h"
#include "control/engine/nic.h"
#include "control/engine/queue_keeper.h"
#include "port/port_services.h"

namespace sluice {

// Control thread.
class OwnedQueues final : public QueueOwner {
 public:
  struct Parts {
    std::function<Nic*(NicId)> nic;  // null: away
    QueueKeeper* keeper = nullptr;
    std::function<Result<std::unique_ptr<Umem>>(Arena&)> make_umem = [](Arena& arena) {
      return Umem::create(arena);
    };
  };
  explicit OwnedQueues(Parts parts) : parts_(std::move(parts)) {}

  // While the port exists; the host's sockets on them begin to close.
  void claim(PortId port, const std::vector<OwnedQueue>& queues, bool observe);
  // The port is gone. Returns them: they are the host's again.
  std::vector<OwnedQueue> release(PortId port);
  // Those that their owners have memory for begin to open.
  void nic_is_back(Nic& nic);

  Result<void> open_queues(PortId port, Arena& arena, std::span<PagePool* const> pools) override;
  bool queues_are_opening(PortId port) const override;
  void close_queues(PortId port, std::function<void()> closed) override;

 private:
  struct Domain {
    std::unique_ptr<Umem> umem;
    std::vector<OwnedQueue> queues;  // in the order of PortPlace::owned
    std::vector<PagePool*> pools;    // parallel; empty while the queues are closed
    bool observe = false;
  };
  void open(PortId port, Domain& domain, std::size_t index);

  const Parts parts_;
  std::map<PortId, Domain> domains_;
};

}  // namespace sluice
