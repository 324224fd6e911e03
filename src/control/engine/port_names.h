// PortNames: which entry of the port table belongs to which name. An entry is used again when it was given
// back and has rested.
#pragma once

#include <map>
#include <string>

#include "base/ids.h"
#include "base/result.h"
#include "control/engine/resting_ids.h"

namespace sluice {

// Names as rules write them: "kernel", "drop", "dns" (an app), "netdev:eth2"; "nic:eth1" is the uplink that
// apps send by.
class PortNames {
 public:
  PortNames() : ids_{{"kernel", PortId::kKernel}, {"drop", PortId::kDrop}} {}

  // The id that `name` has, or a new one.
  Result<PortId> take(const std::string& name) {
    if (auto found = ids_.find(name); found != ids_.end()) {
      return found->second;
    }
    auto id = free_.take();
    if (!id && free_.any_resting()) {
      return fail(
          "no room for port {} at this moment: packets of removed ports are still under way; try again",
          name);
    }
    if (!id) {
      return fail("no room for port {}: the port table has {} entries", name, kMaxPorts);
    }
    return ids_.emplace(name, PortId{*id}).first->second;
  }

  void give_back(const std::string& name) {
    if (auto id = forget(name); id != PortId::kDrop) {
      give_back(id);
    }
  }
  // In two steps, for an entry that cannot be given back yet: its program could not be told.
  PortId forget(const std::string& name) {
    auto found = ids_.find(name);
    if (found == ids_.end()) {
      return PortId::kDrop;
    }
    PortId id = found->second;
    ids_.erase(found);
    return id;
  }
  void give_back(PortId id) { free_.give_back(raw(id)); }

  // Every name that is in use, with its id.
  const std::map<std::string, PortId>& all() const { return ids_; }
  RestingIds& resting() { return free_; }

 private:
  std::map<std::string, PortId> ids_;
  RestingIds free_{kFirstFreePortId, kMaxPorts};
};

}  // namespace sluice
