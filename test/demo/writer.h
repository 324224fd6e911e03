// An app that turns on the packets it is lent.
#pragma once

#include <string>

namespace sluice::demo {

// In a process of its own: attaches, waits for a packet, tries every way there is to write it, prints one
// line for each: "refused WAY (why)" or "DONE WAY". At last it just writes, and should not live on.
int try_to_write(const std::string& socket);

}  // namespace sluice::demo
