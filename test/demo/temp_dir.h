// A directory of the demo's own, for its user alone; gone with it.
#pragma once

#include <string>
#include <utility>

#include "base/result.h"

namespace sluice::demo {

class TempDir {
 public:
  static Result<TempDir> create();
  TempDir(TempDir&& other) noexcept : path_(std::exchange(other.path_, "")) {}
  ~TempDir() { remove(); }

  const std::string& path() const { return path_; }
  void remove() const;

 private:
  explicit TempDir(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

}  // namespace sluice::demo
