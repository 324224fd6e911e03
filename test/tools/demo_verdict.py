#!/usr/bin/env python3
"""Reads what `./dev demo --json` printed: {"checks": [{"name": ..., "held": true, ...}, ...]}. Exit 1 unless all held."""
import json, sys

try:
    checks = json.load(sys.stdin)["checks"]
except (ValueError, KeyError, TypeError) as wrong:
    sys.exit(f"demo --json did not print what it should: {wrong!r}")
held = [check.get("held", check.get("ok")) is True for check in checks]
for check, ok in zip(checks, held):
    print("held  " if ok else "BROKEN", check.get("name", check))
sys.exit(0 if held and all(held) else 1)
