#!/usr/bin/env python3
"""What a test run leaves behind on the machine: namespaces, links, XDP programs, huge pages, files, processes.

  leftovers.py before FILE    notes what is there
  leftovers.py after FILE     says what is there now and was not; waits a little first, for the kernel tears down
                              namespaces and sockets on its own time. Exit 1 when something is left.

A process of the run is known by SLUICE_TEST_RUN in its environment. Something whose name holds the pid of a living
process that is not of the run is somebody else's, and so are BPF programs that such a process holds.
"""
import glob, json, os, re, subprocess, sys, time

RUN = os.environ.get("SLUICE_TEST_RUN", "")
WAIT_SECONDS = 15


def of_run(pid):
    try:
        return f"SLUICE_TEST_RUN={RUN}".encode() in open(f"/proc/{pid}/environ", "rb").read().split(b"\0")
    except OSError:
        return False


def processes():
    """Living processes of the run, this script and what started it apart."""
    ours, pid = set(), os.getpid()
    while pid > 1:
        ours.add(pid)
        pid = int(open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[1])
    found = {}
    for pid in (int(p) for p in os.listdir("/proc") if p.isdigit()):
        if pid not in ours and RUN and of_run(pid):
            try:
                found[f"{pid} {open(f'/proc/{pid}/cmdline').read().replace(chr(0), ' ').strip()[:100]}"] = None
            except OSError:
                pass
    return found


def tool(*command):
    try:
        out = subprocess.run(command, capture_output=True, text=True, timeout=20)
        return json.loads(out.stdout) if out.returncode == 0 and out.stdout.strip() else []
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return []


def strangers(pids):
    return any(os.path.exists(f"/proc/{pid}") and not of_run(pid) for pid in pids)


def snapshot():
    """kind -> {what: is it somebody else's}"""
    links = tool("ip", "-j", "-d", "link", "show")
    programs = [p for p in tool("bpftool", "-j", "prog", "show") if p.get("type") == "xdp"]
    meminfo = dict(re.findall(r"^(\w+):\s+(\d+)", open("/proc/meminfo").read(), re.M))
    in_use = int(meminfo.get("HugePages_Total", 0)) - int(meminfo.get("HugePages_Free", 0))
    by_name = lambda names: {n: strangers(re.findall(r"\d{2,}", n)) for n in names}
    return {
        "network namespace": by_name(os.listdir("/run/netns") if os.path.isdir("/run/netns") else []),
        "link": by_name(l["ifname"] for l in links if l.get("linkinfo", {}).get("info_kind") in
                        ("veth", "tun", "dummy", "bridge")),
        "XDP program on": by_name(l["ifname"] for l in links if "xdp" in l),
        "loaded XDP program": {f"{p['id']} {p.get('name', '')}": strangers(x["pid"] for x in p.get("pids", []))
                               for p in programs},
        "pinned BPF object": by_name(glob.glob("/sys/fs/bpf/*")),
        "file": by_name(glob.glob("/tmp/sluice[-_.]*") + glob.glob("/run/sluice/*") + glob.glob("/dev/shm/sluice*")),
        "huge pages reserved": {meminfo.get("HugePages_Total", "0"): False},
        "huge pages in use": {str(in_use): False} if in_use else {},
        "process": processes(),
    }


def main():
    what, path = sys.argv[1:]
    if what == "before":
        json.dump(snapshot(), open(path, "w"))
        return 0
    before, deadline = json.load(open(path)), time.monotonic() + WAIT_SECONDS
    while True:
        left = [f"{kind} {name}" for kind, names in snapshot().items()
                for name, others in names.items() if name not in before.get(kind, {}) and not others]
        if not left or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    for line in left:
        print("left behind:", line)
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
