#!/usr/bin/env python3
"""bench_merge.py PROGRAM... -- ARGUMENT...: runs each bench with --json, prints one {"results": [...]}.

A bench prints either {"results": [...]} itself, or what Google Benchmark prints; every result gets a "bench": its
program's name. A bench that fails is told on stderr, and makes the exit status 1.
"""
import json, os, subprocess, sys


def parse(text):
    try:
        return json.loads(text)
    except ValueError:
        return None


def run(program, arguments):
    """The results of one program, or None."""
    for flag in ("--json", "--benchmark_format=json"):
        done = subprocess.run([program, flag, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        report = parse(done.stdout)
        if done.returncode == 0 and isinstance(report, dict):
            if "benchmarks" in report:
                return [r for r in report["benchmarks"]]
            if "results" in report:
                return report["results"]
        if "unrecognized" not in done.stderr + done.stdout:
            break
    sys.stderr.write(f"{program}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return None


def main():
    split = sys.argv.index("--")
    results, status = [], 0
    for program in sys.argv[1:split]:
        sys.stderr.write(f"== bench {os.path.basename(program)}\n")
        found = run(program, sys.argv[split + 1:])
        if found is None:
            status = 1
            continue
        results += [{"bench": os.path.basename(program), **result} for result in found]
    print(json.dumps({"results": results}, indent=2))
    return status


if __name__ == "__main__":
    sys.exit(main())
