// Rules: all that stand: on what comes from the wire, per NIC, and on what each port sends.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "control/config/config.h"
#include "control/engine/port_table.h"
#include "control/engine/rule_table.h"
#include "control/engine/segments.h"
#include "worker/forward/ingress_rules.h"

namespace sluice {

// Control thread. A change that fails leaves the rules that stood.
class Rules {
 public:
  struct Parts {
    PortTable* table = nullptr;
    std::function<NicProgram*(const std::string& netdev)> program;  // null: the NIC is away
    std::function<unsigned(const std::string& netdev)> ifindex;     // 0: there is no such device
    std::uint32_t workers = 1;
    std::function<void()> publish;  // ingress rules have changed: no worker has the old ones when it returns
  };
  explicit Rules(Parts parts) : parts_(std::move(parts)) {}

  // Replaces the operator's rules on a NIC. Rules to a port that is not there are left out: adding it has
  // failed, and has been reported. Of a NIC that is away nothing happens.
  Result<void> set(const std::string& netdev, const std::vector<RuleConfig>& wanted);
  // Replaces those behind them, for the addresses of ports.
  Result<void> set_implicit(const std::string& netdev, std::vector<RuleConfig> implicit);
  // Replaces the rules on what a port sends.
  Result<void> set_ingress(const std::string& port, const std::vector<RuleConfig>& wanted);

  void nic_is_new(const std::string& netdev);  // its program has no rules
  void forget_nic(const std::string& netdev) { nics_.erase(netdev); }
  // True: there were some, to be published.
  bool forget_port(const std::string& port) { return ports_.erase(port) > 0; }

  // The operator's, as they stand.
  std::vector<RuleConfig> standing(const std::string& netdev) const;
  std::vector<RuleConfig> standing_ingress(const std::string& port) const;
  // Rules of a NIC that is away went with its program.
  bool lead_to(PortId port) const;
  IngressRulesByPort ingress() const;

  // Devices that rules lead to: one that came, went or changed its number; one that no rule leads to now.
  void refresh_netdevs(const PortTable::Report& report);
  void forget_unused_netdevs();

  // `nic` or `port` is "": a rule stands on one of them.
  using Visit = std::function<void(const std::string& nic, const std::string& port,
                                   const RuleTable::Entry& rule, const RuleCount& count)>;
  void visit(const Visit& visit) const;

 private:
  struct OfNic {
    RuleTable table;
    std::vector<RuleConfig> implicit;  // as they are to be
  };
  struct OfPort {
    RuleTable table;
    std::shared_ptr<IngressCounts> counts;
    std::shared_ptr<const PortIngressRules> rules;  // null: none
  };
  Result<void> replace(const std::string& netdev, const std::vector<RuleConfig>& wanted);
  std::vector<RuleConfig> to_known_ports(const std::vector<RuleConfig>& rules) const;
  Result<PortId> port_of(const std::string& to);
  bool any_leads_to(PortId port, const std::function<bool(const std::string& netdev)>& on_nic) const;

  const Parts parts_;
  std::map<std::string, OfNic> nics_;
  std::map<std::string, OfPort> ports_;
};

}  // namespace sluice
