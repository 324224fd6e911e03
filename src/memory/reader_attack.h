// What a hostile holder of a read-only descriptor tries, in its own process or in ours.
#pragma once

#include <string>
#include <vector>

namespace sluice::test {

// Tries everything on `fd`, a file of `bytes`; returns the names of the attacks that were not refused.
std::vector<std::string> attack_as_reader(int fd, std::size_t bytes);

// Forks a peer before the memory exists, so that it inherits neither mapping nor descriptor. give() hands it
// a descriptor over SCM_RIGHTS and waits for what its `work` says.
class Peer {
 public:
  enum class As { kSameUser, kNobody };
  using Work = std::string (*)(int fd, std::size_t bytes);
  Peer(As as, Work work);
  ~Peer();
  std::string give(int fd, std::size_t bytes);  // what the work returned; "" is a peer that died

 private:
  [[noreturn]] void serve(As as, Work work);
  int socket_ = -1;
  int pid_ = -1;
};

}  // namespace sluice::test
