#include <gtest/gtest.h>

#include "sluice/sluice.h"
#include "test_daemon.h"

extern "C" int c_client_without_daemon(const char* path);
extern "C" int c_client(const char* path, void (*deliver)(unsigned count, unsigned lane));

namespace sluice::testing {
namespace {

TestDaemon* daemon_of_the_test = nullptr;

void deliver(unsigned count, unsigned lane) {
  for (unsigned i = 0; i < count; ++i) {
    Bytes frame(60 + i, static_cast<std::byte>(60 + i));
    daemon_of_the_test->session().deliver(frame, lane);
  }
}

TEST(CFacade, DoesForACProgramWhatTheHeaderSays) {
  TestFolder folder;
  TestDaemon daemon(folder.socket(), {.lanes = 2});
  daemon_of_the_test = &daemon;
  EXPECT_EQ(c_client(folder.socket().c_str(), deliver), 0) << "line of c_client.c: " << sluice_last_error();
  EXPECT_EQ(daemon.session().client, "c client");
  EXPECT_EQ(daemon.session().take_back(0).size(), 3u);
  EXPECT_EQ(daemon.session().take_back(1).size(), 1u);
  EXPECT_EQ(daemon.session().take_tx(0).size(), 2u);
}

TEST(CFacade, ReportsErrorsAsNumbersWithASentence) {
  TestFolder folder;
  EXPECT_EQ(c_client_without_daemon(folder.socket().c_str()), 0) << "line of c_client.c";
}

}  // namespace
}  // namespace sluice::testing
