// Any bytes, cut anywhere: framing and dispatch never crash, and every reply is one line of JSON-RPC.
#include <cstdint>

#include "base/check.h"
#include "control/rpc/protocol.h"

namespace {

const sluice::RpcMethods& methods() {
  static const sluice::RpcMethods kMethods = [] {
    using Type = sluice::RpcParam::Type;
    using Need = sluice::RpcParam::Need;
    sluice::RpcMethods made;
    made.add("echo",
             {{"text"},
              {"count", Type::kInteger, Need::kOptional},
              {"flag", Type::kBoolean, Need::kOptional},
              {"any", Type::kAny, Need::kOptional}},
             [](const nlohmann::json& params) -> sluice::Result<nlohmann::json> { return params; });
    made.add("fail", {},
             [](const nlohmann::json&) -> sluice::Result<nlohmann::json> { return sluice::fail("\xff no"); });
    return made;
  }();
  return kMethods;
}

void check_reply(const nlohmann::json& reply) {
  SLUICE_CHECK(reply.is_object() && reply.at("jsonrpc") == "2.0" && reply.contains("id"));
  SLUICE_CHECK(reply.contains("result") != reply.contains("error"));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) {
    return 0;
  }
  std::size_t step = std::size_t{data[0]} + 1;  // how the stream is cut
  std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  sluice::LineBuffer buffer;
  std::size_t taken = 0;
  for (std::size_t at = 0; at < bytes.size(); at += step) {
    buffer.append(bytes.substr(at, step));
    while (auto line = buffer.next()) {
      taken += line->size() + 1;
      if (auto reply = methods().handle(*line)) {
        SLUICE_CHECK(reply->find('\n') == std::string::npos);
        check_reply(nlohmann::json::parse(*reply));
      }
    }
  }
  SLUICE_CHECK(taken <= bytes.size());
  return 0;
}
