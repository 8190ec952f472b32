#!/usr/bin/env python3
"""What the shim costs a program that has nothing to do with ggml; scripts/idle.sh calls it.

Three variants take turns in an order that rotates: without the shim, with it, and without it again, which
shows what the machine makes of no difference at all. `idle.py --summary RECORD` prints a record's figures again.
"""

import argparse
import csv
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from statistics import median

from peers import interval, recording

OFF, SHIM, AGAIN = VARIANTS = ("off", "shim", "off again")
FIELDS = ["date", "cpu", "kernel", "program", "kernels", "test", "bytes", "variant", "round", "position", "value", "unit"]
CALLS, STARTS, PROGRAMS = "call", "start", "program"


def main():
    if sys.argv[1:2] == ["--summary"]:
        return summarise(sys.argv[2])
    options = arguments()
    with tempfile.TemporaryDirectory() as folder, recording(options, "idle", FIELDS, program=options.version) as (record, add):
        folder = pathlib.Path(folder)
        calls = folder / "calls"
        source = pathlib.Path(__file__).with_name("idle_calls.c")
        subprocess.run(["cc", "-O2", "-fno-builtin", "-o", calls, source, "-lpthread"], check=True)
        in_turn(options, options.rounds, lambda env: call_costs(calls, env), add)
        for name, command, rounds in workloads(folder, options.rounds):
            in_turn(options, rounds, lambda env, n=name, c=command: [(n, "", elapsed(c, env), "ns")], add)
    summarise(record)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lib", required=True, type=pathlib.Path)
    parser.add_argument("--version", default="?")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    options = parser.parse_args()
    options.kernels = None
    if not options.lib.exists() or options.rounds < 6:
        parser.error(f"{options.lib} must be there, and --rounds at least 6")
    return options


def workloads(folder, rounds):
    """Names, commands and how often: starts are short, and need more turns."""
    text = folder / "text"
    text.write_text("".join(f"{n * n % 99991} {n}\n" for n in range(400_000)))
    source = folder / "program.c"
    functions = (f"double f{n}(double *a, int n) {{ double s = {n}; for (int i = 0; i < n; i++) s += a[i] * {n}; return s; }}\n" for n in range(250))
    source.write_text("".join(functions))
    yield f"{STARTS}: true", ["true"], 15 * rounds
    yield f"{STARTS}: sh -c :", ["sh", "-c", ":"], 15 * rounds
    yield f"{PROGRAMS}: start of Python", ["python3", "-c", "pass"], 3 * rounds
    yield f"{PROGRAMS}: compile with gcc -O2 -c", ["gcc", "-O2", "-c", "-o", folder / "program.o", source], rounds
    yield f"{PROGRAMS}: gzip -6", ["gzip", "-6kfc", text], rounds


def in_turn(options, rounds, measure, add):
    """Every variant once in each round; `measure` returns rows of test, bytes, value and unit."""
    plain = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD" and not k.startswith("ZEN5TURBO")}
    loaded = plain | {"LD_PRELOAD": str(options.lib.resolve())}
    for turn in range(rounds):
        shift = turn % len(VARIANTS)
        for position, variant in enumerate(VARIANTS[shift:] + VARIANTS[:shift], 1):
            for test, size, value, unit in measure(loaded if variant == SHIM else plain):
                add({"test": test, "bytes": size, "variant": variant, "round": turn + 1, "position": position,
                     "value": f"{value:.3f}", "unit": unit})  # fmt: skip


def call_costs(program, environment):
    done = subprocess.run([program], env=environment, capture_output=True, text=True, check=True)
    return [(f"{CALLS}: {name}", size, float(ns), "ns") for name, size, ns in csv.reader(done.stdout.splitlines())]


def elapsed(command, environment):
    """Nanoseconds from the start of a process to its end."""
    null = os.open(os.devnull, os.O_RDWR)
    silent = [(os.POSIX_SPAWN_DUP2, null, 1)]
    command = [os.fspath(word) for word in command]
    start = time.perf_counter_ns()
    process = os.posix_spawnp(command[0], command, environment, file_actions=silent)
    status = os.waitpid(process, 0)[1]
    end = time.perf_counter_ns()
    os.close(null)
    if status:
        sys.exit(f"error: {command[0]} ended with status {os.waitstatus_to_exitcode(status)}")
    return end - start


def summarise(record):
    """Prints medians, and the medians of the differences within a round, each with its 95 % interval."""
    groups = {}
    with open(record, newline="") as file:
        for row in csv.DictReader(file):
            groups.setdefault((row["test"], row["bytes"]), {}).setdefault(row["variant"], {})[row["round"]] = float(row["value"])
    print(f"\n{'':<36}{'bytes':>6}{'off':>10}{'shim':>10}  shim - off, and off again - off: median [95 % interval]")
    for (test, size), found in groups.items():
        scale, unit = scale_of(test)
        off, shim = (median(found[v].values()) / scale for v in (OFF, SHIM))
        print(f"{test:<36}{size:>6}{off:>10.2f}{shim:>10.2f}  {difference(found, SHIM, scale)}, {difference(found, AGAIN, scale)} {unit}"
              f"{verdict(found) if test.startswith(PROGRAMS) else ''}")  # fmt: skip


def scale_of(test):
    return next(s for what, s in ((CALLS, (1, "ns")), (STARTS, (1e3, "us")), (PROGRAMS, (1e6, "ms"))) if test.startswith(what))


def difference(found, variant, scale):
    values = [(found[variant][i] - found[OFF][i]) / scale for i in found[OFF]]
    low, high = interval(values)
    return f"{median(values):+.2f} [{low:+.2f}, {high:+.2f}]"


def verdict(found):
    """Whether the ratio of shim and off holds 1, or nothing that the program does not show against itself."""
    bounds = {}
    for variant in (SHIM, AGAIN):
        bounds[variant] = interval([found[variant][i] / found[OFF][i] for i in found[OFF]])
    (low, high), (least, most) = bounds[SHIM], bounds[AGAIN]
    same = low <= max(1, most) and high >= min(1, least)
    return f"; ratio [{low:.3f}, {high:.3f}], A/A [{least:.3f}, {most:.3f}]: {'no difference to see' if same else 'SLOWER' if low > 1 else 'faster'}"


if __name__ == "__main__":
    main()
