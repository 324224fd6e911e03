#include "port/vlan.h"

#include <gtest/gtest.h>

#include <array>
#include <vector>

namespace sluice {
namespace {

using Bytes = std::vector<std::byte>;

// Bytes 0 .. n - 1 with an EtherType, and a tag where `tci` is not negative.
Bytes frame(std::size_t bytes, int tci = -1, std::uint16_t tpid = 0x8100) {
  Bytes made(bytes + (tci < 0 ? 0 : 4));
  for (std::size_t i = 0; i < made.size(); ++i) {
    made[i] = static_cast<std::byte>(i);
  }
  std::size_t type_at = 12;
  if (tci >= 0) {
    store_be16(made.data() + 12, tpid);
    store_be16(made.data() + 14, static_cast<std::uint16_t>(tci));
    type_at = 16;
  }
  store_be16(made.data() + type_at, 0x0800);
  return made;
}

Bytes joined(const FrameSegments& segments) {
  Bytes all;
  segments.for_each(
      [&all](const Segment& segment) { all.insert(all.end(), segment.data, segment.data + segment.bytes); });
  EXPECT_EQ(all.size(), segments.bytes);
  return all;
}

TEST(Vlan, IsReadFromTheOuterTag) {
  EXPECT_EQ(vlan_of(frame(60)), 0);
  EXPECT_EQ(vlan_of(frame(60, 7)), 7);
  EXPECT_EQ(vlan_of(frame(60, 0xe000 | 4094)), 4094) << "priority bits are not the id";
  EXPECT_EQ(vlan_of(frame(60, 0xe000)), 0) << "a priority tag is no VLAN";
  EXPECT_EQ(vlan_of(frame(60, 7, 0x88a8)), 0) << "a service tag is of another space";
}

TEST(Vlan, Malicious_ATagThatEndsBehindTheFrameIsOfNoVlan) {
  const Bytes whole = frame(14, 7);
  for (std::size_t bytes = 0; bytes < whole.size(); ++bytes) {
    const Bytes cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(bytes));
    EXPECT_EQ(vlan_of(cut), bytes < 14 ? 0 : kBadVlan) << bytes;
    Bytes room(4 + cut.size());
    std::copy(cut.begin(), cut.end(), room.begin() + 4);
    std::byte* head = room.data() + 4;
    std::uint32_t head_bytes = static_cast<std::uint32_t>(bytes);
    EXPECT_FALSE(push_access_tag(head, head_bytes, 5)) << bytes;
    EXPECT_EQ(head_bytes, bytes);
  }
  EXPECT_EQ(vlan_of(whole), 7);
}

TEST(Vlan, ATagIsPushedInFrontOfTheTypeAndPoppedAgain) {
  for (std::uint16_t head_bytes : std::initializer_list<std::uint16_t>{0, 60, 100}) {
    const Bytes before = frame(100);
    Bytes room(4 + before.size());
    std::copy(before.begin(), before.end(), room.begin() + 4);
    std::byte* head = room.data() + 4;
    std::uint32_t pushed = head_bytes == 0 ? 100 : head_bytes;
    ASSERT_TRUE(push_access_tag(head, pushed, 77));
    ASSERT_EQ(head, room.data());
    const Packet packet = head_bytes == 0 ? Packet{.body = head, .body_bytes = pushed}
                                          : Packet{.body = head + pushed,
                                                   .head = head,
                                                   .body_bytes = 104 - pushed,
                                                   .head_bytes = static_cast<std::uint16_t>(pushed)};
    EXPECT_EQ(vlan_of(front_of(packet)), 77);
    FrameSegments segments;
    ASSERT_TRUE(segments_for_access(packet, 77, segments));
    EXPECT_EQ(joined(segments), before);
    EXPECT_FALSE(segments_for_access(packet, 78, segments));
    ASSERT_TRUE(segments_for_access(packet, 0, segments));
    EXPECT_EQ(joined(segments).size(), 104u) << "without an access VLAN frames go as they are";
  }
}

TEST(Vlan, ATagIsPoppedFromAFrameInSegments) {
  const Bytes whole = frame(100, 77);
  const auto rest = static_cast<std::uint32_t>(whole.size()) - 91;
  const std::array<Segment, 3> segments{Segment{whole.data() + 30, 1}, Segment{whole.data() + 31, 60},
                                        Segment{whole.data() + 91, rest}};
  const PacketExtra extra{.segments = segments, .offload = {}};
  const Packet packet{.head = whole.data(), .extra = &extra, .body_bytes = 61 + rest, .head_bytes = 30};
  FrameSegments popped;
  ASSERT_TRUE(segments_for_access(packet, 77, popped));
  Bytes expected = whole;
  expected.erase(expected.begin() + kVlanTagOffset, expected.begin() + kVlanTagOffset + kVlanTagBytes);
  EXPECT_EQ(joined(popped), expected);
}

TEST(Vlan, APriorityTagBecomesTheVlansAndKeepsItsPriority) {
  Bytes bytes = frame(60, 0xa000);
  std::byte* head = bytes.data();
  auto head_bytes = static_cast<std::uint32_t>(bytes.size());
  ASSERT_TRUE(push_access_tag(head, head_bytes, 77));
  EXPECT_EQ(head, bytes.data());
  EXPECT_EQ(load_be16(head + 14), 0xa000 | 77);
}

TEST(Vlan, Malicious_APeerDoesNotChooseItsVlan) {
  for (int tci : {1, 77, 4095}) {
    Bytes bytes = frame(60, tci);
    const Bytes before = bytes;
    std::byte* head = bytes.data();
    auto head_bytes = static_cast<std::uint32_t>(bytes.size());
    EXPECT_FALSE(push_access_tag(head, head_bytes, 77));
    EXPECT_EQ(bytes, before);
  }
}

}  // namespace
}  // namespace sluice
