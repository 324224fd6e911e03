// Opening a folder in which others may have rights: what they can swap under a path is not followed.
#pragma once

#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace sluice {

// The folder at `path`, as an O_PATH descriptor for the ...at() calls. Symbolic links on the way are followed
// only when root or this process's user made them (/var/run): a link of anybody else leads where that user
// likes, and this process may write there.
Result<UniqueFd> open_folder(const std::string& path);

// Who else can put files into the folder at `path` or take them away, for a warning: "" is nobody but root
// and this process's user, or that there is no such folder. Else words as in "user 1000".
std::string others_who_write(const std::string& path);

}  // namespace sluice
