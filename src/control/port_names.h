// PortNames: which entry of the port table belongs to which name. An entry is used again only after it was
// freed.
#pragma once

#include <map>
#include <set>
#include <string>

#include "base/ids.h"
#include "base/result.h"

namespace sluice {

// Names as rules write them: "kernel", "drop", "dns" (an app), "netdev:eth2"; "nic:eth1" is the uplink that
// apps send by.
class PortNames {
 public:
  PortNames() : ids_{{"kernel", PortId::kKernel}, {"drop", PortId::kDrop}} {
    for (std::uint16_t id = kFirstFreePortId; id < kMaxPorts; ++id) {
      free_.insert(id);
    }
  }

  // The id that `name` has, or a new one.
  Result<PortId> take(const std::string& name) {
    if (auto found = ids_.find(name); found != ids_.end()) {
      return found->second;
    }
    if (free_.empty()) {
      return fail("no room for port {}: the port table has {} entries", name, kMaxPorts);
    }
    PortId id{*free_.begin()};
    free_.erase(free_.begin());
    ids_.emplace(name, id);
    return id;
  }

  void give_back(const std::string& name) {
    if (auto found = ids_.find(name); found != ids_.end()) {
      free_.insert(raw(found->second));
      ids_.erase(found);
    }
  }

  // Every name that is in use, with its id.
  const std::map<std::string, PortId>& all() const { return ids_; }

 private:
  std::map<std::string, PortId> ids_;
  std::set<std::uint16_t> free_;
};

}  // namespace sluice
