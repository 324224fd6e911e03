#include "port/tap/tap.h"

#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_arp.h>
#include <linux/if_tun.h>
#include <netlink/netlink.h>
#include <netlink/route/addr.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

namespace sluice {

namespace {

struct SocketFree {
  void operator()(nl_sock* socket) const { ::nl_socket_free(socket); }
};
struct NlAddressPut {
  void operator()(nl_addr* address) const { ::nl_addr_put(address); }
};
struct AddressPut {
  void operator()(rtnl_addr* address) const { ::rtnl_addr_put(address); }
};

ifreq request_for(const std::string& netdev) {
  ifreq request{};
  std::memcpy(request.ifr_name, netdev.data(), netdev.size());  // shorter than the field, so it ends with 0
  return request;
}

// What dev_valid_name() of the kernel wants, and no pattern that it would number ("tap%d").
bool is_device_name(const std::string& name) {
  return !name.empty() && name.size() < IFNAMSIZ && name != "." && name != ".." &&
         name.find_first_of("/:% \t\n\v\f\r") == std::string::npos;
}

Result<UniqueFd> open_queue(const std::string& netdev, bool first) {
  UniqueFd queue(::open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK));
  if (!queue) {
    return fail_errno(errno, "cannot open /dev/net/tun (is the module tun loaded?)");
  }
  ifreq request = request_for(netdev);
  const int flags = IFF_TAP | IFF_NO_PI | IFF_MULTI_QUEUE | (first ? IFF_TUN_EXCL : 0);
  request.ifr_flags = static_cast<short>(flags);
  if (::ioctl(queue.get(), TUNSETIFF, &request) != 0) {
    if (errno == EBUSY && first) {
      return std::unexpected(Error{fmt::format("there is a network device {} already", netdev), EBUSY});
    }
    if (errno == EPERM) {
      return fail_errno(errno, "cannot make the tap device {} (it needs CAP_NET_ADMIN)", netdev);
    }
    return fail_errno(errno, "cannot make {} of the tap device {}",
                      first ? "the first queue" : "one more queue", netdev);
  }
  return queue;
}

Result<void> add_address(nl_sock* socket, int ifindex, const std::string& text) {
  nl_addr* parsed = nullptr;
  if (::nl_addr_parse(text.c_str(), AF_UNSPEC, &parsed) < 0) {
    return fail("\"{}\" is no address (192.0.2.1/24, 2001:db8::1/64)", text);
  }
  std::unique_ptr<nl_addr, NlAddressPut> local(parsed);
  if (::nl_addr_get_family(parsed) != AF_INET && ::nl_addr_get_family(parsed) != AF_INET6) {
    return fail("\"{}\" is no IP address (192.0.2.1/24, 2001:db8::1/64)", text);
  }
  std::unique_ptr<rtnl_addr, AddressPut> address(::rtnl_addr_alloc());
  if (!address) {
    return fail("no memory for address {}", text);
  }
  ::rtnl_addr_set_ifindex(address.get(), ifindex);
  int error = ::rtnl_addr_set_local(address.get(), parsed);
  if (error >= 0) {
    error = ::rtnl_addr_add(socket, address.get(), 0);
  }
  if (error < 0) {
    return fail("cannot set address {}: {}", text, ::nl_geterror(error));
  }
  return {};
}

Result<void> set_up(const TapOptions& options, int& ifindex) {
  UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request = request_for(options.netdev);
  if (!socket || ::ioctl(socket.get(), SIOCGIFINDEX, &request) != 0) {
    return fail_errno(errno, "cannot find the device that was just made");
  }
  ifindex = request.ifr_ifindex;
  request = request_for(options.netdev);
  request.ifr_hwaddr.sa_family = ARPHRD_ETHER;
  std::memcpy(request.ifr_hwaddr.sa_data, options.mac.data(), options.mac.size());
  if (::ioctl(socket.get(), SIOCSIFHWADDR, &request) != 0) {
    return fail_errno(errno, "cannot set MAC address {:02x}", fmt::join(options.mac, ":"));
  }
  request = request_for(options.netdev);
  request.ifr_mtu = static_cast<int>(options.mtu);
  if (::ioctl(socket.get(), SIOCSIFMTU, &request) != 0) {
    return fail_errno(errno, "cannot set MTU {}", options.mtu);
  }
  request = request_for(options.netdev);
  if (::ioctl(socket.get(), SIOCGIFFLAGS, &request) == 0) {
    request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
  }
  if (::ioctl(socket.get(), SIOCSIFFLAGS, &request) != 0) {
    return fail_errno(errno, "cannot bring it up");
  }
  std::unique_ptr<nl_sock, SocketFree> netlink(::nl_socket_alloc());
  if (!netlink || ::nl_connect(netlink.get(), NETLINK_ROUTE) < 0) {
    return fail("cannot open a netlink socket");
  }
  for (const std::string& address : options.addresses) {
    SLUICE_TRY(add_address(netlink.get(), ifindex, address));
  }
  return {};
}

}  // namespace

Result<Tap> make_tap(const TapOptions& options) {
  if (!is_device_name(options.netdev)) {
    return fail(
        "\"{}\" cannot be the name of a network device: 1 to {} characters without \"/\", \":\", \"%\" "
        "and spaces",
        options.netdev, IFNAMSIZ - 1);
  }
  Tap tap;
  for (std::uint32_t i = 0; i < options.queues; ++i) {
    auto queue = SLUICE_TRY(open_queue(options.netdev, i == 0));
    tap.queues.push_back(std::move(queue));
  }
  if (auto done = set_up(options, tap.ifindex); !done) {
    return with_context(fmt::format("tap device {}", options.netdev), done.error());
  }
  return tap;
}

bool is_up(const std::string& netdev) {
  ifreq request = request_for(netdev);
  UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  return socket && ::ioctl(socket.get(), SIOCGIFFLAGS, &request) == 0 && (request.ifr_flags & IFF_UP) != 0;
}

}  // namespace sluice
