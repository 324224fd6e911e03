#include "control/engine/port_table.h"

#include "base/log.h"

namespace sluice {

PortTable::PortTable(Parts parts)
    : parts_(std::move(parts)), names_{{"kernel", PortId::kKernel}, {"drop", PortId::kDrop}} {}

Result<PortId> PortTable::take(const std::string& name) {
  if (auto found = names_.find(name); found != names_.end()) {
    return found->second;
  }
  const auto id = free_.take();
  if (!id && (free_.any_resting() || !retiring_.empty())) {
    return fail("no room for port {} at this moment: packets of removed ports are still under way; try again",
                name);
  }
  if (!id) {
    return fail("no room for port {}: the port table has {} entries", name, kMaxPorts);
  }
  return names_.emplace(name, PortId{*id}).first->second;
}

std::optional<PortId> PortTable::find(const std::string& name) const {
  auto found = names_.find(name);
  return found == names_.end() ? std::nullopt : std::optional(found->second);
}

// Not before every program has been told: one that was not would still send to the entry. Nor while a rule
// that could not be replaced leads there.
Result<void> PortTable::give_back(const std::string& name) {
  auto found = names_.find(name);
  if (found == names_.end()) {
    return {};
  }
  const PortId port = found->second;
  retiring_.insert(port);
  names_.erase(found);
  trusted_.erase(port);
  Result<void> told;
  if (entries_.erase(port) > 0) {
    told = tell(port);
  }
  if (!is_free_again(port)) {
    parts_.left_over();
  }
  return told;
}

bool PortTable::is_free_again(PortId port) {
  if (untold_.contains(port) || parts_.rules_lead_to(port)) {
    return false;
  }
  retiring_.erase(port);
  free_.give_back(raw(port));
  return true;
}

void PortTable::set_trusted(PortId port, bool trusted) {
  if (trusted) {
    trusted_.insert(port);
  } else {
    trusted_.erase(port);
  }
}

void PortTable::set_attached(PortId port, bool attached) {
  const PortEntry entry{attached ? PortKind::kSocket : PortKind::kDetached, 0, trusted_.contains(port)};
  if (auto told = set(port, entry); !told) {
    log::error("{}; trying again", told.error().message);
    parts_.left_over();
  }
}

Result<void> PortTable::set(PortId port, const PortEntry& entry) {
  entries_[port] = entry;
  return tell(port);
}

PortEntry PortTable::entry_of(PortId port) const {
  auto found = entries_.find(port);
  return found == entries_.end() ? PortEntry{} : found->second;
}

Result<void> PortTable::tell(PortId port) {
  std::string failures;
  int error = 0;
  for (const auto& [nic, program] : programs_) {
    if (auto set = program.program->set_port(port, entry_of(port)); !set) {
      failures +=
          fmt::format("{}nic {}: {}", failures.empty() ? "" : "; ", program.name, set.error().message);
      error = set.error().os_errno;
    }
  }
  if (!failures.empty()) {
    untold_.insert(port);
    return std::unexpected(Error{failures, error});
  }
  untold_.erase(port);
  return {};
}

void PortTable::retry(const Report& report) {
  for (const PortId port : std::set<PortId>(untold_)) {
    if (auto told = tell(port); !told) {
      report(fmt::format("entry {} of the port table", raw(port)), told.error());
    }
  }
  for (const PortId port : std::set<PortId>(retiring_)) {
    is_free_again(port);
  }
}

void PortTable::set_pressure(PortId port, WorkerId worker, bool on) {
  const std::uint64_t bit = std::uint64_t{1} << raw(worker);
  if (on) {
    pressure_[raw(port)].fetch_or(bit);
  } else {
    pressure_[raw(port)].fetch_and(~bit);
  }
  for (auto& slot : pressed_) {
    if (NicProgram* program = slot.load()) {
      program->set_pressure(port, worker, on);
    }
  }
}

Result<void> PortTable::add_program(NicId nic, const std::string& name, NicProgram& program) {
  for (const auto& [port, entry] : entries_) {
    SLUICE_TRY(program.set_port(port, entry));
  }
  programs_[nic] = {name, &program};
  pressed_[raw(nic)].store(&program);  // before what was pressed is told: none in between is missed
  for (std::uint16_t port = kFirstFreePortId; port < kMaxPorts; ++port) {
    const std::uint64_t bits = pressure_[port].load();
    for (std::uint16_t worker = 0; worker < 64 && bits >> worker != 0; ++worker) {
      if ((bits >> worker & 1) != 0) {
        program.set_pressure(PortId{port}, WorkerId{worker}, true);
      }
    }
  }
  return {};
}

void PortTable::remove_program(NicId nic) {
  programs_.erase(nic);
  pressed_[raw(nic)].store(nullptr);
  parts_.workers_pass();  // no worker is inside set_pressure() with the old value any more
}

}  // namespace sluice
