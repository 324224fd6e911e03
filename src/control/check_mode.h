// sluiced --check FILE
#pragma once

#include <cstdio>
#include <string>

namespace sluice {

// Says whether the daemon would accept the file, and what in it is probably not meant. Returns the exit
// status.
int check_config_file(const std::string& path, std::FILE* out, std::FILE* errors);

}  // namespace sluice
