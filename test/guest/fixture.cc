#include "test/guest/fixture.h"

namespace sluice::test {

void need(const Result<void>& done) {
  need(done.has_value(), done ? "" : done.error().message);
}

std::string guest_port(const std::string& name, const std::string& mac, const std::string& more) {
  return fmt::format("[port.{0}]\ntype = \"guest\"\nsocket = \"@/{0}.sock\"\nmac = \"{1}\"\n{2}\n", name, mac,
                     more);
}

void GuestTest::SetUp() {
  SystemTest::SetUp();
  if (IsSkipped() || HasFatalFailure()) {
    return;
  }
  // What the wire's own stack sends has whole checksums: a frame that goes round a veth by XDP keeps no note
  // of one that is still to be computed, and a guest would throw it away.
  Finished whole = wire_ns().command("ethtool -K wire0 tx off");
  ASSERT_TRUE(whole.ok()) << whole.output;
}

nlohmann::json GuestTest::guest(const std::string& port) {
  for (const nlohmann::json& each : daemon().show("guests")) {
    if (each["name"] == port) {
      return each;
    }
  }
  return {};
}

bool GuestTest::guest_becomes(const std::string& port, const std::string& state) {
  return eventually([&] {
    nlohmann::json shown = guest(port);
    return !shown.is_null() && shown["state"] == state;
  });
}

std::string GuestTest::troubles(const std::string& port) {
  std::string found;
  const std::string prefix = "port." + port + ".";
  const nlohmann::json counters = daemon().show("counters");
  for (const auto& [name, value] : counters.items()) {
    if (name.starts_with(prefix) &&
        (name.find(".fault_") != std::string::npos || name.find("drop_") != std::string::npos) &&
        value != 0) {
      found += fmt::format("{} {} ", name, value.dump());
    }
  }
  return found;
}

}  // namespace sluice::test
