// Haltpoll: a thread of the lowest scheduling class that, while it is told to, keeps its core from halting.
//
// A virtual CPU that halts gives its core back to the hypervisor, and a busy hypervisor brings it back late:
// 3 ms were seen in place of a nap of 50 us, longer than a NIC's ring lasts. This thread runs only when
// nothing else on the core would (SCHED_IDLE, sched(7)), and gives way when something comes.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <thread>

namespace sluice {

class Haltpoll {
 public:
  // Its thread runs where the calling thread may run, with that thread's signal mask.
  explicit Haltpoll(const std::string& name);
  ~Haltpoll();

  // Any thread; a system call only when it changes something.
  void keep_awake() { tell(Order::kKeepAwake); }
  void let_rest() { tell(Order::kLetRest); }

 private:
  enum class Order : std::uint32_t { kLetRest, kKeepAwake, kEnd };
  void tell(Order order);
  void run();

  std::atomic<Order> order_{Order::kLetRest};
  std::thread thread_;
};

}  // namespace sluice
