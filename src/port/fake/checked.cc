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

bool LaneChecks::may_hand_over(const Source& source, std::span<const Packet> packets) {
  if (source.domain != inner_.domain()) {
    return book_.violation(fmt::format("D1: pages of domain {} handed over to domain {}", raw(source.domain),
                                       raw(inner_.domain())));
  }
  std::set<PageIndex> seen;
  for (const Packet& packet : packets) {
    if (packet.page == PageIndex::kNone) {
      return book_.violation("hand_over of a packet without a page");
    }
    if (!book_.in_hand(source.domain, packet.page) || !seen.insert(packet.page).second) {
      return book_.violation(fmt::format("page {} of domain {} handed over by a worker that does not have it",
                                         raw(packet.page), raw(source.domain)));
    }
  }
  return true;
}

void LaneChecks::hand_over(const Source& source, std::span<Packet> packets) {
  if (!may_hand_over(source, packets)) {
    return;
  }
  SLUICE_CHECK(packets.size() <= kBurst, "burst of {}", packets.size());
  std::array<PageIndex, kBurst> before;
  for (std::size_t i = 0; i < packets.size(); ++i) {
    before[i] = packets[i].page;
  }
  inner_.hand_over(source, packets);
  for (std::size_t i = 0; i < packets.size(); ++i) {
    if (packets[i].page == PageIndex::kNone) {
      book_.gone(source.domain, before[i]);
    } else if (packets[i].page != before[i]) {
      book_.violation(
          fmt::format("hand_over left page {} where page {} was", raw(packets[i].page), raw(before[i])));
    }
  }
}

void LaneChecks::copy_in(const Source& source, std::span<Packet> packets) {
  SLUICE_CHECK(packets.size() <= kBurst, "burst of {}", packets.size());
  std::array<PageIndex, kBurst> before;
  for (std::size_t i = 0; i < packets.size(); ++i) {
    before[i] = packets[i].page;
    if (before[i] != PageIndex::kNone && !book_.in_hand(source.domain, before[i])) {
      book_.violation(fmt::format("copy_in from page {} of domain {}, which the worker does not have",
                                  raw(before[i]), raw(source.domain)));
      return;
    }
  }
  inner_.copy_in(source, packets);
  for (std::size_t i = 0; i < packets.size(); ++i) {
    if (packets[i].page != before[i]) {
      book_.violation(fmt::format("copy_in took page {}", raw(before[i])));
    }
  }
}

std::uint32_t LaneChecks::tx_burst(std::span<Packet> packets) {
  if (tx_open_ != 0) {
    book_.violation(fmt::format("tx_burst before tx_done of {} packets", tx_open_));
    return 0;
  }
  tx_open_ = inner_.tx_burst(packets);
  if (tx_open_ > packets.size() || tx_open_ > kBurst) {
    book_.violation(fmt::format("tx_burst gave {} packets for {}", tx_open_, packets.size()));
  }
  for (const Packet& packet : packets.first(tx_open_)) {
    if (packet.page != PageIndex::kNone) {
      book_.violation(fmt::format("tx_burst gave page {}: a peer's frame has none", raw(packet.page)));
    }
  }
  return tx_open_;
}

void LaneChecks::tx_done(std::uint32_t count) {
  if (count != tx_open_) {
    book_.violation(fmt::format("tx_done of {} packets, tx_burst gave {}", count, tx_open_));
    return;
  }
  tx_open_ = 0;
  inner_.tx_done(count);
}

bool LaneChecks::prepare_sleep() {
  if (asked_) {
    book_.violation("prepare_sleep twice without woken");
  }
  asked_ = true;
  return inner_.prepare_sleep();
}

void LaneChecks::woken() {
  if (!asked_) {
    book_.violation("woken without prepare_sleep");
  }
  asked_ = false;
  inner_.woken();
}

std::uint32_t CheckedQueue::receive(std::span<Packet> packets, Source& source) {
  const std::uint32_t count = inner_.receive(packets, source);
  if (count > packets.size() || count > kBurst) {
    book_.violation(fmt::format("receive gave {} packets for {}", count, packets.size()));
    return 0;
  }
  if (count > 0 && source.domain != inner_.domain()) {
    book_.violation(
        fmt::format("queue of domain {} gave pages of domain {}", raw(inner_.domain()), raw(source.domain)));
  }
  for (const Packet& packet : packets.first(count)) {
    if (packet.page == PageIndex::kNone) {
      book_.violation("receive gave a packet without a page");
    } else {
      book_.received(source.domain, packet.page);
    }
  }
  return count;
}

void CheckedQueue::recycle(std::span<const Packet> packets) {
  std::set<PageIndex> seen;
  for (const Packet& packet : packets) {
    if (packet.page == PageIndex::kNone) {
      continue;
    }
    if (!book_.in_hand(inner_.domain(), packet.page) || !seen.insert(packet.page).second) {
      book_.violation(fmt::format("page {} of domain {} recycled by a worker that does not have it",
                                  raw(packet.page), raw(inner_.domain())));
      return;
    }
  }
  for (PageIndex page : seen) {
    book_.gone(inner_.domain(), page);
  }
  inner_.recycle(packets);
}

}  // namespace sluice
