#include "test/system/processes.h"

#include <fmt/format.h>

#include <charconv>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace sluice::test {

namespace {

std::string read_file(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

}  // namespace

std::string status_of(pid_t pid) {
  return read_file(fmt::format("/proc/{}/status", pid));
}

std::vector<std::string> tasks_of(pid_t pid) {
  std::vector<std::string> tasks;
  std::error_code gone;
  for (const auto& task : std::filesystem::directory_iterator(fmt::format("/proc/{}/task", pid), gone)) {
    tasks.push_back(read_file(task.path() / "stat"));
  }
  return tasks;
}

std::vector<pid_t> children_of(pid_t pid) {
  std::vector<pid_t> children;
  std::error_code gone;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", gone)) {
    const std::string name = entry.path().filename();
    pid_t child = 0;
    if (std::from_chars(name.data(), name.data() + name.size(), child).ptr != name.data() + name.size()) {
      continue;
    }
    if (status_of(child).find(fmt::format("\nPPid:\t{}\n", pid)) != std::string::npos) {
      children.push_back(child);
    }
  }
  return children;
}

std::vector<pid_t> descendants_of(pid_t pid) {
  std::vector<pid_t> all;
  for (pid_t child : children_of(pid)) {
    all.push_back(child);
    for (pid_t more : descendants_of(child)) {
      all.push_back(more);
    }
  }
  return all;
}

}  // namespace sluice::test
