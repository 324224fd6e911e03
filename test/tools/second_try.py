#!/usr/bin/env python3
"""second_try.py DIR MOST RECORD: which ctest tests of the run in DIR failed, as a regular expression for ctest -R.

A test that fails in company may be a victim of the machine: it gets one more try, alone. What it said the first time is
kept in DIR/first_try, and summary.py names it as unstable whatever comes of the second. Prints nothing when none failed,
or more than MOST: that is no accident. Each name is also added to RECORD, a line each; summary.py fails one that is
there already, of an earlier run or of another preset: a test that needs a second try twice is one to mend.
"""
import os, re, sys

from summary import ctest_results, program_names


def main():
    directory, most, record = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    failed = sorted(name for name, (status, _) in ctest_results(directory).items() if status == "fail")
    if not 0 < len(failed) <= most:
        return
    programs, kept = program_names(directory), os.path.join(directory, "first_try")
    os.makedirs(kept, exist_ok=True)
    for name in failed:
        report = programs.get(name, "") + ".xml"
        if os.path.exists(os.path.join(directory, "gtest", report)):
            os.rename(os.path.join(directory, "gtest", report), os.path.join(kept, report))
    with open(record, "a") as file:
        file.writelines(name + "\n" for name in failed)
    print("^(" + "|".join(map(re.escape, failed)) + ")$")


if __name__ == "__main__":
    main()
