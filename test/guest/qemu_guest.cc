#include "test/guest/qemu_guest.h"

#include <filesystem>

namespace sluice::test {

namespace {
constexpr const char* kProgram = "/usr/bin/qemu-system-x86_64";
// Emulated, beside a busy test.
constexpr std::chrono::seconds kBootDeadline{120}, kCommandDeadline{120};

std::string last_line(std::string text) {
  while (!text.empty() && text.back() == '\n') {
    text.pop_back();
  }
  return text.substr(text.rfind('\n') + 1);
}
}  // namespace

Result<GuestImage> guest_image(const std::string& suite, const std::string& folder,
                               const std::vector<std::string>& files) {
  const std::string kernel = std::string(GUEST_BED_CACHE) + "/" + suite;
  Finished fetched = run({std::string(GUEST_BED) + "/fetch.sh", suite, kernel});
  if (!fetched.ok()) {
    return fail("{}", last_line(fetched.output));
  }
  GuestImage image{kernel + "/vmlinuz", folder + "/initramfs-" + suite};
  std::vector<std::string> argv{std::string(GUEST_BED) + "/initramfs.sh", image.initramfs, kernel};
  argv.insert(argv.end(), files.begin(), files.end());
  Finished made = run(argv);
  if (!made.ok()) {
    return fail("cannot make an initramfs: {}", last_line(made.output));
  }
  return image;
}

std::string QemuGuest::why_none() {
  for (const char* needed : {kProgram, "/bin/busybox", "/usr/bin/cpio", "/usr/bin/xz"}) {
    if (!std::filesystem::exists(needed)) {
      return fmt::format("{} is not installed", needed);
    }
  }
  return "";
}

Result<std::unique_ptr<QemuGuest>> QemuGuest::start(const QemuOptions& options) {
  if (std::string why = why_none(); !why.empty()) {
    return fail("{}", why);
  }
  std::vector<std::string> argv{
      kProgram, "-nodefaults", "-display", "none", "-serial", "stdio",
      // Two things that QEMU 7.2 emulates wrongly, and that Linux falls over now and then: cmpxchg16b (from
      // 6.12 on), and code that is changed while another CPU, emulated by another thread, runs it (7.3).
      "-accel", "tcg,thread=single", "-cpu", "max,-cx16", "-smp", std::to_string(options.cpus), "-m",
      std::to_string(options.memory_mb), "-object",
      fmt::format("memory-backend-memfd,id=mem,size={}M,share=on{}", options.memory_mb,
                  options.huge_pages ? ",hugetlb=on,hugetlbsize=2M,prealloc=on" : ""),
      "-machine", "q35,memory-backend=mem", "-kernel", options.image.kernel, "-initrd",
      options.image.initramfs, "-append",
      fmt::format("console=ttyS0 panic=-1 quiet ADDRESS={} {}", options.address, options.kernel_words)};
  for (std::size_t i = 0; i < options.nics.size(); ++i) {
    const QemuNic& nic = options.nics[i];
    // vectors=0: QEMU 7.2 ends with a segmentation fault when a driver sets up MSI-X on vhost-user in
    // emulation.
    for (const std::string& word :
         {std::string("-chardev"),
          fmt::format("socket,id=c{},path={},{}", i, nic.socket,
                      nic.server ? "server=on,wait=off" : "reconnect=1"),
          std::string("-netdev"), fmt::format("vhost-user,id=n{0},chardev=c{0},queues={1}", i, nic.queues),
          std::string("-device"),
          fmt::format("virtio-net-pci,netdev=n{},mac={},vectors=0{}{}{}", i, nic.mac,
                      nic.queues > 1 ? ",mq=on" : "", nic.more.empty() ? "" : ",", nic.more)}) {
      argv.push_back(word);
    }
  }
  argv.insert(argv.end(), options.more.begin(), options.more.end());
  if (options.ns != nullptr) {
    const std::vector<std::string> inside{"nsenter", "--net=" + options.ns->path(), "--"};
    argv.insert(argv.begin(), inside.begin(), inside.end());
  }
  auto console = Console::start(argv);
  SLUICE_TRY(console);
  (*console)->give_up_at("Kernel panic");
  return std::unique_ptr<QemuGuest>(new QemuGuest(std::move(*console)));
}

Result<void> QemuGuest::up() {
  const std::size_t end = console_->wait_for("GUEST-UP ", boot_mark_, kBootDeadline);
  if (end == std::string::npos) {
    return fail("the guest does not boot: {}", log());
  }
  boot_mark_ = end;
  lines_ = 0;
  return {};
}

QemuGuest::Begun QemuGuest::begin(const std::string& line) {
  Begun begun{++lines_, console_->mark()};
  console_->write(line + "\n");
  return begun;
}

bool QemuGuest::says(const Begun& begun, const std::string& text) {
  return console_->wait_for(text, begun.mark, kCommandDeadline) != std::string::npos;
}

Finished QemuGuest::finish(const Begun& begun) {
  const std::string marker = fmt::format("DONE {} ", begun.number);
  const std::size_t end = console_->wait_for(marker, begun.mark, kCommandDeadline);
  if (end == std::string::npos || console_->wait_for("\n", end) == std::string::npos) {
    return {-1, "it did not end: " + console_->since(begun.mark)};
  }
  return {std::stoi(console_->since(end)),
          console_->since(begun.mark).substr(0, end - begun.mark - marker.size())};
}

Finished QemuGuest::run(const std::string& line) {
  return finish(begin(line));
}

void QemuGuest::reboot() {
  boot_mark_ = console_->mark();
  begin("reboot -f");
}

}  // namespace sluice::test
