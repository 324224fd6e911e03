// Nics: the configured NICs: those that are attached, and those whose device is away or could not be
// attached, which are tried again.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "control/engine/nic.h"
#include "control/engine/port_table.h"
#include "control/engine/resting_ids.h"
#include "port/nic/nic_watch.h"

namespace sluice {

// Control thread.
class Nics {
 public:
  struct Parts {
    Machine* machine = nullptr;
    std::span<const std::unique_ptr<Worker>> workers;
    QueueKeeper* keeper = nullptr;
    PortTable* table = nullptr;
    // A port of the state that is aimed at owns it.
    std::function<bool(const std::string& netdev, QueueId queue)> is_owned;
    // A NIC is back, with all queues that are nobody's; its ports want their queues and rules.
    std::function<void(Nic& nic)> came_back;
    std::function<void(const std::string& what, const Error& error)> report;
  };
  explicit Nics(Parts parts) : parts_(std::move(parts)) {}

  // An error leaves nothing behind.
  Result<void> add(const NicConfig& config);
  // No port uses it. Its queues begin to close; nothing of this can fail.
  void remove(const std::string& netdev);
  // All programs go, for the end.
  void detach_all();

  bool is_configured(const std::string& netdev) const { return known_.contains(netdev); }
  // Null: it is not configured, or away.
  Nic* find(const std::string& netdev) const;
  Nic* find(NicId id) const;
  const std::map<std::string, std::unique_ptr<Nic>>& attached() const { return attached_; }
  std::string name_of(NicId id) const;  // configured, there or not

  void on_event(const NicEvent& event);
  // Some device is there and not attached.
  bool any_left() const;
  void retry(std::uint64_t now_ns);
  RestingIds& resting() { return free_; }

 private:
  struct Known {
    NicConfig config;
    NicId id{0};
    PortId port{0};
  };
  Result<void> attach(const Known& nic);
  void detach(const std::string& netdev);
  void appeared(const std::string& netdev);

  const Parts parts_;
  std::map<std::string, Known> known_;
  std::map<std::string, std::unique_ptr<Nic>> attached_;
  RestingIds free_{0, kMaxNics};
  std::uint64_t retry_at_ns_ = 0, retry_pause_ns_ = 0;
};

}  // namespace sluice
