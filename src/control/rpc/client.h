// RpcClient: a blocking client of the control socket, for sluicectl and tests.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace sluice {

class RpcClient {
 public:
  // `timeout_ms` holds for connecting and for each call.
  static Result<RpcClient> connect(const std::string& path, int timeout_ms = 5000);

  // The result of the method; its error is the daemon's sentence. After an error of the connection itself,
  // connect anew.
  Result<nlohmann::json> call(const std::string& method,
                              const nlohmann::json& params = nlohmann::json::object());

  // One line as it stands, for tests; and the next line that comes.
  Result<void> send_line(const std::string& line);
  Result<std::string> receive_line();
  int fd() const { return fd_.get(); }

 private:
  Result<void> wait(short events, std::uint64_t deadline_ns);

  UniqueFd fd_;
  std::string path_;
  std::string input_;
  int timeout_ms_ = 0;
  std::uint64_t last_id_ = 0;
};

}  // namespace sluice
