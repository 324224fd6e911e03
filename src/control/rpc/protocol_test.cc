#include "control/rpc/protocol.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

using nlohmann::json;
using Type = RpcParam::Type;
using Need = RpcParam::Need;

class RpcProtocol : public ::testing::Test {
 protected:
  RpcProtocol() {
    methods_.add(
        "subtract", {{"minuend", Type::kInteger}, {"subtrahend", Type::kInteger}},
        [](const json& p) -> Result<json> { return p["minuend"].get<int>() - p["subtrahend"].get<int>(); });
    methods_.add("sum",
                 {{"a", Type::kInteger}, {"b", Type::kInteger}, {"c", Type::kInteger, Need::kOptional}},
                 [](const json& p) -> Result<json> {
                   return p["a"].get<int>() + p["b"].get<int>() + p.value("c", 0);
                 });
    methods_.add("notify_hello", {{"n", Type::kInteger}}, [this](const json&) -> Result<json> {
      ++notified_;
      return nullptr;
    });
    methods_.add("get_data", {}, [](const json&) -> Result<json> { return json{"hello", 5}; });
    methods_.add("typed",
                 {{"s"}, {"b", Type::kBoolean, Need::kOptional}, {"i", Type::kInteger, Need::kOptional}},
                 [](const json&) -> Result<json> { return true; });
    methods_.add("fails", {},
                 [](const json&) -> Result<json> { return std::unexpected(Error{"no such device", 19}); });
    methods_.add("throws", {}, [](const json& p) -> Result<json> { return p.at("nothing"); });
    methods_.add("not_utf8", {}, [](const json&) -> Result<json> { return "a\xff"; });
    methods_.add("huge", {}, [](const json&) -> Result<json> { return std::string(kMaxReplyBytes, 'x'); });
  }

  // The reply as JSON; null for none.
  json ask(std::string_view request) {
    auto reply = methods_.handle(request);
    return reply ? json::parse(*reply) : json(nullptr);
  }
  static json error(int code, const json& id = nullptr) { return {{"code", code}, {"id", id}}; }
  static json code_of(const json& reply) {
    return {{"code", reply.at("error").at("code")}, {"id", reply.at("id")}};
  }

  RpcMethods methods_;
  int notified_ = 0;
};

// The examples of section 7 that are no batch and name their parameters; error messages are ours, codes and ids
// are the specification's.
TEST_F(RpcProtocol, AnswersTheExamplesOfTheSpecificationAsItDoes) {
  EXPECT_EQ(
      ask(R"({"jsonrpc": "2.0", "method": "subtract", "params": {"subtrahend": 23, "minuend": 42}, "id": 3})"),
      json::parse(R"({"jsonrpc": "2.0", "result": 19, "id": 3})"));
  EXPECT_EQ(ask(R"({"jsonrpc": "2.0", "method": "notify_hello", "params": {"n": 7}})"), nullptr);
  EXPECT_EQ(ask(R"({"jsonrpc": "2.0", "method": "foobar"})"), nullptr);
  EXPECT_EQ(code_of(ask(R"({"jsonrpc": "2.0", "method": "foobar", "id": "1"})")), error(-32601, "1"));
  EXPECT_EQ(code_of(ask(R"({"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz])")), error(-32700));
  EXPECT_EQ(code_of(ask(R"({"jsonrpc": "2.0", "method": 1, "params": "bar"})")), error(-32600));
  EXPECT_EQ(
      code_of(ask(R"({"jsonrpc": "2.0", "method": "foo.get", "params": {"name": "myself"}, "id": "5"})")),
      error(-32601, "5"));
  EXPECT_EQ(ask(R"({"jsonrpc": "2.0", "method": "get_data", "id": "9"})"),
            json::parse(R"({"jsonrpc": "2.0", "result": ["hello", 5], "id": "9"})"));
  EXPECT_EQ(notified_, 1);
}

TEST_F(RpcProtocol, BatchesAndParametersByPositionAreRefused) {
  EXPECT_EQ(code_of(ask("[]")), error(-32600));
  EXPECT_EQ(code_of(ask(R"([{"jsonrpc": "2.0", "method": "notify_hello", "params": {"n": 7}}])")),
            error(-32600));
  EXPECT_EQ(code_of(ask(R"({"jsonrpc": "2.0", "method": "subtract", "params": [42, 23], "id": 1})")),
            error(-32600, 1));
  EXPECT_EQ(notified_, 0);
}

TEST_F(RpcProtocol, NotificationHasNoReplyEvenWhenItFails) {
  EXPECT_EQ(ask(R"({"jsonrpc":"2.0","method":"fails"})"), nullptr);
  EXPECT_EQ(ask(R"({"jsonrpc":"2.0","method":"subtract","params":{"minuend":1}})"), nullptr);
}

TEST_F(RpcProtocol, IdIsAStringANumberOrNullAndComesBackAsItWas) {
  for (const char* id : {"\"x\"", "7", "-1", "1.5", "null", "18446744073709551615"}) {
    json reply = ask(fmt::format(R"({{"jsonrpc":"2.0","method":"get_data","id":{}}})", id));
    EXPECT_EQ(reply["id"], json::parse(id));
    EXPECT_TRUE(reply.contains("result"));
  }
  for (const char* id : {"true", "[]", "{}"}) {
    EXPECT_EQ(code_of(ask(fmt::format(R"({{"jsonrpc":"2.0","method":"get_data","id":{}}})", id))),
              error(-32600));
  }
  EXPECT_EQ(code_of(ask(R"({"jsonrpc":"1.0","method":"get_data","id":3})")), error(-32600, 3));
}

TEST_F(RpcProtocol, ParametersAreCheckedBeforeTheMethodIsCalled) {
  auto message = [&](const char* params) {
    json reply = ask(fmt::format(R"({{"jsonrpc":"2.0","method":"typed","params":{},"id":1}})", params));
    EXPECT_EQ(code_of(reply), error(-32602, 1)) << params;
    return reply["error"]["message"].get<std::string>();
  };
  EXPECT_EQ(message("{}"), "typed: parameter s is missing; it must be a string");
  EXPECT_EQ(message(R"({"s": 1})"), "typed: parameter s must be a string");
  EXPECT_EQ(message(R"({"s": "", "b": 1})"), "typed: parameter b must be true or false");
  EXPECT_EQ(message(R"({"s": "", "i": [1]})"), "typed: parameter i must be an integer");
  EXPECT_EQ(message(R"({"s": "", "x": 1})"), "typed: unknown parameter \"x\"; known parameters: s, b, i");
}

TEST_F(RpcProtocol, ErrorOfAMethodCarriesItsSentenceAndNumber) {
  EXPECT_EQ(
      ask(R"({"jsonrpc":"2.0","method":"fails","id":1})"),
      json::parse(
          R"({"jsonrpc":"2.0","error":{"code":-32000,"message":"no such device","data":{"errno":19}},"id":1})"));
  EXPECT_EQ(code_of(ask(R"({"jsonrpc":"2.0","method":"throws","id":1})")), error(-32603, 1));
}

TEST_F(RpcProtocol, Malicious_BytesThatAreNotUtf8DoNotThrow) {
  EXPECT_EQ(ask(R"({"jsonrpc":"2.0","method":"not_utf8","id":1})")["result"], "a\xef\xbf\xbd");
  EXPECT_EQ(code_of(ask("{\"jsonrpc\":\"2.0\",\"method\":\"\xff\",\"id\":1}")), error(-32700));
}

TEST_F(RpcProtocol, Malicious_D6_NestingAndReplyAreBounded) {
  EXPECT_EQ(code_of(ask(std::string(kMaxRequestBytes, '['))), error(-32600));
  std::string deep =
      R"({"jsonrpc":"2.0","id":1,"method":"typed","params":{"s":")" + std::string(1000, '[') + R"("}})";
  EXPECT_EQ(ask(deep)["result"], true) << "brackets in a string are text";
  EXPECT_EQ(code_of(ask(R"({"jsonrpc":"2.0","method":"huge","id":1})")), error(-32603, 1));
}

TEST(LineBuffer, GivesTheSameLinesHoweverTheStreamIsCut) {
  std::string stream = "one\ntwo\r\n\nfour\npart";
  for (std::size_t step = 1; step <= stream.size(); ++step) {
    LineBuffer buffer;
    std::vector<std::string> lines;
    for (std::size_t at = 0; at < stream.size(); at += step) {
      buffer.append(stream.substr(at, step));
      while (auto line = buffer.next()) {
        lines.emplace_back(*line);
      }
    }
    EXPECT_EQ(lines, (std::vector<std::string>{"one", "two", "", "four"})) << "step " << step;
    EXPECT_EQ(buffer.size(), 4u);
  }
}

TEST(LineBuffer, Malicious_LineWithoutAnEndIsTooLongAtTheLimit) {
  LineBuffer buffer;
  buffer.append("short\n" + std::string(kMaxRequestBytes, 'x'));
  EXPECT_EQ(buffer.next(), "short");
  EXPECT_EQ(buffer.next(), std::nullopt);
  EXPECT_FALSE(buffer.too_long());
  buffer.append("\n");
  EXPECT_EQ(buffer.next()->size(), kMaxRequestBytes);
  buffer.append(std::string(kMaxRequestBytes + 1, 'x'));
  EXPECT_EQ(buffer.next(), std::nullopt);
  EXPECT_TRUE(buffer.too_long());
  buffer.append("\nshort\n");
  EXPECT_EQ(buffer.next(), std::nullopt);
  EXPECT_TRUE(buffer.too_long()) << "an end that comes too late does not help";
}

}  // namespace
}  // namespace sluice
