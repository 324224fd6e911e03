#include "base/burial.h"

#include <utility>

namespace sluice {

namespace {

std::function<void(UniqueFd)>& undertaker() {
  static std::function<void(UniqueFd)> known;
  return known;
}

}  // namespace

void bury(UniqueFd fd) {
  if (fd && undertaker()) {
    undertaker()(std::move(fd));
  }
}

void bury_by(std::function<void(UniqueFd)> how) {
  undertaker() = std::move(how);
}

}  // namespace sluice
