// TempFolder: a folder under /tmp that goes with its owner; others may enter it.
#pragma once

#include <string>

namespace sluice::test {

class TempFolder {
 public:
  explicit TempFolder(const std::string& name = "system");  // part of the folder's
  ~TempFolder() { remove(); }
  TempFolder(const TempFolder&) = delete;
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }
  void remove() const;  // before its time, with all that is in it

 private:
  std::string path_;
};

}  // namespace sluice::test
