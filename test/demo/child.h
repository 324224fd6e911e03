// The demo's program is also its children: `demo --child MODE ...`.
#pragma once

#include <span>
#include <string>
#include <vector>

namespace sluice::demo {

// The command line of this program as a child in `mode`.
std::vector<std::string> child_command(const std::string& mode, const std::vector<std::string>& arguments);
// `argv`, killed by the kernel when the demo dies, however that happens. Start it from a
// thread that lives as long.
std::vector<std::string> leashed(const std::vector<std::string>& argv);

// What a child does: `arguments` begin behind --child.
int run_child(const std::vector<std::string>& arguments);

// This thread, and what it starts, on one CPU.
void run_on(unsigned cpu);

}  // namespace sluice::demo
