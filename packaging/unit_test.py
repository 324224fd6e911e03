#!/usr/bin/env python3
"""The unit allows what the daemon's threads and doors allow themselves. unit_test.py UNIT SOURCE_DIR"""
import re
import shutil
import subprocess
import sys

unit = open(sys.argv[1]).read()
source = sys.argv[2]


def values(key):
    return [word for line in re.findall(rf"^{key}=(.*)$", unit, re.M) for word in line.split()]


def calls_of(group):
    """All names of a group of systemd's, as `systemd-analyze syscall-filter` prints them."""
    names = set()
    text = subprocess.run(["systemd-analyze", "syscall-filter", group], capture_output=True, text=True, check=True).stdout
    for word in (line.strip() for line in text.splitlines()[1:]):
        if word.startswith("@"):
            names |= calls_of(word)
        elif word and not word.startswith("#"):
            names.add(word)
    return names


def own_calls():
    """What src/base/thread_calls.cc and src/door/zygote.cc name, each a quoted word of a list."""
    text = re.sub(r"std::string_view name_of.*", "", open(f"{source}/src/base/thread_calls.cc").read(), flags=re.S)
    doors = re.search(r"kDoorCalls\[\].*?;.*?kZygoteCalls\[\].*?;", open(f"{source}/src/door/zygote.cc").read(), re.S)
    text = re.sub(r"//.*", "", text + doors.group(0))
    text = re.sub(r"#include.*", "", text)
    return set(re.findall(r'"([a-z0-9_]+)"', text))


def main():
    if shutil.which("systemd-analyze") is None:
        print("skipped: there is no systemd-analyze, which knows the groups of system calls")
        return 77
    allowed = set()
    for word in values("SystemCallFilter"):
        allowed |= calls_of(word) if word.startswith("@") else {word}
    # Newer than this systemd; the C library goes on without them.
    missing = own_calls() - allowed
    assert not missing, f"SystemCallFilter= does not allow {sorted(missing)}"
    assert len(own_calls()) > 100, "the lists were not found"
    kept = {"CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF", "CAP_PERFMON"}
    assert kept | {"CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_CHOWN"} == set(values("CapabilityBoundingSet"))
    assert values("NoNewPrivileges") == ["yes"]
    return 0


sys.exit(main())
