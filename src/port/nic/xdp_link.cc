#include "port/nic/xdp_link.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/if_link.h>
#include <net/if.h>

#include <array>
#include <cerrno>
#include <optional>

#include "port/nic/nic_info.h"

namespace sluice {

namespace {

std::string name_of(int ifindex) {
  std::array<char, IF_NAMESIZE> name{};
  return ::if_indextoname(static_cast<unsigned>(ifindex), name.data()) != nullptr ? name.data() : "";
}

// "the XDP program xdp_pass (id 7)" when one is there already.
std::optional<std::string> present_program(int ifindex) {
  LIBBPF_OPTS(bpf_xdp_query_opts, query);
  if (::bpf_xdp_query(ifindex, 0, &query) != 0) {
    return std::nullopt;
  }
  std::uint32_t id = query.prog_id;
  for (std::uint32_t candidate : {query.drv_prog_id, query.skb_prog_id, query.hw_prog_id}) {
    id = id != 0 ? id : candidate;
  }
  if (id == 0) {
    return std::nullopt;
  }
  bpf_prog_info info{};
  std::uint32_t info_bytes = sizeof(info);
  UniqueFd program(::bpf_prog_get_fd_by_id(id));
  bool known = program && ::bpf_obj_get_info_by_fd(program.get(), &info, &info_bytes) == 0;
  std::string name = known ? info.name : "";
  // Its name is for CAP_SYS_ADMIN alone, which the daemon does not keep.
  std::string text =
      known ? fmt::format("the XDP program {} (id {})", name.empty() ? "without a name" : name, id)
            : fmt::format("an XDP program (id {}; `bpftool prog show id {}` names it)", id, id);
  // libxdp's dispatcher holds the hook for several programs of its own; Sluice's cannot be one of them,
  // because they would see packets before or after it.
  if (name.starts_with("xdp_dispatcher")) {
    text +=
        ", libxdp's dispatcher: `xdp-loader status` shows its programs, `xdp-loader unload DEV --all` ends "
        "it";
  } else {
    text +=
        ": end the program that put it there, or `ip link set dev DEV xdp off`, or `bpftool link` and "
        "`bpftool link detach`";
  }
  return text;
}

int create_link(int ifindex, int program_fd, std::uint32_t mode, UniqueFd& link) {
  LIBBPF_OPTS(bpf_link_create_opts, options);
  options.flags = mode;
  int fd = ::bpf_link_create(program_fd, ifindex, BPF_XDP, &options);
  if (fd < 0) {
    return -fd;
  }
  link.reset(fd);
  return 0;
}

}  // namespace

Result<XdpLink> XdpLink::attach(int ifindex, int program_fd) {
  std::string netdev = name_of(ifindex);
  if (netdev.empty()) {
    return std::unexpected(Error{fmt::format("there is no network device with index {}", ifindex), ENODEV});
  }
  XdpLink link;
  int error = create_link(ifindex, program_fd, XDP_FLAGS_DRV_MODE, link.link_);
  if (error == 0) {
    return link;
  }
  if (error == EBUSY || error == EEXIST) {
    std::string who = present_program(ifindex).value_or("another XDP program");
    return std::unexpected(Error{fmt::format("{} is taken by {}", netdev, who), error});
  }
  if (error == EPERM || error == EACCES) {
    return fail_errno(error, "attaching XDP to {} needs the capabilities CAP_NET_ADMIN and CAP_BPF", netdev);
  }
  NicInfo info = read_nic_info(netdev).value_or(NicInfo{});
  // Drivers say "your frames do not fit one page" in their own ways: veth ERANGE, many others EINVAL at an
  // MTU that no page of 4 KiB with 256 bytes of headroom can hold. EOPNOTSUPP is "no native XDP at all".
  constexpr std::uint32_t kLargestMtu = 3498;
  if (error == ERANGE || (error != EOPNOTSUPP && info.mtu > kLargestMtu)) {
    return fail_errno(error,
                      "the MTU of {} ({}, or that of its peer) is too large for XDP in driver {}, which "
                      "needs a frame to fit "
                      "one page: `ip link set dev {} mtu 1500` (at most about {})",
                      netdev, info.mtu, info.driver, netdev, kLargestMtu);
  }
  if (error == ENOSPC) {
    return fail_errno(error,
                      "{} has too few queues for XDP in driver {} (RX {}, TX {}): `ethtool -L {}` sets them; "
                      "a veth needs as many RX queues as its peer has TX queues",
                      netdev, info.driver, info.rx_queues, info.tx_queues, netdev);
  }
  int generic_error = create_link(ifindex, program_fd, XDP_FLAGS_SKB_MODE, link.link_);
  if (generic_error != 0) {
    return fail_errno(generic_error,
                      "{} takes no XDP program: native XDP fails with \"{}\" in driver {}, and generic XDP",
                      netdev, std::strerror(error), info.driver.empty() ? "(unknown)" : info.driver);
  }
  link.mode_ = Mode::kGeneric;
  link.warning_ = fmt::format(
      "driver {} of {} has no native XDP ({}): generic XDP is used, which is several times slower",
      info.driver.empty() ? "(unknown)" : info.driver, netdev, std::strerror(error));
  return link;
}

bool XdpLink::attached() const {
  bpf_link_info info{};
  std::uint32_t info_bytes = sizeof(info);
  return link_ && ::bpf_obj_get_info_by_fd(link_.get(), &info, &info_bytes) == 0 && info.xdp.ifindex != 0;
}

}  // namespace sluice
