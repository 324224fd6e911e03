// GuestTest: a SystemTest whose daemon has guest ports.
#pragma once

#include <string>
#include <vector>

#include "test/guest/echo.h"
#include "test/guest/testpmd.h"
#include "test/system/fixture.h"

namespace sluice::test {

void need(const Result<void>& done);

// A piece of a config; its socket: @/NAME.sock.
std::string guest_port(const std::string& name, const std::string& mac, const std::string& more = "");

class GuestTest : public SystemTest {
 protected:
  explicit GuestTest(VethOptions links = {}) : SystemTest(std::move(links)) {}
  void SetUp() override;

  nlohmann::json guest(const std::string& port);  // of `show guests`; null: there is none
  // Waits for a state of a guest port, as `show guests` calls it.
  bool guest_becomes(const std::string& port, const std::string& state);
  // What has gone wrong with a guest port, by name: every fault and drop that is not zero; empty: nothing.
  std::string troubles(const std::string& port);
};

}  // namespace sluice::test
