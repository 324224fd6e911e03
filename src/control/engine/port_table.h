// PortTable: which id belongs to which name, and what the NICs' programs know of each id.
//
//             take()           give_back()        every program knows, no rule leads there     frames are gone
//   free  ------------> used ------------> retiring --------------------------------> resting ------------> free
//
// What a program could not be told is tried again, by retry(): of a port that is there its entry, of one that
// goes that it is gone.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>

#include "base/ids.h"
#include "base/result.h"
#include "control/engine/nic.h"
#include "control/engine/resting_ids.h"
#include "demux/program.h"
#include "port/port_services.h"

namespace sluice {

// Names as rules write them: "kernel", "drop", "dns" (a port), "netdev:eth2"; "nic:eth1" is a NIC: the
// uplink that ports send by, and where rules lead. Control thread, but for set_pressure().
class PortTable final : public PortStates {
 public:
  struct Parts {
    std::function<void()> workers_pass;         // each worker has stood between two bursts
    std::function<bool(PortId)> rules_lead_to;  // one that stands
    std::function<void()> left_over = [] {};    // retry() is wanted
  };
  explicit PortTable(Parts parts);

  // The id that `name` has, or a new one.
  Result<PortId> take(const std::string& name);
  // The name is free at once; its id is another's only when nothing knows it any more. An error names the
  // programs that still do.
  Result<void> give_back(const std::string& name);
  std::optional<PortId> find(const std::string& name) const;
  const std::map<std::string, PortId>& names() const { return names_; }

  // Whether a port is to get reserved group addresses, for its entries from here on.
  void set_trusted(PortId port, bool trusted);
  void set_attached(PortId port, bool attached) override;
  void set_pressure(PortId port, WorkerId worker, bool on) override;  // any worker's thread
  // An error names the programs that do not have it yet.
  Result<void> set(PortId port, const PortEntry& entry);

  // The program of a NIC is told of all ports there are. An error: it is not in the table.
  Result<void> add_program(NicId nic, const std::string& name, NicProgram& program);
  void remove_program(NicId nic);

  using Report = std::function<void(const std::string& what, const Error& error)>;
  void retry(const Report& report);
  bool settled() const { return untold_.empty() && retiring_.empty(); }
  RestingIds& resting() { return free_; }

 private:
  struct Program {
    std::string name;
    NicProgram* program;
  };
  Result<void> tell(PortId port);
  PortEntry entry_of(PortId port) const;
  bool is_free_again(PortId port);

  const Parts parts_;
  std::map<std::string, PortId> names_;
  RestingIds free_{kFirstFreePortId, kMaxPorts};
  std::map<PortId, PortEntry> entries_;
  std::set<PortId> trusted_;
  std::set<PortId> untold_;    // some program does not have the entry
  std::set<PortId> retiring_;  // given back
  std::map<NicId, Program> programs_;

  // For set_pressure(): changed by the control thread only, which then waits until no worker can be reading
  // the old value.
  std::array<std::atomic<NicProgram*>, kMaxNics> pressed_{};
  std::array<std::atomic<std::uint64_t>, kMaxPorts> pressure_{};  // bit per worker, for NICs that come later
};

}  // namespace sluice
