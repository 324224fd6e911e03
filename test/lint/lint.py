#!/usr/bin/env python3
"""Sluice's own rules. Each names what to write instead. Exit 1 when one is broken.

A line that must break a rule says so:  // lint: allow(RULE) why
"""
import os, re, sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CODE = r"^(src|client|cmd|examples|test|bench)/.*\.(cc|h)$"
SRC = r"^(src|client)/(?!.*_(test|fuzz|bench)\.cc$).*\.(cc|h)$"
OWN = SRC.replace("(src|client)", "src")  # libsluice hands out objects through C
# Who may receive descriptors, and of whom.
RECEIVERS = "|".join([
    r"base/fd_passing", r"base/peer_fd",  # the calls themselves, and what a descriptor is
    r"door/undertaker", r"door/zygote",  # of the daemon
    r"door/one_message",  # in a door; without room for descriptors
    r"door/checker\.cc",  # in a door, of other doors
    r"door/checkers\.cc",  # in the daemon, of the checker alone
    r"port/guest/vhost_user/transport",  # in a door
    r"port/app/handshake",  # without room for descriptors
    r"memory/reader_attack", r"port/app/app_peer",  # tests'
])
# Who may ask a received descriptor for its number: processes that may wait to close it.
NUMBERS = "|".join([r"base/fd_passing", r"base/peer_fd", r"door/checker\.cc", r"door/undertaker", r"door/zygote"])
TESTS = r"(_test\.cc|^test/.*\.(cc|h))$"

# rule, files, what is banned (comments and strings are gone by then), what to write instead
BANS = [
    ("new", OWN, r"^[^#]*\bnew\b(?!\s*\()(?<!operator new)", "std::make_unique; with a private constructor unique_ptr<T>(new T(...))"),
    ("delete", OWN, r"(?<!=)\s\bdelete\b(?!;)", "a unique_ptr or a container"),
    ("malloc", SRC, r"\b(malloc|calloc|realloc|free)\s*\(", "a container, unique_ptr, or Mapping of base/fd.h"),
    ("assert", CODE, r"\bassert\s*\(", "SLUICE_CHECK of base/check.h: it stays on in release and prints the values"),
    ("print", r"^src/(?!base/)(?!.*_(test|fuzz|bench)\.cc$).*\.(cc|h)$", r"\bstd::(cout|cerr|clog)\b|\b(printf|fprintf|puts)\s*\(", "base/log.h"),
    ("using-namespace", SRC, r"\busing namespace (?!std::\w*literals)(?!std::literals)", "the name itself, or `using x::y;`"),
    ("volatile", SRC, r"(?<!asm )\bvolatile\b", "std::atomic, or read_once of base/untrusted.h"),
    ("string", SRC, r"\b(strcpy|strcat|sprintf|vsprintf|gets|strtok|atoi|atol|atof)\s*\(", "fmt::format, std::string, std::from_chars"),
    ("shell", SRC, r"\b(system|popen)\s*\(", "the system call or netlink request itself"),
    ("throw", r"^src/(base|stats|memory|ring|demux|port|worker)/(?!.*_(test|fuzz|bench)\.cc$)", r"\bthrow\b", "Result<T> for the world, a counted fault for a peer, SLUICE_CHECK for our own bug"),
    ("lock", r"^src/(ring|memory)/(?!.*_(test|fuzz|bench)\.cc$)", r"\bstd::(mutex|shared_mutex|lock_guard|unique_lock|scoped_lock)\b", "one owner thread, or the return ring of the pool"),
    # D8: what a peer sends is touched where the page on doors says so, and nowhere else.
    ("recvmsg", rf"^src/(?!{RECEIVERS})(?!.*_(test|fuzz|bench)\.cc$).*\.(cc|h)$", r"\b(recvmsg|recvmmsg|received_fds|receive_with_fds)\s*\(|\b(SCM_RIGHTS|CMSG_DATA|SYS_recvm?msg|\w*pidfd_getfd|io_uring\w*)\b", "recv(2), or a door (src/door/doors.h) where descriptors may come"),
    ("received-fd", rf"^src/(?!control/)(?!{NUMBERS})(?!.*_(test|fuzz|bench)\.cc$).*\.(cc|h)$", r"\bnumber_of\s*\(|static_cast<int>\(.*(received|fds)", "PeerFd::take(), and of a checker's only: this process may not wait to close what a peer has sent"),
    ("peer-fd", OWN, r"(UniqueFd[ \w]*[({]|\b(reset|emplace|emplace_back)\(|::close\().*(received_fds|\bfds\[|\.fds\b(?!\.push_back)|peer_fd|PeerFd(?!::)).*\)", "PeerFd of base/peer_fd.h: its kind is known before anything else is asked, and its end waits for nobody"),
    ("peer-dup", r"^src/(door|port/guest)/(?!virtio/ring/virtqueue\.cc)(?!.*_(test|fuzz|bench)\.cc$).*\.(cc|h)$", r"\bdup3?\s*\(|\bF_DUPFD", "the PeerFd itself: a second owner may be the last one to close it; virtqueue.cc has eventfds of the session's, and closes them first"),
    ("peer-stat", r"^src/(door|port/guest)/(?!vhost_user/memory_table\.cc)(?!.*_(test|fuzz|bench)\.cc$).*\.(cc|h)$", r"(?<!\w)(fstat|fstatfs|statx|lseek|ioctl)\s*\(", "PeerFd::kind(): a file's server may not answer this; memory_table.cc asks it of memory alone"),
    ("detach", CODE, r"\.detach\(\)", "a joined std::thread or std::jthread"),
]

# folder -> what it may include of ours (DESIGN: arrows point down only; siblings of port/ never see each other)
ARROWS = {
    "abi": "abi", "src/base": "base", "src/stats": "base stats", "src/door": "base stats door", "src/memory": "abi base stats memory",
    "src/ring": "abi base stats ring", "src/xsk": "base xsk", "src/demux": "abi base stats demux bpf",
    "src/port": "abi base stats door memory ring xsk port", "src/worker": "abi base stats memory ring xsk demux port worker",
    "src/control": "abi base stats door memory ring xsk demux port worker control", "src/control/config": "abi base demux control", "client": "abi base ring xsk client",
    "cmd": "abi base stats door memory ring xsk demux port worker control client cmd", "examples": "client",
}
WORDS = [(r"\b(TODO|FIXME|XXX|HACK)\b", "do it, or say in docs/ what is missing"),
         (r"(?i)\b(issue|ticket|task|pull request) #?\d+", "the reason itself")]
findings, warnings, test_sources = [], [], set()


def report(path, line, rule, text):
    findings.append(f"{path}:{line}: {rule}: {text}")


def files():
    for folder, below, names in os.walk(ROOT):  # not git ls-files: git refuses to list another user's clone
        below[:] = [b for b in below if b not in ("build", "__pycache__", ".git", ".ccache")]
        yield from (os.path.relpath(os.path.join(folder, name), ROOT) for name in names)


def find_test_sources(cmake_path, text):
    """What only tests, fuzzers and benches are built of, whatever its name: the rules for the product are not for it."""
    for call in re.findall(r"sluice_(?:test|fuzz|bench)\(([^)]*)\)", text):
        test_sources.update(os.path.join(os.path.dirname(cmake_path), name) for name in re.findall(r"[\w/.]+\.cc\b", call))


def role(path):
    return path[:-3] + "_test.cc" if path in test_sources and not path.endswith("_test.cc") else path


def blank(match):
    return re.sub(r"[^\n]", " ", match.group(0))


def bare(text):
    """The code without comments, and strings without their contents; line numbers stay."""
    pattern = r'R"(\w*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'|//[^\n]*|/\*.*?\*/'
    return re.sub(pattern, blank, text, flags=re.S)


def check_code(path, text):
    code, raw = bare(text).split("\n"), text.split("\n")
    allowed = [set(re.findall(r"lint: allow\(([\w-]+)\)", line)) for line in raw]
    for rule, where, banned, instead in BANS:
        if re.search(where, role(path)):
            for n, line in enumerate(code):
                if re.search(banned, line) and rule not in allowed[n] | allowed[max(n - 1, 0)]:
                    if rule == "new" and re.search(r"(unique|shared)_ptr", " ".join(code[max(n - 1, 0) : n + 1])):
                        continue
                    report(path, n + 1, rule, f"`{line.strip()[:60]}`: write {instead}")
    if re.search(TESTS, role(path)):
        for n, line in enumerate(code):
            waits = re.search(r"\bwhile\b|\bfor \(|deadline|until", " ".join(code[max(n - 8, 0) : n + 3]))
            if re.search(r"(?<![.>])\b(sleep|usleep|nanosleep|sleep_for)\s*\(", line) and not waits and "sleep" not in allowed[n]:
                report(path, n + 1, "sleep", "wait for the condition in a loop with a deadline")
    for n, line in enumerate(raw):  # the formatter leaves comments as they are
        if len(line) > 120 and re.search(r"//|^ *\*", line):
            report(path, n + 1, "line", f"{len(line)} characters; 120 at most")
    if path.endswith(".h") and "#pragma once" not in text and not re.search(r"#ifndef \w+_H\b", text):
        report(path, 1, "guard", "#pragma once")
    start = None
    for n, line in enumerate(code):  # a function: from an unindented line that opens a brace to the brace in column 0
        if re.match(r"^[A-Za-z~].*\) ?(const|noexcept|override|\w+_?\(|: )*.*\{$", line) and not line.startswith(("namespace", "extern")):
            start = n
        elif line.startswith("}") and start is not None:
            if n - start > 100:
                warnings.append(f"{path}:{start + 1}: a function of {n - start} lines wants to be two")
            start = None


def check_includes(path, text):
    folder = next((f for f in sorted(ARROWS, key=len, reverse=True) if path.startswith(f + "/")), None)
    if not folder or re.search(r"_(test|fuzz|bench)\.cc$|/test_", role(path)):
        return
    ours = {a for allowed in ARROWS.values() for a in allowed.split()}
    for match in re.finditer(r'^#include "([^"]+)"', text, re.M):
        n, included = text[: match.start()].count("\n") + 1, match.group(1)
        parts = included.split("/")
        if parts[0] in ours and parts[0] not in ARROWS[folder].split():
            report(path, n, "arrow", f"{folder} may include {ARROWS[folder]}, not {included}")
        mine = path.split("/")[2] if path.count("/") > 2 else ""
        if folder == "src/port" and parts[0] == "port" and len(parts) > 2 and parts[1] != mine:
            report(path, n, "sibling", f"port/{mine} may not know {included}: meet in port/port.h")
        if folder == "src/worker" and parts[0] == "port" and len(parts) > 2:
            report(path, n, "arrow", f"the worker knows port/port.h, not {included}")


def check_text(path, text):
    for n, line in enumerate(text.split("\n")):
        if line != line.rstrip():
            report(path, n + 1, "blank", "trailing space")
        if "\t" in line:
            report(path, n + 1, "tab", "spaces")
        for banned, instead in WORDS:
            if not path.startswith("test/lint/") and re.search(banned, line):
                report(path, n + 1, "word", f"`{line.strip()[:60]}`: write {instead}")
    if text.count("\n") > 700:
        report(path, 1, "length", f"{text.count(chr(10))} lines: a file of more than 700 wants to be two")


def anchors(text):
    """The names by which a page's headings can be linked."""
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w -]", "", re.sub(r"\]\([^)]*\)", "]", h).lower()).strip().replace(" ", "-") for h in headings}


def check_docs(path, text, everything):
    for target, anchor in re.findall(r"\]\(([^)\s#]*)(?:#([^)]*))?\)", text):
        page = os.path.join(ROOT, os.path.dirname(path), target) if target else os.path.join(ROOT, path)
        if re.match(r"[a-z]+:", target):
            continue
        if target and not os.path.exists(page):
            report(path, 1, "link", f"{target} is not there")
        elif anchor and page.endswith(".md") and anchor not in anchors(open(page).read() if target else text):
            report(path, 1, "link", f"{target} has no heading #{anchor}")
    code = False
    for n, line in enumerate(text.split("\n")):
        code ^= line.startswith("```")
        if len(line) >= 120 and not code and not line.lstrip().startswith(("|", "#")):
            report(path, n + 1, "doc-line", f"{len(line)} columns: a page's lines end before 120, but a table's")
    for name in sorted(set(re.findall(r"\b(?:drop|fault)_[a-z0-9_]+\b(?!\*)", text))):
        if not name.endswith("_") and not re.search(rf"\b{name}\b", everything):
            report(path, 1, "counter", f"no counter is called {name}")


def check_keepers(text, texts):
    """A file that the table of invariants names is one that the product uses: somebody includes its header."""
    product = {p: t for p, t in texts.items() if re.match(r"(src|client|cmd)/", p) and re.search(SRC + r"|^cmd/.*\.cc$", role(p))}
    for named in re.findall(r"^\| D\d+ \|[^|]*\|([^|]*)\|", text, re.M):
        for path in re.findall(r"`src/([\w/]+)\.(?:h|cc)`", named):
            users = [p for p, t in product.items() if f'#include "{path}.h"' in t and not p.startswith(f"src/{path}.")]
            if f"src/{path}.h" in texts and not users:
                report("ARCHITECTURE.md", 1, "keeper", f"src/{path}.h keeps an invariant, and nothing of the product includes it")


def check_quotes(path, text, everything):
    """A heading `like … this` quotes the program: its parts stand in the code (literals joined across lines)."""
    for suite, name in re.findall(r"`([A-Z]\w+)\.([A-Z]\w+)`", text):
        if not re.search(rf"TEST\w*\({suite},\s*{name}\)", everything):
            report(path, 1, "test", f"there is no test {suite}.{name}")
    for named in re.findall(r"`((?:src|abi|bpf|client|cmd|test|docs|examples|bench)/[\w./-]+)`", text):
        if not os.path.exists(os.path.join(ROOT, named)):
            report(path, 1, "path", f"{named} is not there")
    said = re.sub(r'"\s*\n?\s*\+?\s*"', "", everything)
    for heading in re.findall(r"^### `(.+)`$", text, re.M):
        for part in (p.strip(" ,:") for p in heading.split("…")):
            if len(part) > 3 and part not in said:
                report(path, 1, "quote", f"nothing says `{part}`")


def check_keys(texts):
    """docs/config.md has a row for each key of the table of keys, and no other (config_test compares their text)."""
    path = "docs/config.md"
    rows = re.findall(r"^<!-- keys: .*? -->\n(.*?)^<!-- end -->$", texts[path], re.M | re.S)
    told = set(re.findall(r"^\| `(\w+)` \|", "".join(rows), re.M))
    source = texts["src/control/config/keys.cc"]
    known = set(re.findall(r'\.name = "(\w+)"', source)) - set(re.findall(r'\.name = "(\w+)"(?:(?!\.name = )[\s\S])*?\.now_called', source))
    for key in sorted(told ^ known):
        where = "the table of keys" if key in told else path
        report(path, 1, "key", f"`{key}` is not in {where}: sluicectl config-keys | test/tools/config_tables.py {path}")


def main():
    texts = {}
    for path in sorted(files()):
        if re.search(r"(\.(cc|h|c|py|sh|md|txt|cmake|toml|json|xml|service)|^dev|/run|/demo)$", path):
            texts[path] = open(os.path.join(ROOT, path), errors="replace").read()
    everything = "\n".join(t for p, t in texts.items() if re.match(r"(src|abi|bpf|client|cmd|test|bench)/.*(?<!py)$", p))
    for path, text in texts.items():
        if path.endswith("CMakeLists.txt"):
            find_test_sources(path, text)
    for path, text in texts.items():
        check_text(path, text)
        if re.search(CODE, path):
            check_code(path, text)
        check_includes(path, text)
        if path == "ARCHITECTURE.md":
            check_keepers(text, texts)
        if path.endswith(".md"):
            check_docs(path, text, everything)
            check_quotes(path, text, everything)
    check_keys(texts)
    print("\n".join(["warning: " + w for w in warnings] + findings) or "lint: nothing found")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
