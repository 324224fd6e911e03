// What may stand next on a command line of sluicectl, for the shell (packaging/sluicectl.bash).
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

namespace sluice {

// The names of the "ports" or "nics" that sluiced has; none when it cannot be asked.
using NamesOf = std::function<std::vector<std::string>(const std::string& what)>;

// `line` up to the cursor. Of a word KEY=VALUE what stands behind the `=`, which ends a word for bash too.
std::vector<std::string> complete(const CLI::App& app, const std::string& line, const NamesOf& names);

}  // namespace sluice
