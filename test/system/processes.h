// What /proc says of processes that a test has started, and of theirs.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace sluice::test {

std::string status_of(pid_t pid);  // /proc/PID/status
// /proc/PID/task/*/stat, a line each.
std::vector<std::string> tasks_of(pid_t pid);
std::vector<pid_t> children_of(pid_t pid);
std::vector<pid_t> descendants_of(pid_t pid);

}  // namespace sluice::test
