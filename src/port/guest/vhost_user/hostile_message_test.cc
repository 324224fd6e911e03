// What a front-end can do to the socket and the negotiation, a test per attack: C is framing and
// connections, N negotiation. After each the port serves the next front-end, nothing is leaked, and the guest
// beside it has noticed nothing (expect_unharmed()).
#include <fcntl.h>
#include <sys/socket.h>

#include <limits>
#include <random>

#include "port/guest/vhost_user/vhost_fixture.h"

namespace sluice::test {
namespace {

class Malicious_Framing : public VhostTest {
 protected:
  // The header alone, as it stands.
  static std::vector<std::byte> header(std::uint32_t request, std::uint32_t flags,
                                       std::uint32_t payload_bytes) {
    vhost_user_header words{request, flags, payload_bytes};
    auto raw_bytes = std::as_bytes(std::span(&words, 1));
    return {raw_bytes.begin(), raw_bytes.end()};
  }
  // Says `bytes` on a connection of its own, and expects it to be cut and the fault to be counted once.
  void expect_cut(std::span<const std::byte> bytes, const std::string& fault, std::span<const int> fds = {}) {
    const std::uint64_t before = counter(fault);
    FrontEnd front = connect();
    EXPECT_TRUE(front.send_bytes(bytes, fds));
    EXPECT_TRUE(front.wait_closed());
    EXPECT_TRUE(turn_until([&] { return counter(fault) == before + 1; })) << fault;
  }
  static constexpr std::uint32_t kVersion = VHOST_USER_VERSION;
  static constexpr std::uint32_t kNeedReply = VHOST_USER_VERSION | VHOST_USER_NEED_REPLY;
};
class Malicious_Negotiation : public VhostTest {};

const std::span<const std::byte> kNothing;

TEST_F(Malicious_Framing, C1_PartOfAHeaderAndThenTheEnd) {
  start();
  for (std::size_t bytes = 0; bytes < sizeof(vhost_user_header); ++bytes) {
    FrontEnd front = connect();
    const auto whole = header(VHOST_USER_GET_FEATURES, kVersion, 0);
    EXPECT_TRUE(front.send_bytes(std::span(whole).first(bytes)));
    turn();
    front.close();
  }
  expect_unharmed();
}

TEST_F(Malicious_Framing, C2_AHeaderWhosePayloadNeverComesIsWaitedForOnlySoLongAndBlocksNobody) {
  options.message_timeout_ns = 30'000'000;
  start();
  {
    FrontEnd front = connect();
    ASSERT_TRUE(front.barrier());
    ASSERT_TRUE(front.send_bytes(header(VHOST_USER_SET_FEATURES, kVersion, 8)));
    EXPECT_TRUE(front.wait_closed());
    EXPECT_EQ(counter("fault_message_stalled"), 1u);
  }
  expect_unharmed();
}

TEST_F(Malicious_Framing, C3_PayloadsLongerThanAnyMessage) {
  start();
  for (std::uint32_t bytes : {265u, 4096u, 0x7fffffffu, 0x80000000u, 0xffffffffu}) {
    expect_cut(header(VHOST_USER_SET_MEM_TABLE, kVersion, bytes), "fault_message_header");
  }
  expect_unharmed();
}

TEST_F(Malicious_Framing, C4_PayloadsShorterThanTheRequestNeeds) {
  start();
  for (const VhostRow& row : vhost_rows()) {
    if (row.offer == VhostRow::Offer::kServed && row.payload != VhostRow::Payload::kNone) {
      expect_cut(FrontEnd::bytes_of(row.request, std::vector<std::byte>(7)), "fault_message_size");
    }
  }
  expect_unharmed();
}

TEST_F(Malicious_Framing, C5_PayloadsLongerThanTheRequestNeeds) {
  start();
  for (const VhostRow& row : vhost_rows()) {
    if (row.offer == VhostRow::Offer::kServed) {
      expect_cut(FrontEnd::bytes_of(row.request, std::vector<std::byte>(264)), "fault_message_size");
    }
  }
  expect_unharmed();
}

TEST_F(Malicious_Framing, C6_WrongVersionsAndFlags) {
  start();
  for (std::uint32_t flags :
       {0u, 2u, 3u, kVersion | VHOST_USER_REPLY, kVersion | 0x10u, kVersion | 0x80000000u, 0xffffffffu}) {
    expect_cut(header(VHOST_USER_GET_FEATURES, flags, 0), "fault_message_header");
  }
  expect_unharmed();
}

TEST_F(Malicious_Framing, C7_RequestsThatThereAreNot) {
  start();
  for (std::uint32_t request : {0u, 26u, 27u, 33u, 41u, 45u, 1000u, 0xffffffffu}) {
    expect_cut(header(request, kVersion, 0), "fault_message_unknown");
    FrontEnd front = connect();
    EXPECT_EQ(front.ask_bytes(request, kNothing, {}, kNeedReply), 1u) << "who asks is told";
    EXPECT_TRUE(front.barrier());
  }
  expect_unharmed();
}

TEST_F(Malicious_Framing, C7_RequestsOfFeaturesThatWereNotOffered) {
  start();
  for (const VhostRow& row : vhost_rows()) {
    if (row.offer != VhostRow::Offer::kNotOffered) {
      continue;
    }
    FrontEnd front = connect();
    UniqueFd gift(::memfd_create("gift", MFD_CLOEXEC));
    int fd = gift.get();
    EXPECT_TRUE(front.send(row.request, std::vector<std::byte>(16), std::span(&fd, 1)));
    if (row.reply == VhostRow::Reply::kOwn) {
      EXPECT_TRUE(front.wait_closed()) << row.name << ": nothing that it would understand as no";
    } else {
      EXPECT_TRUE(front.barrier()) << row.name << ": changes nothing";
      EXPECT_EQ(front.ask_bytes(row.request, kNothing, {}, kNeedReply), 1u) << row.name;
    }
  }
  expect_unharmed();
}

TEST_F(Malicious_Framing, C8_NoDescriptorWhereOneIsNeeded) {
  start();
  const std::uint64_t ring = 0;
  for (std::uint32_t request :
       {VHOST_USER_SET_VRING_KICK, VHOST_USER_SET_VRING_CALL, VHOST_USER_SET_VRING_ERR}) {
    expect_cut(FrontEnd::bytes_of(request, std::as_bytes(std::span(&ring, 1))), "fault_message_descriptors");
  }
  expect_cut(FrontEnd::bytes_of(VHOST_USER_ADD_MEM_REG, std::vector<std::byte>(40)),
             "fault_message_descriptors");
  expect_unharmed();
}

TEST_F(Malicious_Framing, C9_MoreThanOneDescriptorWhereOneBelongs) {
  start();
  {
    UniqueFd event(::eventfd(0, EFD_CLOEXEC));
    int two[] = {event.get(), event.get()};
    const std::uint64_t ring = 0;
    expect_cut(FrontEnd::bytes_of(VHOST_USER_SET_VRING_KICK, std::as_bytes(std::span(&ring, 1))),
               "fault_message_descriptors", two);
    expect_cut(FrontEnd::bytes_of(VHOST_USER_REM_MEM_REG, std::vector<std::byte>(40)),
               "fault_message_descriptors", two);
  }
  expect_unharmed();
}

TEST_F(Malicious_Framing, C10_DescriptorsWhereNoneBelong) {
  start();
  {
    UniqueFd event(::eventfd(0, EFD_CLOEXEC));
    int one = event.get();
    expect_cut(FrontEnd::bytes_of(VHOST_USER_GET_FEATURES, kNothing), "fault_message_descriptors",
               std::span(&one, 1));
    expect_cut(FrontEnd::bytes_of(VHOST_USER_SET_VRING_NUM, std::vector<std::byte>(8)),
               "fault_message_descriptors", std::span(&one, 1));
  }
  expect_unharmed();
}

TEST_F(Malicious_Framing, C11_MoreDescriptorsThanAnyMessageHas) {
  start();
  {
    UniqueFd event(::eventfd(0, EFD_CLOEXEC));
    for (std::size_t count : {std::size_t{9}, std::size_t{10}, std::size_t{64}, std::size_t{253}}) {
      std::vector<int> many(count, event.get());
      expect_cut(FrontEnd::bytes_of(VHOST_USER_SET_MEM_TABLE, std::vector<std::byte>(264)),
                 "fault_message_descriptors", many);
    }
    // A few with each byte, so that no single read sees too many.
    const std::uint64_t before = counter("fault_message_descriptors");
    FrontEnd front = connect();
    std::vector<std::byte> message =
        FrontEnd::bytes_of(VHOST_USER_SET_MEM_TABLE, std::vector<std::byte>(264));
    int two[] = {event.get(), event.get()};
    for (std::size_t i = 0; i < message.size() && front.send_bytes(std::span(message).subspan(i, 1), two);
         ++i) {
      turn(0);
    }
    EXPECT_TRUE(front.wait_closed());
    EXPECT_TRUE(turn_until([&] { return counter("fault_message_descriptors") == before + 1; }));
  }
  expect_unharmed();
}

TEST_F(Malicious_Framing, C12_ADescriptorAndTheWordThatThereIsNone) {
  start();
  {
    UniqueFd event(::eventfd(0, EFD_CLOEXEC));
    int one = event.get();
    const std::uint64_t both = VHOST_USER_VRING_NO_FD;
    const std::uint64_t strange[] = {1ull << 9, 1ull << 32, 0xffffffffffffff00ull};
    expect_cut(FrontEnd::bytes_of(VHOST_USER_SET_VRING_CALL, std::as_bytes(std::span(&both, 1))),
               "fault_message_descriptors", std::span(&one, 1));
    for (std::uint64_t word : strange) {
      expect_cut(FrontEnd::bytes_of(VHOST_USER_SET_VRING_CALL, std::as_bytes(std::span(&word, 1))),
                 "fault_message_descriptors", std::span(&one, 1));
    }
  }
  expect_unharmed();
}

TEST_F(Malicious_Framing, C13_MessagesByteByByteAreMessagesAllTheSame) {
  start();
  {
    FrontEnd front = connect();
    GoodGuest guest;
    vhost_user_mem_table table{};
    table.region_count = 1;
    table.regions[0] = guest.ram.region();
    const std::uint64_t features = kGuestFeatures;
    int fd = guest.ram.fd();
    EXPECT_TRUE(front.send_slowly(
        FrontEnd::bytes_of(VHOST_USER_SET_FEATURES, std::as_bytes(std::span(&features, 1)))));
    EXPECT_TRUE(front.send_slowly(
        FrontEnd::bytes_of(VHOST_USER_SET_MEM_TABLE, std::as_bytes(std::span(&table, 1)).first(40)),
        std::span(&fd, 1)));
    EXPECT_TRUE(front.barrier());
    EXPECT_EQ(port->vhost().regions.size(), 1u);
    guest.set_up_rings(front);
    EXPECT_TRUE(front.barrier());
    EXPECT_TRUE(carries(guest));
  }
  expect_unharmed();
}

TEST_F(Malicious_Framing, C14_ManyMessagesInOneWriteKeepTheirDescriptors) {
  start();
  {
    FrontEnd front = connect();
    // All in the socket before the loop turns once: each descriptor must find its own message.
    GoodGuest guest;
    FrontEnd silent = FrontEnd(UniqueFd(::dup(front.fd())));
    const std::uint64_t features = kGuestFeatures;
    std::vector<std::byte> batch;
    for (int i = 0; i < 100; ++i) {
      auto one = FrontEnd::bytes_of(VHOST_USER_SET_FEATURES, std::as_bytes(std::span(&features, 1)));
      batch.insert(batch.end(), one.begin(), one.end());
    }
    EXPECT_TRUE(silent.send_bytes(batch));
    const GuestRam* rams[] = {&guest.ram};
    silent.send_table(rams);
    guest.set_up_rings(silent);
    EXPECT_TRUE(front.barrier());
    EXPECT_TRUE(port->vhost().running);
    EXPECT_TRUE(carries(guest));
    EXPECT_GE(counter("messages"), 100u);
  }
  expect_unharmed();
}

TEST_F(Malicious_Framing, C15_TheEndInTheMiddleOfAMessageWithFramesUnderWay) {
  start();
  for (std::size_t cut : {std::size_t{1}, std::size_t{12}, std::size_t{13}, std::size_t{51}}) {
    FrontEnd front = connect();
    GoodGuest guest;
    guest.bring_up(front);
    ASSERT_TRUE(front.barrier());
    for (std::uint32_t i = 0; i < 30; ++i) {
      guest.send(numbered_frame(i));
    }
    vhost_user_mem_table table{};
    table.region_count = 1;
    int fd = guest.ram.fd();
    auto message =
        FrontEnd::bytes_of(VHOST_USER_SET_MEM_TABLE, std::as_bytes(std::span(&table, 1)).first(40));
    EXPECT_TRUE(front.send_bytes(std::span(message).first(cut), std::span(&fd, 1)));
    host.work();
  }
  expect_unharmed();
}

TEST_F(Malicious_Framing, C16_AStormOfConnections) {
  start();
  for (int i = 0; i < 1000; ++i) {
    FrontEnd front = connect();
    if (i % 3 == 0) {
      front.send(VHOST_USER_GET_FEATURES, kNothing);
    }
  }
  std::vector<FrontEnd> together;
  for (int i = 0; i < 60; ++i) {
    together.push_back(connect());
  }
  EXPECT_TRUE(turn_until([&] { return counter("connects") + counter("refused") >= 1060; }));
  together.clear();
  expect_unharmed();
}

TEST_F(Malicious_Framing, C17_ASecondFrontEndIsRefusedAndTheFirstOneStays) {
  start();
  {
    FrontEnd first = connect();
    GoodGuest guest;
    guest.bring_up(first);
    ASSERT_TRUE(first.barrier());
    for (int i = 0; i < 10; ++i) {
      FrontEnd second = connect();
      EXPECT_TRUE(second.wait_closed());
    }
    EXPECT_EQ(counter("refused"), 10u);
    EXPECT_TRUE(carries(guest));
  }
  expect_unharmed();
}

TEST_F(Malicious_Framing, C17_WhoHasNotSaidAWordGivesWay) {
  start();
  {
    FrontEnd silent = connect();
    ASSERT_TRUE(turn_until([&] { return port->vhost().connected; }));
    FrontEnd second = connect();
    EXPECT_TRUE(silent.wait_closed());
    EXPECT_TRUE(second.barrier());
  }
  expect_unharmed();
}

TEST_F(Malicious_Framing, C18_WhoDoesNotReadAnswersIsCutOff) {
  start();
  {
    FrontEnd front = connect();
    const auto question = FrontEnd::bytes_of(VHOST_USER_GET_FEATURES, kNothing);
    EXPECT_TRUE(turn_until([&] {
      for (int i = 0; i < 64; ++i) {
        (void)::send(front.fd(), question.data(), question.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
      }
      return counter("fault_message_unread") == 1;
    }));
    EXPECT_FALSE(port->vhost().connected);
  }
  expect_unharmed();
}

TEST_F(Malicious_Framing, C19_EveryRequestThatAsksForAnAnswerGetsExactlyOne) {
  start();
  for (const VhostRow& row : vhost_rows()) {
    if (row.offer != VhostRow::Offer::kServed) {
      continue;
    }
    FrontEnd front = connect();
    GoodGuest guest;
    std::vector<std::byte> payload;
    std::vector<int> fds;
    switch (row.payload) {
      case VhostRow::Payload::kNone:
        break;
      case VhostRow::Payload::kVringAddr:
      case VhostRow::Payload::kMemReg:
        payload.resize(40);
        fds.assign(row.fds == VhostRow::Fds::kOne ? 1 : 0, guest.ram.fd());
        break;
      case VhostRow::Payload::kMemTable:
        payload.resize(40);
        payload[0] = std::byte{1};
        fds.assign(1, guest.ram.fd());
        break;
      case VhostRow::Payload::kVringFd:
        payload.resize(8);
        fds.assign(1, guest.kick[0].get());
        break;
      default:
        payload.resize(8);
    }
    EXPECT_TRUE(front.ask_bytes(row.request, payload, fds, kNeedReply)) << row.name;
    EXPECT_TRUE(front.barrier()) << row.name << ": the next answer is the next request's";
    EXPECT_FALSE(front.has_reply()) << row.name;
  }
  expect_unharmed();
}

TEST_F(Malicious_Framing, RandomBytesAndDescriptorsHarmNobody) {
  start();
  std::mt19937 random(7);
  {
    UniqueFd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    GuestRam ram(1 << 16);
    for (int i = 0; i < 300; ++i) {
      FrontEnd front = connect();
      for (int messages = 0; messages < 10; ++messages) {
        std::vector<std::byte> payload(random() % 60);
        for (std::byte& byte : payload) {
          byte = std::byte(random() % 4 == 0 ? random() : 0);
        }
        std::vector<int> fds(random() % 3, random() % 2 == 0 ? event.get() : ram.fd());
        front.send_bytes(FrontEnd::bytes_of(static_cast<std::uint32_t>(random() % 42), payload, kNeedReply),
                         fds);
        turn(0);
      }
    }
  }
  expect_unharmed();
}

// ---- negotiation

TEST_F(Malicious_Negotiation, N1_FeaturesThatWereNotOffered) {
  start();
  for (int bit : {0, 7, 11, 26, 33, 40, 63}) {
    const std::uint64_t bits = kGuestFeatures | 1ull << bit;
    FrontEnd front = connect();
    EXPECT_EQ(front.tell(VHOST_USER_SET_FEATURES, bits), 1u);
    EXPECT_EQ(port->vhost().features, 0u) << "nothing of it is taken";
    front.send(VHOST_USER_SET_FEATURES, bits);
    EXPECT_TRUE(front.wait_closed());
  }
  EXPECT_EQ(counter("fault_message_features"), 14u);
  expect_unharmed();
}

TEST_F(Malicious_Negotiation, N2_FeaturesThatChangeWhileRingsRun) {
  start();
  {
    FrontEnd front = connect();
    GoodGuest guest;
    guest.bring_up(front);
    EXPECT_EQ(front.tell(VHOST_USER_SET_FEATURES, kGuestFeatures), 0u) << "the same again is no change";
    EXPECT_EQ(front.tell(VHOST_USER_SET_FEATURES, kGuestFeatures | kFeatureRingPacked), 1u);
    EXPECT_EQ(port->vhost().features, kGuestFeatures);
    EXPECT_TRUE(carries(guest));
  }
  expect_unharmed();
}

TEST_F(Malicious_Negotiation, N3_PackedRingsOfADriverFromBeforeVersionOne) {
  start();
  {
    FrontEnd front = connect();
    EXPECT_EQ(front.tell(VHOST_USER_SET_FEATURES, kFeatureRingPacked | kFeatureProtocol), 1u);
  }
  expect_unharmed();
}

TEST_F(Malicious_Negotiation, N3_ADriverFromBeforeVersionOneGetsNoRing) {
  start();
  {
    FrontEnd front = connect();
    GoodGuest guest;
    guest.bring_up(front, 0, kFeatureProtocol);
    EXPECT_TRUE(front.barrier());
    EXPECT_FALSE(port->vhost().running);
    EXPECT_EQ(counter("fault_message_ring"), 2u);
  }
  expect_unharmed();
}

TEST_F(Malicious_Negotiation, N4_ProtocolFeaturesThatWereNotOffered) {
  start();
  for (int bit : {1, 5, 12, 17, 63}) {
    FrontEnd front = connect();
    EXPECT_EQ(front.tell(VHOST_USER_SET_PROTOCOL_FEATURES, kGuestProtocol | 1ull << bit), 1u);
    EXPECT_EQ(port->vhost().protocol_features, 0u);
  }
  expect_unharmed();
}

TEST_F(Malicious_Negotiation, N5_EnablingBeforeAnythingWasNegotiatedIsJustRemembered) {
  start();
  {
    FrontEnd front = connect();
    front.enable(0, true);
    front.enable(1, false);
    EXPECT_EQ(front.tell(VHOST_USER_SET_VRING_ENABLE, vhost_user_vring_state{0, 2}), 1u)
        << "neither on nor off";
    EXPECT_EQ(front.tell(VHOST_USER_SET_VRING_ENABLE, vhost_user_vring_state{0, 0xffffffff}), 1u);
    GoodGuest guest;
    guest.bring_up(front);
    EXPECT_TRUE(front.barrier());
    EXPECT_TRUE(carries(guest));
  }
  expect_unharmed();
}

TEST_F(Malicious_Negotiation, N6_OwnersNoneOrTwice) {
  start();
  {
    FrontEnd front = connect();
    for (int i = 0; i < 2; ++i) {
      EXPECT_EQ(
          front.ask_bytes(VHOST_USER_SET_OWNER, kNothing, {}, VHOST_USER_VERSION | VHOST_USER_NEED_REPLY),
          0u);
    }
    GoodGuest guest;
    guest.bring_up(front);
    front.send(VHOST_USER_RESET_OWNER, kNothing);
    EXPECT_TRUE(front.barrier());
    EXPECT_FALSE(port->vhost().running) << "disables the rings";
  }
  expect_unharmed();
}

TEST_F(Malicious_Negotiation, N7_WhereARingStandsThatWasNeverSetUp) {
  start();
  {
    FrontEnd front = connect();
    for (std::uint32_t ring = 0; ring < 4; ++ring) {
      auto base = front.stop_ring(ring);
      ASSERT_TRUE(base);
      EXPECT_EQ(base->value, 0u);
    }
  }
  for (std::uint32_t ring : {4u, 128u, 0xffffffffu}) {
    FrontEnd front = connect();
    EXPECT_FALSE(front.stop_ring(ring)) << "there is no such ring, and no way to say so but the end";
  }
  expect_unharmed();
}

TEST_F(Malicious_Negotiation, N8_StepsThatADevicesStatusDoesNotHave) {
  start();
  {
    FrontEnd front = connect();
    GoodGuest guest;
    guest.bring_up(front);
    EXPECT_EQ(front.tell(VHOST_USER_SET_STATUS, std::uint64_t{7}), 1u) << "DRIVER_OK without FEATURES_OK";
    EXPECT_EQ(front.tell(VHOST_USER_SET_STATUS, std::uint64_t{0x100}), 1u);
    EXPECT_EQ(front.tell(VHOST_USER_SET_STATUS, ~std::uint64_t{0}), 1u);
    EXPECT_EQ(front.tell(VHOST_USER_SET_STATUS, std::uint64_t{15}), 0u);
    EXPECT_EQ(front.tell(VHOST_USER_SET_STATUS, std::uint64_t{1}), 1u) << "bits go only by a reset";
    EXPECT_EQ(front.ask(VHOST_USER_GET_STATUS), 15u);
    EXPECT_TRUE(carries(guest));
    EXPECT_EQ(front.tell(VHOST_USER_SET_STATUS, std::uint64_t{0}), 0u) << "a reset while rings run";
    EXPECT_FALSE(port->vhost().running);
  }
  EXPECT_EQ(counter("fault_message_status"), 4u);
  expect_unharmed();
}

TEST_F(Malicious_Negotiation, N9_MtusOutOfRange) {
  start();
  {
    FrontEnd front = connect();
    for (std::uint64_t mtu : {std::uint64_t{0}, std::uint64_t{67}, std::uint64_t{65536}, ~std::uint64_t{0}}) {
      EXPECT_EQ(front.tell(VHOST_USER_NET_SET_MTU, mtu), 1u);
    }
    EXPECT_EQ(front.tell(VHOST_USER_NET_SET_MTU, std::uint64_t{68}), 0u);
    EXPECT_EQ(front.tell(VHOST_USER_NET_SET_MTU, std::uint64_t{65535}), 0u);
  }
  expect_unharmed();
}

TEST_F(Malicious_Negotiation, N10_AFloodOfRarpLeavesTheLoopItsTime) {
  start();
  {
    FrontEnd front = connect();
    FrontEnd silent = FrontEnd(UniqueFd(::dup(front.fd())));
    const std::uint64_t mac = 0x010000005452;
    std::vector<std::byte> batch;
    for (int i = 0; i < 1000; ++i) {
      auto one = FrontEnd::bytes_of(VHOST_USER_SEND_RARP, std::as_bytes(std::span(&mac, 1)));
      batch.insert(batch.end(), one.begin(), one.end());
    }
    EXPECT_TRUE(silent.send_bytes(batch));
    ASSERT_TRUE(turn_until([&] { return port->vhost().connected; }));
    const std::uint64_t before = counter("messages");
    loop->turn(0);
    EXPECT_LE(counter("messages") - before, kMessagesPerTurn);  // D6
    EXPECT_TRUE(front.barrier());
    EXPECT_EQ(counter("messages"), 1001u);
  }
  expect_unharmed();
}

}  // namespace
}  // namespace sluice::test
