// The two processes of a file whose server does not answer (silent_fuse.h). Orders come on descriptor 3.
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <string_view>
#include <utility>
#include <vector>

#include "abi/app.h"
#include "base/fd_passing.h"
#include "test/system/silent_fuse.h"

namespace {

using namespace sluice;
using namespace sluice::test;

constexpr int kOrders = 3;
constexpr const char* kFile = "/mnt/file";
constexpr std::uint64_t kRootNode = 1, kFileNode = 2;

void say(int error) {
  const std::int32_t answer = error;
  (void)::send(kOrders, &answer, sizeof answer, MSG_NOSIGNAL);
}

// Ends with its parent.
void die_with(pid_t parent) {
  if (::prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || ::getppid() != parent) {
    ::_exit(3);
  }
}

// ---- the server

fuse_attr attributes(std::uint64_t node) {
  fuse_attr attr{};
  attr.ino = node;
  attr.mode = node == kRootNode ? S_IFDIR | 0755u : S_IFREG | 0666u;
  attr.nlink = 1;
  attr.size = node == kRootNode ? 0 : 1 << 20;
  attr.blksize = 4096;
  return attr;
}

class Server {
 public:
  Server(int device, std::uint32_t silent_to) : device_(device), silent_to_(silent_to) {}

  // Until the test is gone; what was not answered is aborted with the process.
  void serve() {
    std::vector<char> request(FUSE_MIN_READ_BUFFER + (1 << 17));
    std::array<pollfd, 2> waiting{pollfd{.fd = device_, .events = POLLIN, .revents = 0},
                                  pollfd{.fd = kOrders, .events = 0, .revents = 0}};
    while (::poll(waiting.data(), waiting.size(), -1) >= 0 || errno == EINTR) {
      if ((waiting[1].revents & (POLLHUP | POLLERR)) != 0) {
        return;
      }
      if (waiting[0].revents == 0) {
        continue;
      }
      const ssize_t got = ::read(device_, request.data(), request.size());
      if (got < 0 && (errno == ENODEV || errno == ECONNABORTED)) {
        return;
      }
      if (got >= static_cast<ssize_t>(sizeof(fuse_in_header))) {
        fuse_in_header header;
        std::memcpy(&header, request.data(), sizeof header);
        answer(header);
      }
    }
  }

 private:
  bool is_silent_to(std::uint32_t opcode) const {
    switch (opcode) {
      case FUSE_FLUSH:
        return (silent_to_ & kSilentToFlush) != 0;
      case FUSE_RELEASE:
        return (silent_to_ & kSilentToRelease) != 0;
      case FUSE_GETATTR:
        return (silent_to_ & kSilentToGetattr) != 0;
      case FUSE_STATFS:
        return (silent_to_ & kSilentToStatfs) != 0;
      default:
        return false;
    }
  }

  void reply(std::uint64_t unique, int error, const void* body, std::size_t bytes) {
    std::array<char, 512> out{};
    const fuse_out_header head{.len = static_cast<std::uint32_t>(sizeof(fuse_out_header) + bytes),
                               .error = -error,
                               .unique = unique};
    std::memcpy(out.data(), &head, sizeof head);
    if (bytes > 0) {
      std::memcpy(out.data() + sizeof head, body, bytes);
    }
    (void)!::write(device_, out.data(), head.len);
  }
  void reply(std::uint64_t unique, const auto& body) { reply(unique, 0, &body, sizeof body); }

  void answer(const fuse_in_header& header) {
    if (is_silent_to(header.opcode)) {
      return;
    }
    switch (header.opcode) {
      case FUSE_INIT: {
        fuse_init_out init{};
        init.major = FUSE_KERNEL_VERSION;
        init.minor = FUSE_KERNEL_MINOR_VERSION;
        init.max_write = 4096;
        return reply(header.unique, init);
      }
      case FUSE_LOOKUP: {
        fuse_entry_out entry{};
        entry.nodeid = kFileNode;
        entry.entry_valid = 3600;  // its attributes are asked for each time
        entry.attr = attributes(kFileNode);
        return reply(header.unique, entry);
      }
      case FUSE_GETATTR: {
        fuse_attr_out attr{};
        attr.attr = attributes(header.nodeid);
        return reply(header.unique, attr);
      }
      case FUSE_OPEN: {
        const fuse_open_out open{};
        return reply(header.unique, open);
      }
      case FUSE_STATFS: {
        const fuse_statfs_out statfs{};
        return reply(header.unique, statfs);
      }
      case FUSE_FLUSH:
      case FUSE_RELEASE:
        return reply(header.unique, 0, nullptr, 0);
      case FUSE_FORGET:
      case FUSE_BATCH_FORGET:
      case FUSE_INTERRUPT:
        return;  // nothing is expected
      default:
        return reply(header.unique, ENOSYS, nullptr, 0);
    }
  }

  const int device_;
  const std::uint32_t silent_to_;
};

// ---- the sender

class Sender {
 public:
  explicit Sender(pid_t server) : server_(server) {}

  [[noreturn]] void run(int ready) {
    char byte = 0;
    if (::read(ready, &byte, 1) != 1) {
      ::_exit(1);
    }
    file_ = ::open(kFile, O_RDWR | O_CLOEXEC);
    say(file_ >= 0 ? 0 : errno);
    for (;;) {
      FuseOrder order;
      const ssize_t got = ::recv(kOrders, &order, sizeof order, 0);
      if (got != sizeof order) {
        ::_exit(0);  // waits for the server, which ends now
      }
      say(obey(order));
    }
  }

 private:
  int obey(const FuseOrder& order) {
    switch (order.what) {
      case FuseOrder::What::kSend:
        return connect(order.path, order.type, order.user) ? send_file(socket_, order) : errno;
      case FuseOrder::What::kSendWake:
        return send_wake(order);
      case FuseOrder::What::kHangUp:
        ::close(std::exchange(socket_, -1));
        return 0;
    }
    return EINVAL;
  }

  bool connect(const char* path, int type, std::uint32_t user) {
    socket_ = ::socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path, std::strlen(path));
    if (socket_ < 0 || ::seteuid(user) != 0) {
      return false;
    }
    const int failed = ::connect(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof address);
    const int why = errno;
    if (::seteuid(0) != 0) {
      ::_exit(4);
    }
    die_with(server_);  // is forgotten when the user changes
    errno = why;
    return failed == 0;
  }

  int send_file(int socket, const FuseOrder& order) {
    const std::vector<int> files(order.copies, file_);
    const auto sent = send_with_fds(socket, std::span(order.data).first(order.bytes), files, 0);
    return sent >= 0 ? 0 : errno;
  }

  int send_wake(const FuseOrder& order) {
    sluice_app_hello hello{
        .magic = SLUICE_APP_MAGIC, .version = SLUICE_APP_VERSION, .reserved = 0, .client = "w"};
    if (!connect(order.path, SOCK_SEQPACKET, 0) || ::send(socket_, &hello, sizeof hello, MSG_NOSIGNAL) < 0) {
      return errno;
    }
    sluice_app_welcome welcome{};
    alignas(cmsghdr) std::array<std::byte, 2048> control;
    iovec place{&welcome, sizeof welcome};
    msghdr header{};
    header.msg_iov = &place;
    header.msg_iovlen = 1;
    header.msg_control = control.data();
    header.msg_controllen = control.size();
    if (::recvmsg(socket_, &header, MSG_CMSG_CLOEXEC) != sizeof welcome || welcome.status != SLUICE_APP_OK) {
      return EPROTO;
    }
    const std::vector<ReceivedFd> came = received_fds(header);
    constexpr std::size_t kFirstWake = 4;  // abi/app.h
    if (came.size() <= kFirstWake) {
      return EPROTO;
    }
    const sluice_app_mapped mapped{.magic = SLUICE_APP_MAGIC, .version = SLUICE_APP_VERSION, .reserved = 0};
    if (::send(socket_, &mapped, sizeof mapped, MSG_NOSIGNAL) < 0) {
      return errno;
    }
    FuseOrder wake = order;
    wake.bytes = 8;
    return send_file(number_of(came[kFirstWake]), wake);
  }

  const pid_t server_;
  int file_ = -1, socket_ = -1;  // the connection before stays open too
};

int mount_at_mnt(int device) {
  std::array<char, 128> options;
  std::snprintf(options.data(), options.size(), "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other",
                device);
  return ::mount("silent", "/mnt", "fuse", MS_NOSUID | MS_NODEV, options.data()) < 0 ? errno : 0;
}

int number(std::string_view text) {
  int value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) {
    return 2;
  }
  die_with(number(arguments[2]));
  int ready[2];
  if (::unshare(CLONE_NEWNS) < 0 || ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0 ||
      ::pipe2(ready, O_CLOEXEC) < 0) {
    say(errno);
    return 1;
  }
  const pid_t server = ::getpid();
  const pid_t sender = ::fork();  // before there is a device, which the server alone may have
  if (sender == 0) {
    die_with(server);
    ::close(ready[1]);
    Sender(server).run(ready[0]);
  }
  const int device = ::open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK);
  const int error = sender < 0 || device < 0 ? errno : mount_at_mnt(device);
  if (error != 0) {
    say(error);
    return 1;
  }
  ::signal(SIGCHLD, SIG_IGN);
  (void)!::write(ready[1], "", 1);
  Server(device, static_cast<std::uint32_t>(number(arguments[1]))).serve();
  return 0;
}
