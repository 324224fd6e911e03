#include "port/nic/nic_info.h"

#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netlink/netlink.h>
#include <netlink/route/link.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "base/fd.h"

namespace sluice {

namespace {

struct SocketFree {
  void operator()(nl_sock* socket) const { ::nl_socket_free(socket); }
};
struct LinkPut {
  void operator()(rtnl_link* link) const { ::rtnl_link_put(link); }
};

Result<std::unique_ptr<rtnl_link, LinkPut>> ask_netlink(const std::string& netdev) {
  std::unique_ptr<nl_sock, SocketFree> socket(::nl_socket_alloc());
  if (!socket || ::nl_connect(socket.get(), NETLINK_ROUTE) < 0) {
    return fail("cannot open a netlink socket");
  }
  rtnl_link* link = nullptr;
  if (int error = ::rtnl_link_get_kernel(socket.get(), 0, netdev.c_str(), &link); error < 0) {
    if (error == -NLE_OBJ_NOTFOUND || error == -NLE_NODEV) {
      return std::unexpected(Error{
          fmt::format("there is no network device {} (ip link shows which there are)", netdev), ENODEV});
    }
    return fail("cannot ask netlink about {}: {}", netdev, ::nl_geterror(error));
  }
  return std::unique_ptr<rtnl_link, LinkPut>(link);
}

bool ethtool(int socket, const std::string& netdev, void* command) {
  ifreq request{};
  std::strncpy(request.ifr_name, netdev.c_str(), IFNAMSIZ - 1);
  request.ifr_data = static_cast<char*>(command);
  return ::ioctl(socket, SIOCETHTOOL, &request) == 0;
}

void ask_ethtool(NicInfo& info) {
  UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ethtool_drvinfo driver{};
  driver.cmd = ETHTOOL_GDRVINFO;
  if (ethtool(socket.get(), info.netdev, &driver)) {
    info.driver = driver.driver;
  }
  ethtool_channels channels{};
  channels.cmd = ETHTOOL_GCHANNELS;
  if (ethtool(socket.get(), info.netdev, &channels)) {
    std::uint32_t rx = channels.combined_count + channels.rx_count;
    std::uint32_t tx = channels.combined_count + channels.tx_count;
    info.rx_queues = rx != 0 ? rx : info.rx_queues;
    info.tx_queues = tx != 0 ? tx : info.tx_queues;
  }
}

}  // namespace

Result<NicInfo> read_nic_info(const std::string& netdev) {
  if (netdev.empty() || netdev.size() >= IFNAMSIZ) {
    return fail("\"{}\" cannot be the name of a network device: 1 to {} characters", netdev, IFNAMSIZ - 1);
  }
  auto link = ask_netlink(netdev);
  if (!link) {
    return std::unexpected(link.error());
  }
  NicInfo info;
  info.netdev = netdev;
  info.ifindex = ::rtnl_link_get_ifindex(link->get());
  info.mtu = ::rtnl_link_get_mtu(link->get());
  unsigned int flags = ::rtnl_link_get_flags(link->get());
  info.up = (flags & IFF_UP) != 0;
  info.carrier = (flags & IFF_RUNNING) != 0;
  if (nl_addr* address = ::rtnl_link_get_addr(link->get());
      address != nullptr && ::nl_addr_get_len(address) == 6) {
    std::memcpy(info.mac.data(), ::nl_addr_get_binary_addr(address), 6);
  }
  // Netlink counts the queues the device was made with; ethtool, where the driver answers, those in use.
  info.rx_queues = ::rtnl_link_get_num_rx_queues(link->get());
  info.tx_queues = ::rtnl_link_get_num_tx_queues(link->get());
  ask_ethtool(info);
  return info;
}

// virtio_net maps its header of all zeroes, a static variable (drivers/net/virtio_net.c, xsk_hdr), for DMA as
// if it lay in the kernel's linear mapping. A module's variables do not: the address is that of some other
// page, and what stands there is the header that the device reads. Seen with Linux 7.3.4; the patches
// that brought zero copy have it already.
std::string zero_copy_flaw(const NicInfo& info) {
  // Only a module has this file; what is built in has none.
  if (info.driver != "virtio_net" || ::access("/sys/module/virtio_net/initstate", F_OK) != 0) {
    return "";
  }
  return "the driver virtio_net, loaded as a module, sends in zero-copy mode with headers from a page that "
         "is not its own, and what it sends may be lost or changed";
}

}  // namespace sluice
