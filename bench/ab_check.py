#!/usr/bin/env python3
"""Runs `zen5turbo ab` again and again on arms of which the truth is known; scripts/ab-check.sh calls it.

`itself` is stock, `slower` is stock with a library that makes every graph take a known share longer. One line of the record
for each run and arm. `ab_check.py --summary RECORD` counts a record again.
"""

import argparse
import csv
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from peers import recording

ITSELF, SLOWER = "itself", "slower"
FIELDS = ["date", "cpu", "kernel", "program", "kernels", "model", "test", "threads", "run", "arm", "expected", "pairs",
          "ratio", "low", "high", "difference", "result"]  # fmt: skip


def main():
    if sys.argv[1:2] == ["--summary"]:
        return summarise(sys.argv[2])
    options = arguments()
    with tempfile.TemporaryDirectory() as folder, recording(options, "ab-check", FIELDS, program=options.version) as (record, add):
        folder = pathlib.Path(folder)
        library, result = folder / "slower.so", folder / "result.json"
        source = pathlib.Path(__file__).with_name("slower.c")
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
        expected = {ITSELF: 1.0, SLOWER: 1 / (1 + options.percent / 100)}
        slow = f"{SLOWER}:shim=off,repack=0,LD_PRELOAD={library},SLOWER_PERCENT={options.percent}"
        command = [options.command, "ab", "--bin", options.bin, "-m", options.model, "-p", options.pp, "-n", options.tg, "-t", "1", "--no-load",
                   "--max-pairs", options.max_pairs, "--arms-only", "--arm", f"{ITSELF}:shim=off,repack=0", "--arm", slow,
                   "--json", result]  # fmt: skip
        for run in range(1, options.runs + 1):
            result.unlink(missing_ok=True)
            done = subprocess.run(list(map(os.fspath, command)), capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"error: zen5turbo ab ended with status {done.returncode}: {done.stderr[-500:]}")
            for row in json.loads(result.read_text())["summary"]:
                for arm, ratio in row["ratios"].items() if row["unit"] == "tokens/s" else ():
                    bounds = ratio["interval"] or {"low": "", "high": ""}
                    add({"model": options.model.name, "test": row["test"], "threads": row["threads"], "run": run, "arm": arm,
                         "expected": f"{expected[arm]:.4f}", "pairs": row["pairs"], "ratio": f"{ratio['median']:.4f}",
                         "low": bounds["low"], "high": bounds["high"], "difference": int(ratio["difference"]),
                         "result": ratio["result"]})  # fmt: skip
                    print(f"run {run}: {arm}, {row['pairs']} pairs, ratio {ratio['median']:.4f}: {ratio['result']}", flush=True)
    summarise(record)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("command", "bin", "model", "out"):
        parser.add_argument(f"--{name}", required=True, type=pathlib.Path)
    parser.add_argument("--version", default="?")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--percent", type=float, default=5)
    parser.add_argument("--max-pairs", default="24")
    parser.add_argument("--pp", default="16")
    parser.add_argument("--tg", default="0")
    options = parser.parse_args()
    options.kernels = None
    return options


def summarise(record):
    """How often a difference was claimed, by arm."""
    found = {}
    with open(record, newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault((row["arm"], row["expected"]), []).append(int(row["difference"]))
    for (arm, expected), claims in found.items():
        print(f"{arm} (speed {float(expected):.3f} of stock's): a difference was claimed in {sum(claims)} of {len(claims)} runs")


if __name__ == "__main__":
    main()
