#!/usr/bin/env python3
"""Every rule of lint.py finds what it bans, and leaves alone what looks like it."""
import re
import sys

import lint

FOUND = [  # rule, path, text
    ("new", "src/a/a.cc", "auto* p = new Thing(1);"),
    ("delete", "src/a/a.cc", "  delete thing;".replace(";", "[0];")),
    ("malloc", "client/a.cc", "auto* p = malloc(3);"),
    ("assert", "src/a/a.cc", "assert(x);"),
    ("print", "src/worker/a.cc", "std::cout << 1;"),
    ("using-namespace", "src/a/a.cc", "using namespace sluice;"),
    ("volatile", "src/a/a.cc", "volatile int x;"),
    ("string", "src/a/a.cc", "int n = atoi(text);"),
    ("shell", "src/a/a.cc", "system(command);"),
    ("throw", "src/port/nic/a.cc", "throw 1;"),
    ("lock", "src/ring/a.h", "#pragma once\nstd::mutex m;"),
    ("recvmsg", "src/control/a.cc", "ssize_t got = ::recvmsg(fd, &header, 0);"),
    ("recvmsg", "src/port/guest/vhost_user/guest_door.cc", "ssize_t got = ::recvmsg(channel_, &header, 0);"),
    ("recvmsg", "src/control/a.cc", "auto message = receive_with_fds(fd, place, 0);"),
    ("recvmsg", "src/control/a.cc", "::syscall(SYS_recvmsg, fd, &header, 0);"),
    ("recvmsg", "src/worker/a.cc", "std::memcpy(&fd, CMSG_DATA(part), sizeof fd);"),
    ("recvmsg", "src/door/door_keeper.cc", "::syscall(SYS_pidfd_getfd, pidfd, 3, 0);"),
    ("received-fd", "src/door/checkers.cc", "UniqueFd mine(number_of(fd));"),
    ("received-fd", "src/port/guest/vhost_user/transport.cc", "UniqueFd mine(static_cast<int>(received_fds(header)[0]));"),
    ("peer-fd", "src/door/zygote.cc", "UniqueFd mine(received_fds(header)[0]);"),
    ("peer-fd", "src/port/guest/vhost_user/session.cc", "call_.reset(message.fds.front().get());"),
    ("peer-fd", "src/port/guest/vhost_user/session.cc", "::close(message.fds[0].get());"),
    ("peer-dup", "src/port/guest/vhost_user/session_rings.cc", "call_ = UniqueFd(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));"),
    ("peer-dup", "src/door/checkers.cc", "const int mine = ::dup(fd);"),
    ("peer-stat", "src/port/guest/vhost_user/session.cc", "if (::fstat(fd.get(), &status) < 0) {"),
    ("detach", "src/a/a.cc", "thread.detach();"),
    ("sleep", "src/a/a_test.cc", "usleep(10);"),
    ("guard", "src/a/a.h", "int x;"),
    ("line", "src/a/a.cc", "// " + "x" * 120),
    ("arrow", "src/base/a.cc", '#include "memory/pool.h"'),
    ("arrow", "src/worker/a.cc", '#include "port/nic/queue.h"'),
    ("arrow", "client/a.cc", '#include "worker/worker.h"'),
    ("arrow", "src/control/config/a.cc", '#include "port/peer_policy.h"'),
    ("sibling", "src/port/app/a.cc", '#include "port/nic/queue.h"'),
    ("word", "src/a/a.cc", "// TO" + "DO later"),
    ("blank", "src/a/a.cc", "int x; "),
    ("tab", "src/a/a.cc", "\tint x;"),
    ("length", "src/a/a.cc", "\n" * 701),
    ("link", "docs/a.md", "[x](nowhere.md)"),
    ("link", "docs/a.md", "# There\n[x](#nowhere)"),
    ("link", "docs/a.md", "[x](words.md#nowhere)"),
    ("doc-line", "docs/a.md", "x" * 120),
    ("counter", "docs/a.md", "`drop_nothing_is_called_so`"),
]
FINE = [  # path, text
    ("src/door/undertaker.cc", "const ssize_t got = ::recvmsg(channel, &header, 0);\nfor (int fd : received_fds(header)) {"),
    ("src/door/checkers.cc", "for (const ReceivedFd fd : received_fds(header)) {\n  checked.fds.push_back(PeerFd::take(fd));"),
    ("src/port/guest/virtio/ring/virtqueue.cc", "return UniqueFd(::fcntl(fd, F_DUPFD_CLOEXEC, 0));"),
    ("src/port/guest/vhost_user/memory_table.cc", "if (::fstat(file.get(), &status) < 0) {"),
    ("src/a/a.cc", "// new assert(x) volatile\nauto s = \"delete new malloc(\";"),
    ("src/a/a.cc", "return std::unique_ptr<Thing>(new Thing(1));"),
    ("src/a/a.cc", "Thing(const Thing&) = delete;\nstatic_assert(true);\nasm volatile(\"\");"),
    ("src/a/a_test.cc", "worker->sleep();"),
    ("src/a/helper.cc", "void* operator new(std::size_t n) {\n  return std::malloc(n);\n}"),
    ("src/a/a_test.cc", "while (!done()) {\n  usleep(10);\n}"),
    ("src/a/a.cc", "auto* p = new Thing(1);  // lint: allow(new) owned by C"),
    ("src/port/app/a.cc", '#include "port/app/b.h"\n#include "port/port.h"\n#include "memory/pool.h"'),
    ("docs/a.md", "[x](https://example.org) `drop_*` [here](#there-it-is)\n## There, it is"),
    ("docs/a.md", "[x](words.md#memory)\n| " + "x" * 200 + " |\n```\n" + "x" * 200 + "\n```"),
]


def rules_broken(path, text):
    lint.findings.clear()
    lint.check_text(path, text)
    if path.endswith((".cc", ".h")):
        lint.check_code(path, text)
    lint.check_includes(path, text)
    if path.endswith(".md"):
        lint.check_docs(path, text, "drop_ring_full")
    return {finding.split(": ")[1] for finding in lint.findings}


lint.find_test_sources("src/a/CMakeLists.txt", "sluice_test(a_test SOURCES a_test.cc helper.cc USES a)")
wrong = [f"{path}: {rule} not found" for rule, path, text in FOUND if rule not in rules_broken(path, text)]
wrong += [f"{path}: {broken} found in {text!r}" for path, text in FINE for broken in [rules_broken(path, text)] if broken]


def keepers_wrong(includer):
    lint.findings.clear()
    lint.check_keepers("| D1 | promise | `src/a/kept.h` | `A.Test` |", {"src/a/kept.h": "", "src/a/kept.cc": INCLUDE, includer: INCLUDE})
    return bool(lint.findings)


INCLUDE = '#include "a/kept.h"'
wrong += [f"{p}: includes what keeps an invariant, and that is not enough" for p in ("src/b/b.cc", "cmd/b.cc") if keepers_wrong(p)]
wrong += [f"{p}: counts as the product" for p in ("src/b/b_test.cc", "bench/b.cc", "src/a/helper.cc") if not keepers_wrong(p)]
wrong += [f"no example for {rule}" for rule, *_ in lint.BANS if rule not in {found[0] for found in FOUND}]
lint.findings.clear()
lint.check_keys({
    "docs/config.md": "<!-- keys: nic -->\n| `mode` | |\n| `gone` | |\n<!-- end -->\n| `prose` | |\n",
    "src/control/config/keys.cc": '{.name = "mode"}, {.name = "fresh"}, {.name = "old", .range = {1, 2}, .now_called = "mode"}',
})
wrong += [] if [re.findall("`(\\w+)`", found)[0] for found in lint.findings] == ["fresh", "gone"] else [f"keys: {lint.findings}"]
print("\n".join(wrong) or "lint_test: every rule holds")
sys.exit(1 if wrong else 0)
