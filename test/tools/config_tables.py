#!/usr/bin/env python3
"""Writes the tables of keys into docs/config.md: sluicectl config-keys | test/tools/config_tables.py docs/config.md"""
import re, sys

path = sys.argv[1]
blocks = dict(re.findall(r"^<!-- keys: (.+?) -->\n(.*?)^<!-- end -->$", sys.stdin.read(), re.M | re.S))
page = open(path).read()
for title, rows in blocks.items():
    where = rf"(^<!-- keys: {re.escape(title)} -->\n).*?(^<!-- end -->$)"
    page, found = re.subn(where, lambda m: m[1] + rows + m[2], page, flags=re.M | re.S)
    if found != 1:
        sys.exit(f"{path}: {found} places for the table `{title}`")
open(path, "w").write(page)
