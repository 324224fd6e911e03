// JSON-RPC 2.0 (https://www.jsonrpc.org/specification) as text in, text out; and the lines that carry it. Without
// batches, and with parameters by name alone: a client sends one line after the other.
// No sockets here: this is what the fuzzer and the table of the specification's examples drive.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace sluice {

inline constexpr std::size_t kMaxRequestBytes = std::size_t{1} << 20;  // one line (D6)
inline constexpr std::size_t kMaxReplyBytes = std::size_t{32} << 20;   // 65536 rules of `show.rules` fit
inline constexpr std::uint64_t kMaxHeldNs = 3'000'000'000;             // a reply, for what it says to be so
inline constexpr int kMaxDepth = 32;                                   // of nesting; a port or a rule needs 4

enum class RpcCode : int {
  kParseError = -32700,
  kInvalidRequest = -32600,
  kMethodNotFound = -32601,
  kInvalidParams = -32602,
  kInternalError = -32603,
  kFailed = -32000,  // the method's own error: message is its sentence, data.errno the system's number if
                     // there is one
};

struct RpcParam {
  enum class Type { kString, kInteger, kBoolean, kAny };
  enum class Need { kRequired, kOptional };
  std::string name;
  Type type = Type::kString;
  Need need = Need::kRequired;
};

using RpcHandler = std::function<Result<nlohmann::json>(const nlohmann::json& params)>;

class RpcMethods {
 public:
  // Parameters have names; the handler gets them checked.
  void add(std::string name, std::vector<RpcParam> params, RpcHandler handler);

  // Methods whose change may need a while to be in effect: their replies are held back until `settled` says
  // so, or for kMaxHeldNs.
  void hold_until(std::function<bool()> settled) { settled_ = std::move(settled); }
  void add_slow(std::string name, std::vector<RpcParam> params, RpcHandler handler);
  // After handle(): is its reply to be held back?
  bool is_held() const { return slow_ && !is_settled(); }
  bool is_settled() const { return !settled_ || settled_(); }

  // The reply to one request, without a newline; none for a notification. Throws
  // std::bad_alloc where there is no room for it, and nothing else.
  std::optional<std::string> handle(std::string_view request) const;

 private:
  struct Method {
    std::vector<RpcParam> params;
    RpcHandler handler;
    bool slow = false;
  };
  std::optional<nlohmann::json> handle_one(const nlohmann::json& request) const;
  nlohmann::json call(const nlohmann::json& request, const nlohmann::json& id) const;

  std::map<std::string, Method, std::less<>> methods_;
  std::function<bool()> settled_;
  mutable bool slow_ = false;  // the last line had a slow method in it
};

// {"jsonrpc":"2.0","error":{...},"id":id}
nlohmann::json rpc_error(const nlohmann::json& id, RpcCode code, const std::string& message);
// Text of any value; bytes that are not UTF-8 (a client's name for itself) become U+FFFD instead of an
// exception.
std::string rpc_text(const nlohmann::json& value);

// Cuts a stream of bytes into lines of at most kMaxRequestBytes.
class LineBuffer {
 public:
  void append(std::string_view bytes) { bytes_.append(bytes); }
  // The next whole line, without its end; none yet. The view holds until the next call.
  std::optional<std::string_view> next();
  // What has come of the line that is not whole yet is longer than a line may be.
  bool too_long() const {
    return bytes_.size() - begin_ > kMaxRequestBytes && searched_ > begin_ + kMaxRequestBytes;
  }
  std::size_t size() const { return bytes_.size() - begin_; }

 private:
  std::string bytes_;
  std::size_t begin_ = 0;     // of the next line
  std::size_t searched_ = 0;  // no line ends before here
};

}  // namespace sluice
