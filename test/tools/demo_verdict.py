#!/usr/bin/env python3
"""Reads what `./dev demo --json` printed: {"promises": [{"name": ..., "held": true, "figures": {...}}, ...]}. Exit 1 unless all held."""
import json, sys

try:
    promises = json.load(sys.stdin)["promises"]
except (ValueError, KeyError, TypeError) as wrong:
    sys.exit(f"demo --json did not print what it should: {wrong!r}")
held = [promise.get("held") is True for promise in promises]
for promise, ok in zip(promises, held):
    print("held  " if ok else "BROKEN", promise.get("name", promise))
sys.exit(0 if held and all(held) else 1)
