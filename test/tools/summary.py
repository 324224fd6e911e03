#!/usr/bin/env python3
"""Reads what ctest and GoogleTest reported, prints what failed and what was skipped and why, then one plain line.

  summary.py DIR --also-failed N --second-tries MOST RECORD     one run; writes DIR/summary.json
  summary.py DIR... --totals OK BAD                             the runs' summaries together, and OK + BAD other stages

Tests are counted one by one: each TEST() of a GoogleTest program, and each other ctest test as one. A program that
ctest calls failed though its own report shows no failure (it crashed, ran out of time, or leaked) is one failure more.
"""
import argparse, json, os, sys, xml.etree.ElementTree as xml


def ctest_results(directory):
    """name -> (status, its output), from ctest's JUnit files; the second try, where there was one, is what counts."""
    results = {}
    for name in ("parallel.xml", "serial.xml", "second.xml"):
        path = os.path.join(directory, name)
        if os.path.exists(path):
            for case in xml.parse(path).getroot().iter("testcase"):
                results[case.get("name")] = (case.get("status"), case.findtext("system-out") or "")
    return results


def skip_reason(output):
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    said = [line for line in lines if "skip" in line.lower()]
    return (said or lines or ["it does not say why"])[-1]


def gtest_cases(path):
    """(name, 'passed' | 'failed' | 'skipped', reason) for every test that ran."""
    for case in xml.parse(path).getroot().iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}"
        if case.get("status") == "notrun":
            continue  # DISABLED_
        skipped, failure = case.find("skipped"), case.find("failure")
        if failure is not None:
            yield name, "failed", ""
        elif skipped is not None:
            text = (skipped.get("message") or skipped.text or "").strip().splitlines()
            reason = " ".join(line for line in text if not (":" in line and line.rsplit(":", 1)[1].isdigit()))
            yield name, "skipped", reason or "it does not say why"
        else:
            yield name, "passed", ""


def program_names(directory):
    """ctest's name of a test -> the file name of its program."""
    tests = json.load(open(os.path.join(directory, "tests.json")))["tests"]
    return {test["name"]: os.path.basename((test.get("command") or [""])[0]) for test in tests}


def unstable(directory):
    """What failed at first and was tried again, alone."""
    kept = os.path.join(directory, "first_try")
    for report in sorted(os.listdir(kept)) if os.path.isdir(kept) else []:
        try:
            yield from (f"{report[:-4]}: {name}" for name, status, _ in gtest_cases(os.path.join(kept, report)) if status == "failed")
        except xml.ParseError:
            yield f"{report[:-4]}: died"


def tried_again(directory):
    """The names of the ctest tests that got a second try in this run."""
    path = os.path.join(directory, "second.xml")
    return [case.get("name") for case in xml.parse(path).getroot().iter("testcase")] if os.path.exists(path) else []


def more_than_once(directory, record):
    """Those of them that had needed one before; they are forgotten, so that it is said once."""
    lines = open(record).read().split("\n") if os.path.exists(record) else []
    repeated = sorted(name for name in tried_again(directory) if lines.count(name) > 1)
    if repeated:
        with open(record, "w") as file:
            file.writelines(line + "\n" for line in lines if line and line not in repeated)
    return repeated


def one_run(directory):
    program_of = program_names(directory)
    counts, failed, skipped, reports = {"passed": 0, "failed": 0, "skipped": 0}, [], [], {}
    gtest_dir = os.path.join(directory, "gtest")
    for report in sorted(os.listdir(gtest_dir)):
        program = report[: -len(".xml")]
        try:
            cases = list(gtest_cases(os.path.join(gtest_dir, report)))
        except xml.ParseError:
            continue  # died while writing: ctest has it as failed
        reports[program] = cases
        for name, status, reason in cases:
            counts[status] += 1
            if status == "failed":
                failed.append(f"{program}: {name}")
            elif status == "skipped":
                skipped.append(f"{program}: {name}: {reason}")
    for name, (status, output) in ctest_results(directory).items():
        cases = reports.get(program_of.get(name, ""))
        if status == "fail":
            if not cases or not any(case[1] == "failed" for case in cases):
                counts["failed"] += 1
                failed.append(f"{name}: the program failed: see its output above")
        elif status in ("notrun", "disabled"):
            counts["skipped"] += 1
            skipped.append(f"{name}: {skip_reason(output)}")
        elif cases is None:
            counts["passed"] += 1
    return counts, failed, skipped


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("directories", nargs="+")
    parser.add_argument("--also-failed", type=int, default=0)
    parser.add_argument("--second-tries", nargs=2, metavar=("MOST", "RECORD"), default=("0", ""))
    parser.add_argument("--totals", nargs=2, type=int)
    options = parser.parse_args()
    if options.totals:
        passed, bad, skipped = options.totals[0], options.totals[1], 0
        for directory in options.directories:
            try:
                run = json.load(open(os.path.join(directory, "summary.json")))
            except OSError:
                run = {"passed": 0, "failed": 1, "skipped": 0}  # it never got so far as to run its tests
            passed, bad, skipped = passed + run["passed"], bad + run["failed"], skipped + run["skipped"]
    else:
        counts, failed, skips = one_run(options.directories[0])
        if sum(counts.values()) == 0:
            failed.append("no test ran")
            counts["failed"] += 1
        if options.also_failed:
            failed.append("something was left behind: see above")
            counts["failed"] += 1
        most, record = options.second_tries
        for name in more_than_once(options.directories[0], record):
            failed.append(f"{name}: it needed a second try before, too: mend it")
            counts["failed"] += 1
        print(f"second tries: {len(tried_again(options.directories[0]))} of at most {most}")
        shaky = list(unstable(options.directories[0]))
        for title, lines in (("skipped", skips), ("UNSTABLE, failed once and was tried again alone", shaky), ("failed", failed)):
            print(f"{title}:" if lines else f"{title}: none")
            for line in lines:
                print(" ", line)
        json.dump(counts, open(os.path.join(options.directories[0], "summary.json"), "w"))
        passed, bad, skipped = counts["passed"], counts["failed"], counts["skipped"]
    print(f"{passed} passed, {bad} failed, {skipped} skipped", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
