// fs.aio-max-nr is the whole system's, and any local user can use it up: guests are interrupted all the same.
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>

#include "test/system/fixture.h"
#include "test/vhost/good_guest.h"

namespace sluice::test {
namespace {

using nlohmann::json;

// All AIO that is left on this machine; it comes back when this, or the process, ends.
class AllAio {
 public:
  // Above it, contexts of the largest size would take too long to be made and destroyed.
  static constexpr std::uint64_t kMost = 1 << 22;
  static std::uint64_t limit() {
    std::uint64_t most = 0;
    std::ifstream("/proc/sys/fs/aio-max-nr") >> most;
    return most;
  }
  AllAio() { take(); }
  ~AllAio() { give_back(); }
  // Few and large ones: each takes a while to be destroyed.
  void take() {
    for (unsigned events = 32768; events != 0;) {
      aio_context_t context = 0;
      if (::syscall(SYS_io_setup, events, &context) == 0) {
        contexts_.push_back(context);
      } else {
        events /= 2;
      }
    }
  }
  static bool used_up() {
    aio_context_t context = 0;
    if (::syscall(SYS_io_setup, 1, &context) == 0) {
      ::syscall(SYS_io_destroy, context);
      return false;
    }
    return errno == EAGAIN;
  }
  void give_back() {
    for (const aio_context_t context : contexts_) {
      ::syscall(SYS_io_destroy, context);
    }
    contexts_.clear();
  }

 private:
  std::vector<aio_context_t> contexts_;
};

class Malicious_Aio : public SystemTest {
 protected:
  struct Guest {
    explicit Guest(const std::string& socket) : front(FrontEnd::connect(socket)) {
      rings.bring_up(front);
      need(front.barrier(), "the rings of " + socket);
    }
    FrontEnd front;
    GoodGuest rings;
  };
  static std::string guest(int number) {
    return fmt::format(
        "[port.vm{0}]\ntype = \"guest\"\nsocket = \"@/vm{0}.sock\"\nmac = \"52:54:00:00:00:{0:02x}\"\n",
        number);
  }
  Guest connect(int number) { return Guest(daemon().path(fmt::format("vm{}.sock", number))); }
  static bool send(Guest& from, std::uint8_t from_number, std::uint8_t to_number) {
    std::vector<std::byte> frame(64);
    const std::array<std::uint8_t, 14> head{0x52, 0x54, 0, 0, 0,           to_number, 0x52,
                                            0x54, 0,    0, 0, from_number, 0x88,      0xb5};
    std::memcpy(frame.data(), head.data(), head.size());
    const bool sent = from.rings.send(frame);
    from.rings.kick_transmit();
    return sent;
  }
  // A frame goes from one to the other, and both are interrupted for it.
  static ::testing::AssertionResult both_are_called(Guest& from, std::uint8_t from_number, Guest& to,
                                                    std::uint8_t to_number) {
    if (!send(from, from_number, to_number)) {
      return ::testing::AssertionFailure() << "its ring is full";
    }
    if (!eventually([&] { return to.rings.receive().has_value(); })) {
      return ::testing::AssertionFailure() << "the frame does not come";
    }
    if (!eventually([&] { return to.rings.called(0); })) {
      return ::testing::AssertionFailure() << "who received is not interrupted";
    }
    if (!eventually([&] { return from.rings.called(1); })) {
      return ::testing::AssertionFailure() << "who sent is not interrupted";
    }
    return ::testing::AssertionSuccess();
  }
  std::string called_by(int number) {
    for (const json& each : daemon().show("guests")) {
      if (each["name"] == fmt::format("vm{}", number)) {
        return each["calls"];
      }
    }
    return "";
  }
};

TEST_F(Malicious_Aio, GuestsAreInterruptedWithoutItAndByItAgainWhenItComesBack) {
  if (AllAio::limit() == 0 || AllAio::limit() > AllAio::kMost) {
    GTEST_SKIP() << "fs.aio-max-nr is " << AllAio::limit() << ", which cannot be used up here";
  }
  AllAio all;
  ASSERT_TRUE(AllAio::used_up());
  start(nic_table() + guest(1) + guest(2));
  EXPECT_NE(daemon().log().find("no AIO context to be had (fs.aio-max-nr)"), std::string::npos);
  EXPECT_GE(daemon().counter("daemon.threads_without_aio"), 1u);
  Guest one = connect(1), two = connect(2);
  for (int i = 0; i < 50; ++i) {
    all.take();  // what others have given back meanwhile
    ASSERT_TRUE(both_are_called(one, 1, two, 2)) << i;
  }
  ASSERT_TRUE(AllAio::used_up());
  EXPECT_EQ(called_by(1), "write");
  EXPECT_EQ(called_by(2), "write");
  EXPECT_GE(port_counter("vm1", "calls_by_write"), 1u);
  EXPECT_GE(port_counter("vm2", "calls_by_write"), 1u);
  EXPECT_EQ(port_counter("vm1", "calls_failed"), 0u);

  // Each thread asks again at its next call 100 ms later; the last one to do so may be the worker.
  all.give_back();
  const auto written = [&] {
    return port_counter("vm1", "calls_by_write") + port_counter("vm2", "calls_by_write");
  };
  EXPECT_TRUE(eventually([&] {
    const std::uint64_t before = written();
    for (int i = 0; i < 20; ++i) {
      EXPECT_TRUE(both_are_called(two, 2, one, 1)) << i;
    }
    return written() == before && called_by(1) == "aio" && called_by(2) == "aio";
  }));
}

// Without AIO a call is a write, and a write to an eventfd can wait.
TEST_F(Malicious_Aio, ADescriptorThatMakesAWriteWaitCostsItsOwnerAMillisecondAndNobodyElse) {
  if (AllAio::limit() == 0 || AllAio::limit() > AllAio::kMost) {
    GTEST_SKIP() << "fs.aio-max-nr is " << AllAio::limit() << ", which cannot be used up here";
  }
  AllAio all;
  ASSERT_TRUE(AllAio::used_up());
  start(nic_table() + guest(1) + guest(2) + guest(3) + guest(4) + guest(5));
  Guest one = connect(1), two = connect(2);
  std::vector<Guest> bad;
  for (int number = 3; number <= 5; ++number) {  // more than there are threads that wake
    bad.push_back(connect(number));
    const int fd = bad.back().rings.call[1].get();
    const std::uint64_t all_but_one = 0xffff'ffff'ffff'fffe;
    ASSERT_EQ(::write(fd, &all_but_one, sizeof all_but_one), 8);
    ASSERT_EQ(::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) & ~O_NONBLOCK), 0);
  }
  const auto waits = [&] {
    std::uint64_t sum = 0;
    for (int number = 3; number <= 5; ++number) {
      sum += port_counter(fmt::format("vm{}", number), "fault_call_waits");
    }
    return sum;
  };
  for (std::uint8_t i = 0; i < bad.size(); ++i) {
    ASSERT_TRUE(send(bad[i], static_cast<std::uint8_t>(3 + i), 9));
  }
  EXPECT_TRUE(eventually([&] { return waits() == bad.size(); })) << waits();
  for (int round = 0; round < 20; ++round) {
    all.take();
    for (std::uint8_t i = 0; i < bad.size(); ++i) {
      ASSERT_TRUE(send(bad[i], static_cast<std::uint8_t>(3 + i), 9));
    }
    ASSERT_TRUE(both_are_called(one, 1, two, 2)) << round;
  }
  EXPECT_EQ(waits(), bad.size()) << "it is written to once";
  EXPECT_EQ(port_counter("vm1", "fault_call_waits"), 0u);
}

}  // namespace
}  // namespace sluice::test
