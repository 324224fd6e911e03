#include "control/rpc/protocol.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>

#include "control/config/did_you_mean.h"

namespace sluice {

using nlohmann::json;

namespace {

// The JSON library allocates where it must not fail, in destructors, so a request is begun only where there
// is room for it: values take up to 25 times their text, and twice that while an array grows. Looked at, not
// taken: what asks here is the only thread that asks for much.
constexpr std::size_t kRoomPerByte = 64;
constexpr std::size_t kRoomForReply = std::size_t{8} << 20;

bool has_room(std::size_t bytes) {
  void* room = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return room != MAP_FAILED && ::munmap(room, bytes) == 0;
}

// JSON that is nested deeply enough would overflow the stack of whoever copies or prints it.
bool too_deep(std::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (in_string) {
      i += c == '\\' ? 1 : 0;
      in_string = c != '"';
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kMaxDepth) {
        return true;
      }
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return false;
}

bool has_type(const json& value, RpcParam::Type type) {
  switch (type) {
    case RpcParam::Type::kString:
      return value.is_string();
    case RpcParam::Type::kInteger:
      return value.is_number_integer();
    case RpcParam::Type::kBoolean:
      return value.is_boolean();
    case RpcParam::Type::kAny:
      return true;
  }
  return false;
}

std::string_view type_name(RpcParam::Type type) {
  constexpr std::string_view kNames[] = {"a string", "an integer", "true or false", "a value"};
  return kNames[static_cast<std::size_t>(type)];
}

// By name, checked against `specs`; the error is what is wrong with them.
Result<json> named_params(const json& request, const std::vector<RpcParam>& specs) {
  json named = request.value("params", json::object());
  for (const auto& [name, value] : named.items()) {
    auto spec = std::ranges::find(specs, name, &RpcParam::name);
    if (spec == specs.end()) {
      std::vector<std::string_view> known;
      std::ranges::transform(specs, std::back_inserter(known),
                             [](const RpcParam& param) { return std::string_view(param.name); });
      return fail("unknown parameter \"{}\"{}", name, suggestion(name, known, "parameters"));
    }
    if (!has_type(value, spec->type)) {
      return fail("parameter {} must be {}", name, type_name(spec->type));
    }
  }
  for (const RpcParam& spec : specs) {
    if (spec.need == RpcParam::Need::kRequired && !named.contains(spec.name)) {
      return fail("parameter {} is missing; it must be {}", spec.name, type_name(spec.type));
    }
  }
  return named;
}

bool valid_id(const json& id) {
  return id.is_string() || id.is_number() || id.is_null();
}

}  // namespace

json rpc_error(const json& id, RpcCode code, const std::string& message) {
  return {
      {"jsonrpc", "2.0"}, {"error", {{"code", static_cast<int>(code)}, {"message", message}}}, {"id", id}};
}

std::string rpc_text(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

void RpcMethods::add(std::string name, std::vector<RpcParam> params, RpcHandler handler) {
  methods_[std::move(name)] = Method{std::move(params), std::move(handler)};
}

void RpcMethods::add_slow(std::string name, std::vector<RpcParam> params, RpcHandler handler) {
  methods_[std::move(name)] = Method{std::move(params), std::move(handler), true};
}

json RpcMethods::call(const json& request, const json& id) const {
  const std::string& name = request["method"].get_ref<const std::string&>();
  auto method = methods_.find(name);
  if (method == methods_.end()) {
    std::vector<std::string_view> known;
    for (const auto& [known_name, unused] : methods_) {
      known.push_back(known_name);
    }
    return rpc_error(id, RpcCode::kMethodNotFound,
                     "unknown method \"" + name + "\"" + suggestion(name, known, "methods"));
  }
  auto params = named_params(request, method->second.params);
  if (!params) {
    return rpc_error(id, RpcCode::kInvalidParams, name + ": " + params.error().message);
  }
  slow_ |= method->second.slow;
  try {  // the border to what the libraries below may throw
    auto result = method->second.handler(*params);
    if (!result) {
      json reply = rpc_error(id, RpcCode::kFailed, result.error().message);
      if (result.error().os_errno != 0) {
        reply["error"]["data"] = {{"errno", result.error().os_errno}};
      }
      return reply;
    }
    return {{"jsonrpc", "2.0"}, {"result", std::move(*result)}, {"id", id}};
  } catch (const std::exception& error) {
    return rpc_error(id, RpcCode::kInternalError, name + ": " + error.what());
  }
}

// Section 4: a request without an id is a notification, and has
// no reply whatever becomes of it; section 5: what is not a request is answered with a null id, unless the id
// can be told.
std::optional<json> RpcMethods::handle_one(const json& request) const {
  if (!request.is_object()) {
    return rpc_error(nullptr, RpcCode::kInvalidRequest, "a request is an object");
  }
  auto id = request.find("id");
  bool id_is_good = id != request.end() && valid_id(*id);
  json reply_id = id_is_good ? *id : json(nullptr);
  auto version = request.find("jsonrpc");
  auto method = request.find("method");
  auto params = request.find("params");
  if (version == request.end() || *version != "2.0") {
    return rpc_error(reply_id, RpcCode::kInvalidRequest, "jsonrpc must be \"2.0\"");
  }
  if (method == request.end() || !method->is_string()) {
    return rpc_error(reply_id, RpcCode::kInvalidRequest, "method must be a string");
  }
  if (params != request.end() && !params->is_object()) {
    return rpc_error(reply_id, RpcCode::kInvalidRequest, "params must be an object");
  }
  if (id != request.end() && !id_is_good) {
    return rpc_error(nullptr, RpcCode::kInvalidRequest, "id must be a string, a number or null");
  }
  json reply = call(request, reply_id);
  return id == request.end() ? std::nullopt : std::optional(std::move(reply));
}

std::optional<std::string> RpcMethods::handle(std::string_view text) const {
  if (!has_room(kRoomForReply + kRoomPerByte * text.size())) {
    throw std::bad_alloc();
  }
  slow_ = false;
  if (too_deep(text)) {
    return rpc_text(
        rpc_error(nullptr, RpcCode::kInvalidRequest, fmt::format("nested deeper than {} levels", kMaxDepth)));
  }
  json request = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (request.is_discarded()) {
    return rpc_text(rpc_error(nullptr, RpcCode::kParseError, "not JSON"));
  }
  auto reply = handle_one(request);
  if (!reply) {
    return std::nullopt;
  }
  std::string out = rpc_text(*reply);
  return out.size() <= kMaxReplyBytes
             ? out
             : rpc_text(rpc_error((*reply)["id"], RpcCode::kInternalError, "the reply is too large"));
}

std::optional<std::string_view> LineBuffer::next() {
  std::size_t end = bytes_.find('\n', searched_);
  if (end == std::string::npos || end - begin_ > kMaxRequestBytes) {
    searched_ = bytes_.size();
    if (begin_ > 0 && end == std::string::npos) {  // the lines before are done with
      bytes_.erase(0, begin_);
      searched_ -= begin_;
      begin_ = 0;
    }
    return std::nullopt;
  }
  std::string_view line = std::string_view(bytes_).substr(begin_, end - begin_);
  begin_ = searched_ = end + 1;
  if (line.ends_with('\r')) {
    line.remove_suffix(1);
  }
  return line;
}

}  // namespace sluice
