#include "test/demo/writer.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <vector>

#include "base/fd.h"
#include "sluice/sluice.hpp"
#include "test/demo/measure.h"

namespace sluice::demo {

namespace {

struct MappedFile {
  std::uintptr_t begin = 0, end = 0;
  std::string name;
};

// The mapping that holds `address`.
MappedFile mapping_of(const void* address) {
  std::ifstream maps("/proc/self/maps");
  const auto wanted = reinterpret_cast<std::uintptr_t>(address);
  for (std::string line; std::getline(maps, line);) {
    MappedFile found;
    if (std::sscanf(line.c_str(), "%" SCNxPTR "-%" SCNxPTR, &found.begin, &found.end) == 2 &&
        wanted >= found.begin && wanted < found.end) {
      found.name = line.substr(line.find('/'));
      return found;
    }
  }
  return {};
}

// `done`, or errno says why not.
void tried(const char* way, bool done) {
  std::printf(done ? "DONE %s\n" : "refused %s (%s)\n", way, std::strerror(errno));
}

void attack_memory(std::byte* page, const MappedFile& mapping) {
  const std::size_t bytes = mapping.end - mapping.begin;
  void* begin = reinterpret_cast<void*>(mapping.begin);
  tried("mprotect PROT_WRITE", ::mprotect(begin, bytes, PROT_READ | PROT_WRITE) == 0);
  UniqueFd memory(::open("/proc/self/mem", O_RDWR | O_CLOEXEC));
  tried("write through /proc/self/mem",
        memory && ::pwrite(memory.get(), "evil", 4,
                           static_cast<off_t>(reinterpret_cast<std::uintptr_t>(page))) > 0);
  char evil[] = "evil";
  iovec from{evil, 4}, to{page, 4};
  tried("process_vm_writev", ::process_vm_writev(::getpid(), &from, 1, &to, 1, 0) > 0);
  UniqueFd zero(::open("/dev/zero", O_RDONLY | O_CLOEXEC));
  tried("read(2) into it", ::read(zero.get(), page, 4) > 0);
}

// The memory's file, opened again by the kernel's own link to it.
void attack_file(const MappedFile& mapping) {
  const std::string link = fmt::format("/proc/self/map_files/{:x}-{:x}", mapping.begin, mapping.end);
  const std::size_t bytes = mapping.end - mapping.begin;
  UniqueFd read_only(::open(link.c_str(), O_RDONLY | O_CLOEXEC));
  if (!read_only) {
    tried("open the memory's file", false);
    return;
  }
  tried("mmap PROT_WRITE", ::mmap(nullptr, bytes, PROT_WRITE, MAP_SHARED, read_only.get(), 0) != MAP_FAILED);
  const std::string again = fmt::format("/proc/self/fd/{}", read_only.get());
  UniqueFd writable(::open(again.c_str(), O_RDWR | O_CLOEXEC));
  const char* how = writable ? "open again for writing (root may), then mmap" : "open again for writing";
  tried(how, writable && ::mmap(nullptr, bytes, PROT_WRITE, MAP_SHARED, writable.get(), 0) != MAP_FAILED);
  if (writable) {
    tried("... then write(2)", ::pwrite(writable.get(), "evil", 4, 0) > 0);
    tried("... then punch a hole",
          ::fallocate(writable.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) == 0);
    tried("... then truncate", ::ftruncate(writable.get(), 0) == 0);
  }
}

}  // namespace

int try_to_write(const std::string& socket) {
  const rlimit no_core{};
  ::setrlimit(RLIMIT_CORE, &no_core);
  auto port = sluice::Port::attach(socket, {.timeout = kPatience});
  if (!port) {
    std::printf("%s\n", port.error().message.c_str());
    return 1;
  }
  std::printf("attached\n");
  std::fflush(stdout);
  sluice::Packet packet;
  if (port->receive_for(std::span(&packet, 1), std::chrono::seconds(5)) == 0) {
    std::printf("no packet came\n");
    return 1;
  }
  const std::vector<std::byte> before(packet.bytes().begin(), packet.bytes().end());
  auto* page = const_cast<std::byte*>(packet.bytes().data());
  const MappedFile mapping = mapping_of(page);
  attack_memory(page, mapping);
  attack_file(mapping);
  const bool unchanged = std::memcmp(before.data(), page, before.size()) == 0;
  std::printf("%s\n", unchanged ? "the packet is as it came" : "DONE the packet has changed");
  std::fflush(stdout);
  *const_cast<volatile std::byte*>(page) = std::byte{0};
  std::printf("DONE a plain store\n");
  return 0;
}

}  // namespace sluice::demo
