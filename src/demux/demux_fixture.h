// For tests: a loaded Demux whose ports are sockets, so that the metadata of a packet says which rule took
// it.
#pragma once

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <cstring>
#include <map>
#include <memory>
#include <string>

#include "abi/packet_meta.h"
#include "demux/demux.h"
#include "demux/naive_match.h"
#include "demux/packet_builder.h"
#include "demux/test_run.h"

namespace sluice::testing {

class CounterMap final : public CounterVisitor {
 public:
  void counter(std::string_view name, std::uint64_t value) override {
    EXPECT_TRUE(values_.emplace(name, value).second) << name;
  }
  std::uint64_t operator[](const std::string& name) const {
    auto found = values_.find(name);
    EXPECT_NE(found, values_.end()) << name;
    return found == values_.end() ? 0 : found->second;
  }

 private:
  std::map<std::string, std::uint64_t> values_;
};

class DemuxTest : public ::testing::Test {
 protected:
  static constexpr PortId kPort{2};

  void SetUp() override {
    auto demux = Demux::load(4);
    if (!demux && (demux.error().os_errno == EPERM || demux.error().os_errno == EACCES)) {
      GTEST_SKIP() << demux.error().message;
    }
    ASSERT_TRUE(demux) << demux.error().message;
    demux_ = std::move(*demux);
    // A socket need not be bound to stand in the map; a test run delivers nothing.
    socket_.reset(::socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0));
    if (!socket_) {
      GTEST_SKIP() << "no AF_XDP in this kernel";
    }
    ASSERT_TRUE(demux_->set_socket(QueueId{0}, socket_.get()));
    ASSERT_TRUE(demux_->set_port(kPort, {.kind = PortKind::kSocket}));
  }

  static Rule rule(std::string_view match, std::uint32_t slot = 0, PortId port = kPort,
                   std::int32_t priority = 0) {
    return {.match = parse_match(match).value(), .port = port, .priority = priority, .slot = RuleSlot{slot}};
  }
  void use(std::initializer_list<Rule> rules) { use(std::vector<Rule>(rules)); }
  void use(const std::vector<Rule>& rules) {
    auto replaced = demux_->replace_rules(rules);
    ASSERT_TRUE(replaced) << replaced.error().message;
  }
  RunResult run(const Bytes& frame, const RunOptions& options = {}) {
    return test_run(demux_->program_fd(), frame, options);
  }

  // What the program put in front of the frame.
  static sluice_packet_meta meta_of(const RunResult& result) {
    sluice_packet_meta meta{};
    EXPECT_GE(result.output.size(), sizeof meta);
    std::memcpy(&meta, result.output.data(), std::min(sizeof meta, result.output.size()));
    EXPECT_TRUE(sluice_meta_is_ours(meta));
    return meta;
  }
  // The slot of the rule that took the frame, all rules being to kPort; -1: passed.
  std::int64_t slot_of(const Bytes& frame) {
    RunResult result = run(frame);
    EXPECT_EQ(result.error, 0) << std::strerror(result.error) << ", " << frame.size() << " bytes";
    if (result.verdict == XDP_PASS) {
      EXPECT_EQ(result.output, frame);
      return -1;
    }
    EXPECT_EQ(result.verdict, static_cast<std::uint32_t>(XDP_REDIRECT));
    EXPECT_TRUE(std::equal(frame.begin(), frame.end(), result.output.begin() + sizeof(sluice_packet_meta),
                           result.output.end()));
    return sluice_meta_rule(meta_of(result));
  }
  CounterMap counters() const {
    CounterMap map;
    demux_->visit(map);
    return map;
  }
  CounterMap counters(PortId port) const {
    CounterMap map;
    demux_->visit_port(port, map);
    return map;
  }

  std::unique_ptr<Demux> demux_;
  UniqueFd socket_;
};

}  // namespace sluice::testing
