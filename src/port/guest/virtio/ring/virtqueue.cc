#include "port/guest/virtio/ring/virtqueue.h"

#include <fcntl.h>

#include "port/guest/virtio/bounded_write.h"
#include "port/guest/virtio/call_sender.h"
#include "port/guest/virtio/net_header.h"

namespace sluice {

namespace {

// None: `fd` is -1, what was given is no eventfd (counted), or the process is out of descriptors.
UniqueFd duplicate(int fd, Counter& fault) {
  if (fd < 0) {
    fault.add(fd == kNotAnEventfd ? 1 : 0);
    return {};
  }
  return UniqueFd(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
}

}  // namespace

void CallPrice::visit(CounterVisitor& visitor) const {
  WakePrice::visit(visitor);
  visitor.counter("calls_by_write", by_write_.load(std::memory_order_relaxed));
  visitor.counter("fault_call_waits", waited_.load(std::memory_order_relaxed));
}

bool GuestCall::wake() {
  CallSender* calls = CallSender::of_this_thread();
  if (calls == nullptr) [[unlikely]] {
    return wake_by_write();
  }
  const int eventfd = fd();
  (void)calls->send(std::span(&eventfd, 1));  // one that cannot be signalled never can
  price_->called_by_aio();
  return true;
}

// One whose counter is full and that waits has been made so by the peer: it is readable as it is, and is not
// written to again.
bool GuestCall::wake_by_write() {
  BoundedWrite* writer = BoundedWrite::of_this_thread();
  if (writer == nullptr) {
    return false;
  }
  if (!waits_) {
    waits_ = writer->signal(fd()) == BoundedWrite::Done::kWaited;
    price_->called_by_write(waits_);
  }
  return true;
}

void Virtqueue::start(const VringSetup& setup, const GuestMemory& memory) {
  header_bytes_ = net_header_bytes(setup.features);
  mergeable_ = has_feature(setup.features, kMergeableBit);
  if (setup.format == VringFormat::kSplit) {
    ring_.emplace<SplitRing>(setup, direction_, memory, counters_);
  } else {
    ring_.emplace<PackedRing>(setup, direction_, memory, counters_);
  }
  lost_ = memory.lost();
  broken_.store(false, std::memory_order_relaxed);
  started_.store(true, std::memory_order_relaxed);
  stopped_at_ = setup.base;
}

VringBase Virtqueue::stop() {
  if (started()) {
    stopped_at_ = with_ring([](auto& ring) { return ring.base(); });
    started_.store(false, std::memory_order_relaxed);
    ring_.emplace<std::monostate>();
    lost_ = nullptr;
    kick_.reset();
    drop_call();
  }
  return stopped_at_;
}

void Virtqueue::set_kick_fd(int fd) {
  kick_ = duplicate(fd, counters_.fault_kick_fd);
}

void Virtqueue::set_call_fd(int fd) {
  drop_call();
  UniqueFd call = duplicate(fd, counters_.fault_call_fd);
  if (!call) {
    return;
  }
  call_ = std::make_shared<GuestCall>(std::move(call), price_);
  if (waker_ != nullptr) {
    waker_->add(call_);
  }
}

void Virtqueue::drop_call() {
  if (call_ && waker_ != nullptr) {
    waker_->retire(std::move(call_));
  }
  call_.reset();
}

}  // namespace sluice
