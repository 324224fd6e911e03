#include "port/fake/checked.h"

#include <array>

#include "base/check.h"

namespace sluice {

void PageBook::received(DomainId domain, PageIndex page) {
  if (!in_hand_.insert({domain, page}).second) {
    violation(fmt::format("page {} of domain {} received while it is in the worker's hand", raw(page),
                          raw(domain)));
  }
}

bool PageBook::violation(const std::string& what) {
  SLUICE_CHECK(on_violation_ == OnViolation::kRefuse, "{}", what);
  ++violations_;
  last_ = what;
  return false;
}

bool CheckedLane::may_hand_over(const BurstInfo& info, std::span<const Packet> packets) {
  if (info.domain != inner_.accepts().pages_of) {
    return book_.violation(fmt::format("D1: pages of domain {} handed over to domain {}", raw(info.domain),
                                       raw(inner_.accepts().pages_of)));
  }
  std::set<PageIndex> seen;
  for (const Packet& packet : packets) {
    if (packet.page == PageIndex::kNone) {
      return book_.violation("hand_over of a packet without a page");
    }
    if (!book_.in_hand(info.domain, packet.page) || !seen.insert(packet.page).second) {
      return book_.violation(fmt::format("page {} of domain {} handed over by a worker that does not have it",
                                         raw(packet.page), raw(info.domain)));
    }
  }
  return true;
}

void CheckedLane::hand_over(const BurstInfo& info, std::span<Packet> packets) {
  if (!may_hand_over(info, packets)) {
    return;
  }
  SLUICE_CHECK(packets.size() <= kBurst, "burst of {}", packets.size());
  std::array<PageIndex, kBurst> before;
  for (std::size_t i = 0; i < packets.size(); ++i) {
    before[i] = packets[i].page;
  }
  inner_.hand_over(info, packets);
  for (std::size_t i = 0; i < packets.size(); ++i) {
    if (packets[i].page == PageIndex::kNone) {
      book_.gone(info.domain, before[i]);
    } else if (packets[i].page != before[i]) {
      book_.violation(
          fmt::format("hand_over left page {} where page {} was", raw(packets[i].page), raw(before[i])));
    }
  }
}

void CheckedLane::copy_in(const BurstInfo& info, std::span<Packet> packets) {
  SLUICE_CHECK(packets.size() <= kBurst, "burst of {}", packets.size());
  std::array<PageIndex, kBurst> before;
  for (std::size_t i = 0; i < packets.size(); ++i) {
    before[i] = packets[i].page;
    if (before[i] != PageIndex::kNone && !book_.in_hand(info.domain, before[i])) {
      book_.violation(fmt::format("copy_in from page {} of domain {}, which the worker does not have",
                                  raw(before[i]), raw(info.domain)));
      return;
    }
  }
  for (const Packet& packet : packets) {
    if (packet.segments().size() > accepts().segments) {
      book_.violation(fmt::format("copy_in of a body in {} segments, of {} that the sink takes",
                                  packet.segments().size(), accepts().segments));
      return;
    }
  }
  inner_.copy_in(info, packets);
  for (std::size_t i = 0; i < packets.size(); ++i) {
    if (packets[i].page != before[i]) {
      book_.violation(fmt::format("copy_in took page {}", raw(before[i])));
    }
  }
}

std::uint32_t CheckedLane::burst(std::span<Packet> packets, BurstInfo& info) {
  if (out_ != 0) {
    book_.violation(fmt::format("burst before {} packets of the last one are done", out_));
    return 0;
  }
  out_ = inner_.burst(packets, info);
  domain_ = info.domain;
  if (out_ > packets.size() || out_ > kBurst) {
    book_.violation(fmt::format("a burst of {} packets for {}", out_, packets.size()));
    return out_ = 0;
  }
  for (const Packet& packet : packets.first(out_)) {
    if (packet.page != PageIndex::kNone) {
      book_.received(domain_, packet.page);
    }
    if ((packet.page == PageIndex::kNone) != (packet.head_bytes != 0)) {
      book_.violation("a packet has a page, or a private head: one of the two");
    }
  }
  check_segments(packets.first(out_), info);
  return out_;
}

void CheckedLane::check_segments(std::span<const Packet> packets, const BurstInfo& info) {
  std::uint64_t bytes = 0;
  for (const Packet& packet : packets) {
    std::uint64_t in_segments = packet.body != nullptr ? packet.body_bytes : 0;
    for (const Segment& segment : packet.segments()) {
      in_segments += segment.bytes;
    }
    if (in_segments != packet.body_bytes || packet.segments().size() > info.most_segments) {
      book_.violation(fmt::format("a body of {} bytes has {} in {} segments of at most {}", packet.body_bytes,
                                  in_segments, packet.segments().size(), info.most_segments));
    }
    if (packet.offload() != Offload{}) {
      book_.violation("a packet is not complete: no port was offered to leave work to others");
    }
    bytes += packet.bytes();
  }
  if (bytes > kTurnBytes) {
    book_.violation(fmt::format("a burst of {} bytes", bytes));
  }
}

void CheckedLane::done(std::span<const Packet> packets) {
  if (packets.size() != out_) {
    book_.violation(fmt::format("{} packets done of a burst of {}", packets.size(), out_));
    return;
  }
  std::set<PageIndex> seen;
  for (const Packet& packet : packets) {
    if (packet.page == PageIndex::kNone) {
      continue;
    }
    if (!book_.in_hand(domain_, packet.page) || !seen.insert(packet.page).second) {
      book_.violation(fmt::format("page {} of domain {} given back by a worker that does not have it",
                                  raw(packet.page), raw(domain_)));
      return;
    }
  }
  for (PageIndex page : seen) {
    book_.gone(domain_, page);
  }
  out_ = 0;
  inner_.done(packets);
}

bool CheckedLane::prepare_sleep() {
  if (asked_) {
    book_.violation("prepare_sleep twice without woken");
  }
  asked_ = true;
  return inner_.prepare_sleep();
}

void CheckedLane::woken() {
  if (!asked_) {
    book_.violation("woken without prepare_sleep");
  }
  asked_ = false;
  inner_.woken();
}

}  // namespace sluice
