// Opens a folder in which others may have rights, and follows no link that they can put into the path.
#pragma once

#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace sluice {

// The folder at `path`, as an O_PATH descriptor for the ...at() calls. Symbolic links on the way are followed
// only when root or this process's user made them (/var/run): a link of anybody else leads where that user
// likes, and this process may write there.
Result<UniqueFd> open_folder(const std::string& path);

// For a warning: who else can put files into the folder at `path` or take them away, in words as "user 1000".
// "": only root and this process's user can, or there is no such folder.
std::string others_who_write(const std::string& path);

}  // namespace sluice
