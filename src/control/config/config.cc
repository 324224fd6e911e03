// From TOML to Config, value by value; ports and rules in config_ports.cc, what concerns several values in
// config_check.cc.
#include "control/config/config.h"

#include <fcntl.h>
#include <unistd.h>

#include "abi/app.h"
#include "control/config/did_you_mean.h"
#include "control/config/read.h"
#include "control/config/table_reader.h"

namespace sluice {

namespace {

constexpr std::string_view kSections[] = {"daemon", "nic", "port", "rule"};
constexpr std::string_view kDaemonKeys[] = {"control",    "control_group", "log",    "page_bytes",
                                            "huge_pages", "guest_memory",  "workers"};
constexpr std::string_view kWorkerKeys[] = {"cpu", "idle", "latency_us", "nap_us"};
constexpr std::string_view kNicKeys[] = {"queues", "mode", "ring"};

constexpr std::string_view kLogLevels[] = {"trace", "debug", "info", "warning", "error", "off"};
constexpr std::string_view kHugePages[] = {"auto", "never", "required"};
constexpr std::string_view kIdle[] = {"adaptive", "awake", "spin"};
constexpr std::string_view kModes[] = {"auto", "zerocopy", "copy"};

using Range = IntegerRange;
constexpr Range kPageBytes{2048, 4096,
                           Range::Kind::kPowerOfTwo};  // XDP_UMEM_REG: 2048 .. the kernel's page size
constexpr Range kLatencyUs{1, 1000};
constexpr Range kQueue{0, 65535};
constexpr Range kNicRing{64, 32768, Range::Kind::kPowerOfTwo};

constexpr std::uint32_t kMaxWorkers = SLUICE_APP_MAX_LANES;     // an app has a lane for each
constexpr std::size_t kMaxConfigBytes = std::size_t{64} << 20;  // 65536 rules on a few NICs

WorkerOptions::Idle idle_of(std::string_view text) {
  using Idle = WorkerOptions::Idle;
  return text == "awake" ? Idle::kAwake : text == "spin" ? Idle::kSpin : Idle::kAdaptive;
}

BindMode bind_mode_of(std::string_view text) {
  return text == "zerocopy" ? BindMode::kZeroCopy : text == "copy" ? BindMode::kCopy : BindMode::kAuto;
}

}  // namespace

std::string ConfigReader::place(std::string path) const {
  if (file_.empty()) {
    return "";
  }
  for (;;) {
    if (auto found = lines_.find(path); found != lines_.end() && found->second != 0) {
      return fmt::format("{}:{}: ", file_, found->second);
    }
    std::size_t end = path.find_last_of(".[");
    if (end == std::string::npos) {
      return fmt::format("{}:1: ", file_);
    }
    path.resize(end);
  }
}

Result<WorkerOptions> ConfigReader::read_worker(const std::string& path, const toml::table& table) {
  WorkerOptions worker;
  TableReader reader(*this, path, path, table, kWorkerKeys);
  if (table.contains("cpu")) {
    std::uint32_t cpu = 0;
    reader.integer("cpu", cpu, {0, ::sysconf(_SC_NPROCESSORS_CONF) - 1});
    worker.cpu = cpu;
  }
  std::string idle = "adaptive";
  reader.choice("idle", idle, kIdle);
  worker.idle = idle_of(idle);
  if (worker.idle == WorkerOptions::Idle::kAwake && !worker.cpu) {
    reader.wrong("idle", "is \"awake\", which needs a `cpu` to keep awake");
  }
  if (table.contains("nap_us") && table.contains("latency_us")) {
    reader.wrong("nap_us", "is the earlier name of `latency_us`; leave it out");
  }
  reader.integer("nap_us", worker.latency_us, kLatencyUs);
  reader.integer("latency_us", worker.latency_us, kLatencyUs);
  SLUICE_TRY(reader.result());
  return worker;
}

Result<void> ConfigReader::read_daemon(const toml::table& table, DaemonConfig& daemon) {
  TableReader reader(*this, "daemon", "daemon", table, kDaemonKeys);
  reader.text("control", daemon.control);
  reader.text("control_group", daemon.control_group);
  reader.choice("log", daemon.log, kLogLevels);
  reader.integer("page_bytes", daemon.page_bytes, kPageBytes);
  reader.choice("huge_pages", daemon.huge_pages, kHugePages);
  std::string guest_memory;
  reader.text("guest_memory", guest_memory);
  if (auto bytes = read_size(guest_memory); !guest_memory.empty() && bytes) {
    daemon.guest_memory_bytes = *bytes;
  } else if (!guest_memory.empty()) {
    reader.wrong("guest_memory", bytes.error().message);
  }
  const toml::array* workers = reader.array("workers", "tables, one per worker, for example [ { cpu = 0 } ]");
  SLUICE_TRY(reader.result());
  if (workers == nullptr) {
    return {};
  }
  if (workers->empty() || workers->size() > kMaxWorkers) {
    reader.wrong("workers", fmt::format("has {} workers; it must have 1 to {}, for example [ {{ cpu = 0 }} ]",
                                        workers->size(), kMaxWorkers));
    return reader.result();
  }
  for (std::size_t i = 0; i < workers->size(); ++i) {
    const toml::node& item = *workers->get(i);
    lines_[fmt::format("daemon.workers[{}]", i)] = item.source().begin.line;
    if (!item.is_table()) {
      reader.wrong(fmt::format("workers[{}]", i),
                   fmt::format("is {}; it must be a table, for example {{ cpu = 0 }}", type_text(item)));
      return reader.result();
    }
    auto worker = read_worker(fmt::format("daemon.workers[{}]", i), *item.as_table());
    SLUICE_TRY(worker);
    worker->id = static_cast<WorkerId>(i);
    daemon.workers.push_back(*worker);
  }
  return {};
}

Result<NicConfig> ConfigReader::read_nic(const std::string& name, const toml::table& table) {
  NicConfig nic;
  nic.netdev = name;
  TableReader reader(*this, "nic." + name, "nic." + name, table, kNicKeys);
  std::string mode = "auto";
  reader.choice("mode", mode, kModes);
  nic.mode = bind_mode_of(mode);
  reader.integer("ring", nic.ring, kNicRing);
  if (const toml::node* queues = reader.node("queues")) {
    if (const toml::array* list = queues->as_array()) {
      nic.queues.emplace();
      for (std::size_t i = 0; i < list->size(); ++i) {
        std::int64_t queue = 0;
        if (reader.item_integer(*list->get(i), fmt::format("queues[{}]", i), queue, kQueue)) {
          nic.queues->push_back(static_cast<std::uint16_t>(queue));
        }
      }
    } else if (queues->value<std::string>() != "all") {
      reader.wrong("queues",
                   fmt::format("is {}; it must be \"all\" or an array of queue numbers, for example [0, 1]",
                               queues->is_string() ? "\"" + *queues->value<std::string>() + "\""
                                                   : std::string(type_text(*queues))));
    }
  }
  SLUICE_TRY(reader.result());
  return nic;
}

Result<void> ConfigReader::read_sections(const toml::table& root, Config& config) {
  for (std::string_view section : {"nic", "port"}) {
    const toml::node* node = root.get(section);
    if (node == nullptr) {
      continue;
    }
    lines_[std::string(section)] = node->source().begin.line;
    if (!node->is_table()) {
      return fail("{}{} is {}; write a section for each, for example [{}.{}]", place(std::string(section)),
                  section, type_text(*node), section, section == "nic" ? "eth1" : "dns");
    }
    for (const auto& [key, value] : *node->as_table()) {
      std::string name(key.str());
      std::string path = fmt::format("{}.{}", section, name);
      lines_[path] = key.source().begin.line;
      if (!value.is_table()) {
        return fail("{}{} is {}; it must be a section, [{}]", place(path), path, type_text(value), path);
      }
      if (section == "nic") {
        auto nic = read_nic(name, *value.as_table());
        SLUICE_TRY(nic);
        config.nics.emplace(name, std::move(*nic));
      } else {
        auto port = read_port(name, *value.as_table());
        SLUICE_TRY(port);
        config.ports.emplace(name, std::move(*port));
      }
    }
  }
  return {};
}

Result<Config> ConfigReader::read(const toml::table& root) {
  Config config;
  for (const auto& [key, value] : root) {
    lines_[std::string(key.str())] = key.source().begin.line;
    if (std::ranges::find(kSections, key.str()) == std::end(kSections)) {
      return fail("{}{} is not a section that Sluice knows{}", place(std::string(key.str())), key.str(),
                  suggestion(key.str(), kSections, "sections"));
    }
  }
  if (const toml::node* daemon = root.get("daemon")) {
    if (!daemon->is_table()) {
      return fail("{}daemon is {}; it must be a section, [daemon]", place("daemon"), type_text(*daemon));
    }
    SLUICE_TRY(read_daemon(*daemon->as_table(), config.daemon));
  }
  if (config.daemon.workers.empty()) {
    config.daemon.workers.emplace_back();
  }
  SLUICE_TRY(read_sections(root, config));
  if (const toml::node* rules = root.get("rule")) {
    const toml::array* list = rules->as_array();
    if (list == nullptr || (!list->empty() && !list->is_homogeneous<toml::table>())) {
      return fail("{}rule is {}; write [[rule]] in front of each rule", place("rule"), type_text(*rules));
    }
    for (std::size_t i = 0; i < list->size(); ++i) {
      auto rule = read_rule(fmt::format("rule[{}]", i), *list->get(i)->as_table());
      SLUICE_TRY(rule);
      config.rules.push_back(std::move(*rule));
    }
  }
  if (auto fault = find_config_fault(config)) {
    return fail("{}{}", place(fault->path), fault->message);
  }
  return config;
}

Result<Config> parse_config(std::string_view text, std::string_view file_name) {
  std::string file(file_name.empty() ? "config" : file_name);
  try {
    toml::table root = toml::parse(text, file);
    return ConfigReader(file).read(root);
  } catch (const toml::parse_error& error) {
    return fail("{}:{}: not TOML: {}; see https://toml.io", file, error.source().begin.line,
                error.description());
  }
}

Result<Config> load_config(const std::string& path) {
  UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string text;
  ssize_t got = file ? 1 : -1;
  while (got > 0 && text.size() <= kMaxConfigBytes) {
    char chunk[65536];
    got = ::read(file.get(), chunk, sizeof(chunk));
    text.append(chunk, got > 0 ? static_cast<std::size_t>(got) : 0);
  }
  if (got < 0) {
    return fail_errno(errno, "cannot read the config file {}", path);
  }
  if (text.size() > kMaxConfigBytes) {
    return fail("{}:1: the file is longer than {} MiB; is it the config file?", path, kMaxConfigBytes >> 20);
  }
  return parse_config(text, path);
}

}  // namespace sluice
