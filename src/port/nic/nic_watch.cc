#include "port/nic/nic_watch.h"

#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netlink/cache.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <netlink/route/link.h>
#include <sys/epoll.h>

#include <vector>

#include "base/log.h"

namespace sluice {

namespace {

constexpr int kEventBufferBytes = 1 << 20;  // a burst of a few thousand link messages; more leads to resync()

bool is_up(rtnl_link* link) {
  unsigned int flags = ::rtnl_link_get_flags(link);
  return (flags & IFF_UP) != 0 && (flags & IFF_RUNNING) != 0;
}

}  // namespace

std::string_view to_string(NicEvent::What what) {
  switch (what) {
    case NicEvent::What::kAppeared:
      return "appeared";
    case NicEvent::What::kRemoved:
      return "removed";
    case NicEvent::What::kUp:
      return "up";
    case NicEvent::What::kDown:
      return "down";
    case NicEvent::What::kMtu:
      return "mtu";
    case NicEvent::What::kRenamed:
      return "renamed";
  }
  return "?";
}

Result<std::unique_ptr<NicWatch>> NicWatch::start(EventLoop& loop, Callback callback) {
  std::unique_ptr<NicWatch> watch(new NicWatch(loop, std::move(callback)));
  watch->events_ = ::nl_socket_alloc();
  if (watch->events_ == nullptr) {
    return fail("cannot make a netlink socket");
  }
  ::nl_socket_disable_seq_check(watch->events_);
  int error = ::nl_connect(watch->events_, NETLINK_ROUTE);
  if (error >= 0) {
    error = ::nl_socket_add_memberships(watch->events_, RTNLGRP_LINK, 0);
  }
  if (error < 0) {
    return fail("cannot watch network devices by netlink: {}", ::nl_geterror(error));
  }
  ::nl_socket_set_nonblocking(watch->events_);
  ::nl_socket_set_buffer_size(watch->events_, kEventBufferBytes, 0);
  auto on_message = [](nl_msg* message, void* self) -> int {
    int type = ::nlmsg_hdr(message)->nlmsg_type;
    struct Context {
      NicWatch* watch;
      int type;
    } context{static_cast<NicWatch*>(self), type};
    ::nl_msg_parse(
        message,
        [](nl_object* object, void* argument) {
          auto* to = static_cast<Context*>(argument);
          to->watch->handle(to->type, object);
        },
        &context);
    return NL_OK;
  };
  ::nl_socket_modify_cb(watch->events_, NL_CB_VALID, NL_CB_CUSTOM, on_message, watch.get());
  // After joining the group: what changes between the two is told as an event and seen in the list, which is
  // the same state.
  SLUICE_TRY(watch->list_all(watch->known_));
  SLUICE_TRY(loop.add(::nl_socket_get_fd(watch->events_), EPOLLIN,
                      [self = watch.get()](std::uint32_t) { self->readable(); }));
  return watch;
}

NicWatch::~NicWatch() {
  if (events_ != nullptr) {
    loop_.remove(::nl_socket_get_fd(events_));
    ::nl_socket_free(events_);
  }
}

void NicWatch::readable() {
  int error = ::nl_recvmsgs_default(events_);
  if (error == -NLE_NOMEM) {  // ENOBUFS: messages were lost, netlink(7)
    resync();
  } else if (error < 0 && error != -NLE_AGAIN && error != -NLE_INTR) {
    log::warn("netlink: {}", ::nl_geterror(error));
  }
}

Result<void> NicWatch::list_all(std::map<int, Known>& all) {
  nl_sock* socket = ::nl_socket_alloc();
  nl_cache* cache = nullptr;
  int error = socket == nullptr ? -NLE_NOMEM : ::nl_connect(socket, NETLINK_ROUTE);
  if (error >= 0) {
    error = ::rtnl_link_alloc_cache(socket, AF_UNSPEC, &cache);
  }
  if (error >= 0) {
    for (nl_object* object = ::nl_cache_get_first(cache); object != nullptr;
         object = ::nl_cache_get_next(object)) {
      auto* link = reinterpret_cast<rtnl_link*>(object);
      all[::rtnl_link_get_ifindex(link)] =
          Known{::rtnl_link_get_name(link), ::rtnl_link_get_mtu(link), is_up(link)};
    }
    ::nl_cache_free(cache);
  }
  ::nl_socket_free(socket);
  if (error < 0) {
    return fail("cannot list network devices by netlink: {}", ::nl_geterror(error));
  }
  return {};
}

void NicWatch::resync() {
  std::map<int, Known> all;
  if (auto listed = list_all(all); !listed) {
    log::warn("{}", listed.error().message);
    return;
  }
  std::vector<int> lost;
  for (const auto& [ifindex, known] : known_) {
    if (!all.contains(ifindex)) {
      lost.push_back(ifindex);
    }
  }
  for (int ifindex : lost) {
    gone(ifindex);
  }
  for (const auto& [ifindex, now] : all) {
    present(ifindex, now);
  }
}

void NicWatch::handle(int message_type, nl_object* object) {
  auto* link = reinterpret_cast<rtnl_link*>(object);
  const char* name = ::rtnl_link_get_name(link);
  if (name == nullptr || ::rtnl_link_get_family(link) != AF_UNSPEC) {
    return;  // a bridge's port and the like: not the device itself
  }
  int ifindex = ::rtnl_link_get_ifindex(link);
  if (message_type == RTM_DELLINK) {
    gone(ifindex);
  } else if (message_type == RTM_NEWLINK) {
    present(ifindex, Known{name, ::rtnl_link_get_mtu(link), is_up(link)});
  }
}

void NicWatch::present(int ifindex, const Known& now) {
  auto [entry, is_new] = known_.try_emplace(ifindex, now);
  Known before = entry->second;
  entry->second = now;
  NicEvent event{NicEvent::What::kAppeared, ifindex, now.name, "", now.mtu, now.up};
  if (is_new) {
    callback_(event);
    return;
  }
  if (before.name != now.name) {
    event.what = NicEvent::What::kRenamed;
    event.old_name = before.name;
    callback_(event);
    event.old_name.clear();
  }
  if (before.mtu != now.mtu) {
    event.what = NicEvent::What::kMtu;
    callback_(event);
  }
  if (before.up != now.up) {
    event.what = now.up ? NicEvent::What::kUp : NicEvent::What::kDown;
    callback_(event);
  }
}

void NicWatch::gone(int ifindex) {
  auto found = known_.find(ifindex);
  if (found == known_.end()) {
    return;
  }
  NicEvent event{NicEvent::What::kRemoved, ifindex, found->second.name, "", found->second.mtu, false};
  known_.erase(found);
  callback_(event);
}

}  // namespace sluice
