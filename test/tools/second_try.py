#!/usr/bin/env python3
"""second_try.py DIR MOST: which ctest tests of the run in DIR failed, as a regular expression for ctest -R.

A test that fails in company may be a victim of the machine: it gets one more try, alone. What it said the first time is
kept in DIR/first_try, and summary.py names it as unstable whatever comes of the second. Prints nothing when none failed,
or more than MOST: that is no accident.
"""
import os, re, sys

from summary import ctest_results, program_names


def main():
    directory, most = sys.argv[1], int(sys.argv[2])
    failed = sorted(name for name, (status, _) in ctest_results(directory).items() if status == "fail")
    if not 0 < len(failed) <= most:
        return
    programs, kept = program_names(directory), os.path.join(directory, "first_try")
    os.makedirs(kept, exist_ok=True)
    for name in failed:
        report = programs.get(name, "") + ".xml"
        if os.path.exists(os.path.join(directory, "gtest", report)):
            os.rename(os.path.join(directory, "gtest", report), os.path.join(kept, report))
    print("^(" + "|".join(map(re.escape, failed)) + ")$")


if __name__ == "__main__":
    main()
