// What cannot be had is refused in one sentence that says what to do, and harms nobody.
#include <bpf/bpf.h>
#include <linux/bpf.h>
#include <linux/if_link.h>

#include <csignal>
#include <filesystem>

#include "port/app/app_peer.h"
#include "test/system/fixture.h"
#include "test/system/other_program.h"

namespace sluice::test {
namespace {

constexpr std::uint16_t kDns = 5000;

class Refusal : public SystemTest {
 protected:
  const std::string dns_ = nic_table() + app_port("dns") + udp_rule(kDns, "dns");

  // The daemon ends with status 1 and one line on stderr that has all of these words; the NIC is as it was.
  void expect_refused(const std::string& config, const std::vector<std::string>& words,
                      const std::vector<std::string>& prefix = {}) {
    Finished ended = daemon().run_to_end(config, prefix);
    EXPECT_EQ(ended.status, 1) << ended.output;
    const std::size_t at = ended.output.find("sluiced: ");
    ASSERT_NE(at, std::string::npos) << ended.output;
    const std::string sentence = ended.output.substr(at);
    EXPECT_EQ(std::count(sentence.begin(), sentence.end(), '\n'), 1) << "one line: " << sentence;
    for (const std::string& word : words) {
      EXPECT_NE(sentence.find(word), std::string::npos) << word << " is not in: " << sentence;
    }
    EXPECT_FALSE(std::filesystem::exists(daemon().path("dns.sock")));
  }
};

TEST_F(Refusal, AConfigWithAnErrorIsRefusedWithFileAndLine) {
  const std::string file = daemon().config_path();
  expect_refused("[nic.nic0]\nring = 3\n", {file + ":4:", "ring"});
  expect_refused("[nic.nic0]\nrings = 64\n", {file + ":4:", "rings"});
  expect_refused(nic_table() + "[port.dns]\ntype = \"guest\"\nsocket = \"/x\"\n",
                 {file + ":", "has no mac; write for example"});
  expect_refused(dns_ + udp_rule(1, "dms"), {file + ":", "did you mean \"dns\""});
  expect_refused("[nic.nic0\n", {file + ":3:"});
  EXPECT_FALSE(nic_has_xdp());
}

TEST_F(Refusal, ANicThatIsNotThereIsNamed) {
  expect_refused(dns_ + nic_table("nic7"), {"nic7", "no network device"});
  EXPECT_FALSE(nic_has_xdp());
}

TEST_F(Refusal, AQueueThatIsNotThereIsNamed) {
  expect_refused(nic_table("nic0", "queues = [0, 5]") + app_port("dns") + udp_rule(kDns, "dns"),
                 {"nic0", "queue 5", "1 RX"});
  EXPECT_FALSE(nic_has_xdp());
}

// A program of somebody else on the NIC.
class Stranger {
 public:
  Stranger(const NetNs& ns, int ifindex) {
    const bpf_insn pass[] = {
        {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .src_reg = 0, .off = 0, .imm = XDP_PASS},
        {.code = BPF_JMP | BPF_EXIT, .dst_reg = 0, .src_reg = 0, .off = 0, .imm = 0}};
    program_.reset(::bpf_prog_load(BPF_PROG_TYPE_XDP, "stranger", "GPL", pass, std::size(pass), nullptr));
    need(bool(program_), "cannot load a BPF program");
    bpf_prog_info info{};
    std::uint32_t bytes = sizeof(info);
    need(::bpf_obj_get_info_by_fd(program_.get(), &info, &bytes) == 0, "cannot ask about a BPF program");
    id_ = info.id;
    ns.run([&] { link_.reset(::bpf_link_create(program_.get(), ifindex, BPF_XDP, nullptr)); });
    need(bool(link_), "cannot attach a BPF program");
  }
  std::uint32_t id() const { return id_; }

 private:
  UniqueFd program_, link_;
  std::uint32_t id_ = 0;
};

TEST_F(Refusal, ANicWithAnotherXdpProgramIsLeftToItAndItsIdIsSaid) {
  {
    Stranger stranger(nic_ns(), pair().nic_ifindex());
    expect_refused(dns_, {"nic0", fmt::format("bpftool prog show id {}", stranger.id())});
    EXPECT_TRUE(nic_has_xdp()) << "the stranger's";
  }
  start(dns_);
}

TEST_F(Refusal, WithoutPrivilegesItSaysWhichAreMissing) {
  std::filesystem::permissions(daemon().path("."), std::filesystem::perms::all);
  expect_refused(dns_, {"CAP_"}, {"setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"});
  EXPECT_FALSE(nic_has_xdp());
}

TEST_F(Refusal, TooLittleLockableMemoryIsSaidWithHowMuchIsNeeded) {
  expect_refused(dns_, {"RLIMIT_MEMLOCK", "CAP_IPC_LOCK", "LimitMEMLOCK="},
                 {"prlimit", "--memlock=1048576", "setpriv", "--inh-caps=-ipc_lock,-sys_resource",
                  "--bounding-set=-ipc_lock,-sys_resource"});
  EXPECT_FALSE(nic_has_xdp());
}

TEST_F(Refusal, ZeroCopyThatTheDriverDoesNotHaveIsAnErrorWhenItIsAskedFor) {
  expect_refused(nic_table("nic0", "mode = \"zerocopy\"") + app_port("dns") + udp_rule(kDns, "dns"),
                 {"nic0", "no AF_XDP zero copy on this queue", "mode = \"auto\""});
  EXPECT_FALSE(nic_has_xdp());
}

TEST_F(Refusal, AQueueThatAnotherProgramHasIsSaidWhileEverythingElseIsServed) {
  auto other = nic_ns().in([&] { return std::make_unique<OtherProgram>("nic0", pair().nic_ifindex()); });
  start(nic_table() + app_port("dns", "queues = [\"nic0:0\"]") + udp_rule(kDns, "dns"));
  EXPECT_NE(daemon().log().find("not open: nic0:0 is opening: "), std::string::npos) << daemon().log();
  nlohmann::json queue = daemon().show("queues")[0];
  EXPECT_TRUE(queue["state"] == "opening" || queue["state"] == "failed") << queue.dump();
  EXPECT_NE(queue["why"].get<std::string>().find("another AF_XDP socket"), std::string::npos) << queue.dump();
  // A program may come and go meanwhile, a reload is answered, and the end is no slower for it.
  for (int round = 0; round < 3; ++round) {
    auto app = attach("dns", kDns, 0);
    EXPECT_EQ(daemon().port("dns")["state"], "attached");
  }
  EXPECT_TRUE(daemon().call("reload"));
  ASSERT_TRUE(eventually([&] { return daemon().show("queues")[0]["state"] == "failed"; })) << daemon().log();
  auto app = attach("dns", kDns, 500);
  other.reset();
  ASSERT_TRUE(eventually([&] { return daemon().show("queues")[0]["state"] == "open"; })) << daemon().log();
  auto to_dns = flow(kDns, {.count = 500, .allowed = app->allowed()});
  to_dns->start();
  app->expect_all_once();
}

TEST_F(Refusal, ASecondDaemonOnTheSameControlSocketEndsAndTheFirstServesOn) {
  start(dns_);
  Stream dns = stream_to("dns", kDns);
  Finished second = daemon().run_to_end(dns_);
  EXPECT_EQ(second.status, 1);
  EXPECT_NE(second.output.find(daemon().control() + " is in use: another process listens on it"),
            std::string::npos)
      << second.output;
  dns.expect_nothing_lost();
}

TEST_F(Refusal, ASecondDaemonOnTheSameNicEndsAndTheFirstServesOn) {
  start(dns_);
  Stream dns = stream_to("dns", kDns);
  Daemon second(nic_ns());
  Finished ended = second.run_to_end(dns_);
  EXPECT_EQ(ended.status, 1);
  EXPECT_NE(ended.output.find("nic0 is taken by"), std::string::npos) << ended.output;
  EXPECT_NE(ended.output.find("sluice"), std::string::npos) << ended.output;
  dns.expect_nothing_lost();
}

TEST_F(Refusal, AProgramOfTheWrongUserIsToldAndTheRightOneMayAttach) {
  start(nic_table() + app_port("dns", "allow_users = [65534]") + udp_rule(kDns, "dns"));
  Finished root = run({"timeout", "20", RECEIVER, daemon().path("dns.sock")});
  EXPECT_EQ(root.status, 1);
  EXPECT_NE(root.output.find("user 0 is not in allow_users of port dns"), std::string::npos) << root.output;
  expect_port_counter("dns", "denied", 1);
  auto nobody = Process::start({"setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", RECEIVER,
                                daemon().path("dns.sock")});
  ASSERT_TRUE(nobody) << nobody.error().message;
  EXPECT_TRUE(eventually([&] { return daemon().port("dns")["uid"] == 65534; }))
      << daemon().port("dns").dump();
}

// Says something to a port and returns the answer's status; none when the daemon only closed, or when the
// kernel does not let it be said.
std::optional<std::uint16_t> say(const std::string& path, const void* data, std::size_t bytes,
                                 std::span<const int> fds = {}) {
  UniqueFd socket = connect_to(path);
  need(bool(socket), "cannot connect to " + path);
  if (!send_raw(socket.get(), data, bytes, fds)) {
    return std::nullopt;
  }
  pollfd poll{.fd = socket.get(), .events = POLLIN, .revents = 0};
  ::poll(&poll, 1, 20'000);
  auto answer = read_answer(socket.get());
  return answer ? std::optional(answer->welcome.status) : std::nullopt;
}

TEST_F(Refusal, Malicious_HandshakesOfEveryBadKindAreRefusedWhileAnotherProgramsPacketsPass) {
  start(dns_ + app_port("gate"));
  Stream dns = stream_to("dns", kDns);
  const std::string gate = daemon().path("gate.sock");
  sluice_app_hello good = good_hello();
  const int fds[] = {0, 0};
  std::uint64_t refused = 0;
  for (int round = 0; round < 20; ++round) {
    sluice_app_hello wrong_version = good, wrong_magic = good, reserved = good, no_nul = good;
    wrong_version.version = static_cast<std::uint16_t>(SLUICE_APP_VERSION + 1 + static_cast<unsigned>(round));
    wrong_magic.magic ^= 1u << round;
    reserved.reserved = 1;
    std::memset(no_nul.client, 'x', sizeof(no_nul.client));
    EXPECT_EQ(say(gate, &wrong_version, sizeof(good)), SLUICE_APP_BAD_VERSION);
    EXPECT_EQ(say(gate, &wrong_magic, sizeof(good)), SLUICE_APP_BAD_HELLO);
    EXPECT_EQ(say(gate, &reserved, sizeof(good)), SLUICE_APP_BAD_HELLO);
    EXPECT_EQ(say(gate, &no_nul, sizeof(good)), SLUICE_APP_BAD_HELLO);
    EXPECT_EQ(say(gate, &good, static_cast<std::size_t>(1 + round)), SLUICE_APP_BAD_HELLO)
        << "half a handshake";
    refused += 5;
    // Where the kernel keeps descriptors away from the socket (SO_PASSRIGHTS), it is the kernel that says no.
    if (auto with_descriptors = say(gate, &good, sizeof(good), fds)) {
      EXPECT_EQ(*with_descriptors, SLUICE_APP_BAD_HELLO);
      ++refused;
    }
    connect_to(gate);  // and goes without a word
  }
  expect_port_counter("gate", "refused", refused);
  EXPECT_EQ(port_counter("gate", "attaches"), 0u);
  // More silent ones than are kept, and still the next honest one comes in.
  std::vector<UniqueFd> silent;
  for (int i = 0; i < 100; ++i) {
    silent.push_back(connect_to(gate));
  }
  auto honest = attach("gate", 1, 0);
  EXPECT_EQ(daemon().port("gate")["state"], "attached");
  dns.expect_nothing_lost();
}

}  // namespace
}  // namespace sluice::test
