#include "bench/busy_poll.h"

#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <net/if.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <functional>
#include <span>
#include <vector>

#include "base/fd.h"
#include "test/support/process.h"

namespace sluice::bench {

namespace {

// Newer than Debian 12's headers, or in <asm/socket.h> only.
constexpr int kSoPreferBusyPoll = 69, kSoBusyPollBudget = 70;
constexpr int kBusyPollUs = 20;
constexpr int kBusyPollBudget = 64;

// Documentation/netlink/specs/netdev.yaml
constexpr std::uint8_t kNapiGet = 11, kNapiSet = 14;
constexpr std::uint16_t kNapiIfindex = 1, kNapiId = 2, kNapiDeferHardIrqs = 5, kNapiFlushTimeout = 6;

class Message {
 public:
  Message(std::uint16_t type, std::uint8_t command, std::uint16_t flags) {
    nlmsghdr header{};
    header.nlmsg_type = type;
    header.nlmsg_flags = static_cast<std::uint16_t>(NLM_F_REQUEST | flags);
    append(&header, sizeof header);
    genlmsghdr generic{};
    generic.cmd = command;
    generic.version = 1;
    append(&generic, sizeof generic);
  }
  void attribute(std::uint16_t type, const void* value, std::size_t bytes) {
    const nlattr header{static_cast<std::uint16_t>(NLA_HDRLEN + bytes), type};
    append(&header, sizeof header);
    append(value, bytes);
  }
  std::span<const std::byte> finish() {
    reinterpret_cast<nlmsghdr*>(bytes_.data())->nlmsg_len = static_cast<std::uint32_t>(bytes_.size());
    return bytes_;
  }

 private:
  void append(const void* from, std::size_t count) {
    const auto* begin = static_cast<const std::byte*>(from);
    bytes_.insert(bytes_.end(), begin, begin + count);
    bytes_.resize(NLMSG_ALIGN(bytes_.size()));
  }
  std::vector<std::byte> bytes_;
};

using OnAttribute = std::function<void(std::uint16_t type, std::span<const std::byte> value)>;

void for_each_attribute(const nlmsghdr* message, const OnAttribute& visit) {
  const auto* at = static_cast<const std::byte*>(NLMSG_DATA(message)) + GENL_HDRLEN;
  const auto* end = reinterpret_cast<const std::byte*>(message) + message->nlmsg_len;
  while (at + NLA_HDRLEN <= end) {
    nlattr attribute{};
    std::memcpy(&attribute, at, sizeof attribute);
    if (attribute.nla_len < NLA_HDRLEN || at + attribute.nla_len > end) {
      return;
    }
    visit(attribute.nla_type & NLA_TYPE_MASK, {at + NLA_HDRLEN, attribute.nla_len - std::size_t{NLA_HDRLEN}});
    at += NLA_ALIGN(attribute.nla_len);
  }
}

// Sends, and visits the attributes of all answers.
Result<void> ask(int fd, Message message, const OnAttribute& visit) {
  const std::span<const std::byte> request = message.finish();
  if (::send(fd, request.data(), request.size(), 0) < 0) {
    return fail_errno(errno, "netlink: cannot send");
  }
  alignas(nlmsghdr) std::array<std::byte, 16384> answer;
  for (;;) {
    const ssize_t received = ::recv(fd, answer.data(), answer.size(), 0);
    if (received < 0) {
      return fail_errno(errno, "netlink: cannot receive");
    }
    auto left = static_cast<std::uint32_t>(received);
    for (const auto* header = reinterpret_cast<const nlmsghdr*>(answer.data()); NLMSG_OK(header, left);
         header = NLMSG_NEXT(header, left)) {
      if (header->nlmsg_type == NLMSG_DONE) {
        return {};
      }
      if (header->nlmsg_type == NLMSG_ERROR) {
        const int error = -static_cast<const nlmsgerr*>(NLMSG_DATA(header))->error;
        if (error != 0) {
          return fail_errno(error, "netlink");
        }
        return {};
      }
      for_each_attribute(header, visit);
    }
  }
}

Result<std::uint16_t> netdev_family(int fd) {
  Message message(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, NLM_F_ACK);
  message.attribute(CTRL_ATTR_FAMILY_NAME, "netdev", sizeof "netdev");
  std::uint16_t family = 0;
  SLUICE_TRY(ask(fd, message, [&](std::uint16_t type, std::span<const std::byte> value) {
    if (type == CTRL_ATTR_FAMILY_ID && value.size() == sizeof family) {
      std::memcpy(&family, value.data(), sizeof family);
    }
  }));
  return family;
}

Result<void> defer_by_napi(const std::string& netdev, const DeferredInterrupts& settings) {
  UniqueFd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC));
  if (!fd) {
    return fail_errno(errno, "netlink");
  }
  auto family = netdev_family(fd.get());
  SLUICE_TRY(family);
  const std::uint32_t ifindex = ::if_nametoindex(netdev.c_str());
  Message get(*family, kNapiGet, NLM_F_DUMP);
  get.attribute(kNapiIfindex, &ifindex, sizeof ifindex);
  std::vector<std::uint32_t> ids;
  SLUICE_TRY(ask(fd.get(), get, [&](std::uint16_t type, std::span<const std::byte> value) {
    if (type == kNapiId && value.size() == sizeof(std::uint32_t)) {
      std::memcpy(&ids.emplace_back(), value.data(), value.size());
    }
  }));
  if (ids.empty()) {
    return fail("{} has no NAPI", netdev);
  }
  for (const std::uint32_t id : ids) {
    Message set(*family, kNapiSet, NLM_F_ACK);
    set.attribute(kNapiId, &id, sizeof id);
    set.attribute(kNapiDeferHardIrqs, &settings.hard_irqs, sizeof settings.hard_irqs);
    set.attribute(kNapiFlushTimeout, &settings.flush_ns, sizeof settings.flush_ns);
    SLUICE_TRY(ask(fd.get(), set, [](std::uint16_t, std::span<const std::byte>) {}));
  }
  return {};
}

// /sys shows the devices of the namespace in which it was mounted.
Result<void> defer_by_device(const std::string& netdev, const DeferredInterrupts& settings) {
  const test::Finished done = test::run(
      {"unshare", "--mount", "sh", "-c",
       fmt::format("mount -t sysfs none /sys && cd /sys/class/net/{} && echo {} >napi_defer_hard_irqs && "
                   "echo {} >gro_flush_timeout",
                   netdev, settings.hard_irqs, settings.flush_ns)});
  if (!done.ok()) {
    return fail("cannot defer the interrupts of {}: {}", netdev, done.output);
  }
  return {};
}

}  // namespace

Result<void> prefer_busy_poll(int socket_fd) {
  struct Option {
    int name, value;
    const char* says;
  };
  for (const Option& option : {Option{kSoPreferBusyPoll, 1, "SO_PREFER_BUSY_POLL"},
                               Option{SO_BUSY_POLL, kBusyPollUs, "SO_BUSY_POLL"},
                               Option{kSoBusyPollBudget, kBusyPollBudget, "SO_BUSY_POLL_BUDGET"}}) {
    if (::setsockopt(socket_fd, SOL_SOCKET, option.name, &option.value, sizeof option.value) < 0) {
      return fail_errno(errno, "cannot set {}", option.says);
    }
  }
  return {};
}

std::uint32_t napi_of(int socket_fd) {
  std::uint32_t id = 0;
  socklen_t bytes = sizeof id;
  return ::getsockopt(socket_fd, SOL_SOCKET, SO_INCOMING_NAPI_ID, &id, &bytes) == 0 ? id : 0;
}

Result<DeferredBy> defer_interrupts(const std::string& netdev, const DeferredInterrupts& settings) {
  if (defer_by_napi(netdev, settings)) {
    return DeferredBy::kNapi;
  }
  SLUICE_TRY(defer_by_device(netdev, settings));
  return DeferredBy::kDevice;
}

}  // namespace sluice::bench
