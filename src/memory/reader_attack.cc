#include "memory/reader_attack.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include "base/check.h"

namespace sluice::test {
namespace {

constexpr char kEvil[] = "evil";

void attack_mapping(void* data, std::size_t bytes, const std::string& as,
                    std::vector<std::string>& got_through) {
  auto attempt = [&](const char* name, bool done) {
    if (done) {
      got_through.push_back(as + name);
    }
  };
  attempt("mprotect PROT_WRITE", ::mprotect(data, bytes, PROT_READ | PROT_WRITE) == 0);
  int memory = ::open("/proc/self/mem", O_RDWR);
  attempt("write through /proc/self/mem",
          memory >= 0 && ::pwrite(memory, kEvil, sizeof kEvil, reinterpret_cast<off_t>(data)) > 0);
  ::close(memory);
  char evil[sizeof kEvil];
  std::memcpy(evil, kEvil, sizeof evil);
  iovec from{evil, sizeof evil}, to{data, sizeof evil};
  attempt("process_vm_writev", ::process_vm_writev(::getpid(), &from, 1, &to, 1, 0) > 0);
  attempt("madvise MADV_REMOVE", ::madvise(data, bytes, MADV_REMOVE) == 0);
  int zero = ::open("/dev/zero", O_RDONLY);
  attempt("read(2) into it", ::read(zero, data, 16) > 0);
  ::close(zero);
}

void attack_descriptor(int fd, std::size_t bytes, const std::string& as,
                       std::vector<std::string>& got_through) {
  auto attempt = [&](const char* name, bool done) {
    if (done) {
      got_through.push_back(as + name);
    }
  };
  void* writable = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  attempt("mmap PROT_WRITE", writable != MAP_FAILED);
  void* write_only = ::mmap(nullptr, bytes, PROT_WRITE, MAP_SHARED_VALIDATE, fd, 0);
  attempt("mmap MAP_SHARED_VALIDATE PROT_WRITE", write_only != MAP_FAILED);
  attempt("write", ::write(fd, kEvil, sizeof kEvil) > 0);
  attempt("pwrite", ::pwrite(fd, kEvil, sizeof kEvil, 0) > 0);
  attempt("ftruncate to nothing", ::ftruncate(fd, 0) == 0);
  attempt("ftruncate to twice the size", ::ftruncate(fd, static_cast<off_t>(2 * bytes)) == 0);
  attempt("fallocate punch hole",
          ::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(bytes)) == 0);
  attempt("fallocate grow", ::fallocate(fd, 0, static_cast<off_t>(bytes), static_cast<off_t>(bytes)) == 0);
  attempt("add a seal", ::fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) == 0);
  int zero = ::open("/dev/zero", O_RDONLY);
  attempt("sendfile into it", ::sendfile(fd, zero, nullptr, 16) > 0);
  ::close(zero);
  void* readable = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd, 0);
  if (readable == MAP_FAILED) {
    got_through.push_back(as + "(cannot even read)");
    return;
  }
  attack_mapping(readable, bytes, as, got_through);
  ::munmap(readable, bytes);
  // A private copy is anybody's right; that it stays private is checked by who owns the arena.
  void* copy = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  if (copy != MAP_FAILED) {
    std::memcpy(copy, kEvil, sizeof kEvil);
    ::munmap(copy, bytes);
  }
}

}  // namespace

std::vector<std::string> attack_as_reader(int fd, std::size_t bytes) {
  std::vector<std::string> got_through;
  attack_descriptor(fd, bytes, "", got_through);
  std::string path = "/proc/self/fd/" + std::to_string(fd);
  bool privileged = ::geteuid() == 0;
  for (bool after_chmod : {false, true}) {
    if (after_chmod && ::fchmod(fd, 0666) == 0 && !privileged) {
      got_through.push_back("fchmod");
    }
    for (int flags : {O_RDWR, O_WRONLY, O_RDWR | O_TRUNC}) {
      int again = ::open(path.c_str(), flags | O_CLOEXEC);
      if (again < 0) {
        continue;
      }
      // Root, or the file's owner after a chmod, may open it so: the seals must hold all the same.
      if (!privileged) {
        got_through.push_back("open again for writing");
      }
      if ((flags & O_ACCMODE) == O_RDWR) {
        attack_descriptor(again, bytes, "opened again: ", got_through);
      } else if (::pwrite(again, kEvil, sizeof kEvil, 0) > 0) {
        got_through.push_back("opened again write-only: pwrite");
      }
      ::close(again);
    }
  }
  return got_through;
}

Peer::Peer(As as, Work work) {
  int sockets[2];
  SLUICE_CHECK(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) == 0);
  pid_ = ::fork();
  SLUICE_CHECK(pid_ >= 0);
  if (pid_ == 0) {
    ::close(sockets[0]);
    socket_ = sockets[1];
    serve(as, work);
  }
  ::close(sockets[1]);
  socket_ = sockets[0];
}

Peer::~Peer() {
  ::close(socket_);
  ::waitpid(pid_, nullptr, 0);
}

void Peer::serve(As as, Work work) {
  ::alarm(60);  // never outlives a test that died
  if (as == As::kNobody && (::setgid(65534) != 0 || ::setuid(65534) != 0)) {
    ::_exit(3);
  }
  std::size_t bytes = 0;
  iovec data{&bytes, sizeof bytes};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  if (::recvmsg(socket_, &message, MSG_CMSG_CLOEXEC) <= 0 || CMSG_FIRSTHDR(&message) == nullptr) {
    ::_exit(2);
  }
  int fd = -1;
  std::memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
  std::string said = work(fd, bytes);
  ssize_t sent = ::send(socket_, said.data(), said.size(), 0);
  ::_exit(sent == static_cast<ssize_t>(said.size()) ? 0 : 1);
}

std::string Peer::give(int fd, std::size_t bytes) {
  iovec data{&bytes, sizeof bytes};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof fd);
  std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  if (::sendmsg(socket_, &message, MSG_NOSIGNAL) < 0) {
    return "";
  }
  std::string said(4096, '\0');
  ssize_t got = ::recv(socket_, said.data(), said.size(), 0);
  said.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
  return said;
}

}  // namespace sluice::test
