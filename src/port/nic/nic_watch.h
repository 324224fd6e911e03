// NicWatch: what happens to network devices, as netlink tells it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "base/event_loop.h"
#include "base/result.h"

struct nl_sock;
struct nl_object;

namespace sluice {

struct NicEvent {
  enum class What : std::uint8_t { kAppeared, kRemoved, kUp, kDown, kMtu, kRenamed };
  What what;
  int ifindex = 0;
  std::string netdev;    // its name now; of a removed one, its last
  std::string old_name;  // kRenamed only
  std::uint32_t mtu = 0;
  bool up = false;  // IFF_UP and a carrier
};
std::string_view to_string(NicEvent::What what);

// Control thread. Reports changes from the moment of start(); every device of the thread's network namespace.
class NicWatch {
 public:
  using Callback = std::function<void(const NicEvent&)>;
  static Result<std::unique_ptr<NicWatch>> start(EventLoop& loop, Callback callback);
  ~NicWatch();
  NicWatch(const NicWatch&) = delete;

 private:
  struct Known {
    std::string name;
    std::uint32_t mtu = 0;
    bool up = false;
    bool operator==(const Known&) const = default;
  };
  NicWatch(EventLoop& loop, Callback callback) : loop_(loop), callback_(std::move(callback)) {}
  void readable();
  Result<void> list_all(std::map<int, Known>& all);
  void resync();
  void handle(int message_type, nl_object* object);
  void present(int ifindex, const Known& now);
  void gone(int ifindex);

  EventLoop& loop_;
  Callback callback_;
  nl_sock* events_ = nullptr;
  std::map<int, Known> known_;
};

}  // namespace sluice
