#!/usr/bin/env python3
"""Runs stock llama.cpp, the shim and ik_llama.cpp in turn and writes a record; scripts/peers.sh calls it.

Every round runs every variant once, in an order that rotates, so that a drift of the machine's speed
falls on all of them; only values of the same round are divided by each other. The better of stock's
two settings is chosen once, by its median over all rounds: the better of two noisy values in each
round would be above the true one.
"""

import argparse
import contextlib
import csv
import datetime
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import tempfile
from statistics import median

import peers_plot

HERE = pathlib.Path(__file__).resolve().parent
STOCK = ("stock repack 0", "stock repack 1")
SHIM = "shim"
IK = "ik"
IK_REPACK = "ik repack"
FIELDS = [
    "date", "cpu", "kernel", "build", "program", "kernels", "model", "model_type", "test", "threads",
    "variant", "round", "position", "value", "unit",
]  # fmt: skip
TIMEOUT = 3600


class Failed(Exception):
    """A run that brought no figures, with the reason."""


def main():
    options = arguments()
    with recording(options, "peers", FIELDS) as (record, add):
        for model in options.models:
            measure(options, model, add)
    summarise(record)
    peers_plot.plot(record)


@contextlib.contextmanager
def recording(options, what, fields, **more):
    """A new record with these columns: its path, and a function that writes a row. What all rows share (date,
    CPU, kernel, `kernels`, and what `more` adds) is filled in."""
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"warning: the load average is {load:.1f}; other work on this machine makes the figures worthless")
    now = datetime.datetime.now(datetime.timezone.utc)
    cpu = cpu_name()
    record = new_record(options, now, cpu, what)
    print(f"record: {record.name}")
    common = {
        "date": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "cpu": cpu,
        "kernel": "Linux " + re.match(r"[\d.]*", platform.release())[0],  # what follows names who built it
        "kernels": options.kernels or "auto",
        **more,
    }
    with open(record, "w", newline="") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        writer.writeheader()

        def add(row):
            writer.writerow(common | row)
            file.flush()

        yield record, add


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=pathlib.Path)
    parser.add_argument("--bin", required=True, type=pathlib.Path, help="the program under the shim")
    parser.add_argument("--stock-bin", required=True, type=pathlib.Path)
    parser.add_argument("--lib", required=True, type=pathlib.Path)
    parser.add_argument("--ik", required=True, type=pathlib.Path)
    parser.add_argument("--llama-version", default="?", help="for builds that do not know theirs")
    parser.add_argument("--ik-version", default="?")
    parser.add_argument("--shim-version", default="?")
    parser.add_argument("--kernels")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", default="1,2", type=lambda s: [int(n) for n in s.split(",")])
    parser.add_argument("--pp", type=int, default=512)
    parser.add_argument("--tg", type=int, default=64)
    parser.add_argument("--ik-repack", action="store_true")
    parser.add_argument("--out", required=True, type=pathlib.Path)
    options = parser.parse_args()
    needed = [options.lib, options.ik, *options.models]
    needed += [folder / "llama-bench" for folder in (options.bin, options.stock_bin)]
    for path in needed:
        if not path.exists():
            parser.error(f"there is no {path}")
    if options.pairs < 1 or min(options.threads) < 1 or options.pp + options.tg < 1:
        parser.error("--pairs and --threads must be at least 1, and one of --pp and --tg not 0")
    return options


def cpu_name():
    """Brand, family and model: a virtual machine's brand alone often says little."""
    fields = {}
    for line in pathlib.Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines():
        name, _, value = line.partition(":")
        fields[name.strip()] = value.strip()
    return f"{fields.get('model name', '?')} (family {fields.get('cpu family', '?')} model {fields.get('model', '?')})"


def new_record(options, now, cpu, what):
    """A file name that is not taken: date, CPU, what was measured, tier if one was forced, number if not the first."""
    brand = re.sub(r"\((r|tm)\)|\bcpu\b|\bprocessor\b|@.*|\(family.*", " ", cpu.lower())
    words = [now.strftime("%Y-%m-%d"), *re.findall(r"[a-z0-9.]+", brand), what, options.kernels or ""]
    stem = "-".join(word for word in words if word)
    options.out.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        path = options.out / f"{stem}{'' if number == 1 else f'-{number}'}.csv"
        if not path.exists():
            return path
        number += 1


def measure(options, model, add):
    """All rounds of one model; `add` gets a row for every value."""
    ik = (IK, IK_REPACK) if options.ik_repack else (IK,)
    variants = [*STOCK, *ik, SHIM]
    for threads in options.threads:
        for turn in range(options.pairs):
            shift = turn % len(variants)
            for position, variant in enumerate(variants[shift:] + variants[:shift], 1):
                try:
                    entries = run(options, variant, model, threads)
                except Failed as reason:
                    # A peer that cannot run this model is left out; without stock or the shim there is no record.
                    if variant not in ik:
                        sys.exit(f"error: {variant}, {model.name}: {reason}")
                    print(f"{variant} cannot run {model.name} and is left out: {reason}", file=sys.stderr)
                    variants = [v for v in variants if v != variant]
                    continue
                for entry in entries:
                    prompt = entry["n_prompt"] > 0
                    add({
                        "build": build(options, variant),
                        "program": program(options, variant, entry),
                        "model": model.name,
                        "model_type": entry["model_type"],
                        "test": f"pp{entry['n_prompt']}" if prompt else f"tg{entry['n_gen']}",
                        "threads": threads,
                        "variant": variant,
                        "round": turn + 1,
                        "position": position,
                        "value": f"{entry['avg_ts']:.3f}",
                        "unit": "tokens/s",
                    })
                figures = ", ".join(f"{entry['avg_ts']:.1f}" for entry in entries)
                print(f"{model.name}, {threads} thread(s), round {turn + 1}/{options.pairs}, {variant}: {figures}", flush=True)


def run(options, variant, model, threads):
    """One process; its entries as llama-bench prints them."""
    size = ["-m", str(model), "-t", str(threads), "-p", str(options.pp), "-n", str(options.tg)]
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD" and not k.startswith("ZEN5TURBO")}
    if variant in (IK, IK_REPACK):
        repack = ["--repack", "1"] if variant == IK_REPACK else []
        return answer([sys.executable, str(HERE / "ik_bench.py"), "--package", str(options.ik), *size, *repack], environment)
    size += ["-r", "1", "-o", "json"]
    if variant != SHIM:
        return answer([str(options.stock_bin / "llama-bench"), *size, "--repack", variant[-1]], environment)
    environment |= {k: v for k, v in os.environ.items() if k.startswith("ZEN5TURBO_")}
    if options.kernels:
        environment["ZEN5TURBO_KERNELS"] = options.kernels
    with tempfile.TemporaryDirectory() as folder:
        stats = pathlib.Path(folder, "stats.json")
        environment |= {"LD_PRELOAD": str(options.lib.resolve()), "ZEN5TURBO_STATS": str(stats)}
        entries = answer([str(options.bin / "llama-bench"), *size], environment)
        if not stats.exists():
            raise Failed("the shim wrote no statistics: it did not engage (`zen5turbo doctor` tells why)")
        operations = json.loads(stats.read_text()).get("ops", {})
        if not sum(kind.get("taken", 0) for kinds in operations.values() for kind in kinds.values()):
            raise Failed("the shim took nothing over: its figures would be stock's")
    return entries


def answer(command, environment):
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    if done.returncode != 0:
        last = " / ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise Failed(f"exit status {done.returncode}: {last}")
    try:
        return json.loads(done.stdout[done.stdout.index("[") :])
    except ValueError as error:
        raise Failed(f"no figures in its answer ({error})") from error


def build(options, variant):
    """The name of the build: the folder around `bin`, never a path."""
    if variant in (IK, IK_REPACK):
        return "ik_llama.cpp AVX2 wheel"
    folder = options.bin if variant == SHIM else options.stock_bin
    folder = pathlib.Path(os.path.abspath(folder))
    return folder.parent.name if folder.name == "bin" else folder.name


def program(options, variant, entry):
    if variant in (IK, IK_REPACK):
        return f"ik-llama-cpp-python {options.ik_version}"
    number = entry.get("build_number") or 0
    llama = f"llama.cpp b{number} {entry['build_commit']}" if number else f"llama.cpp {options.llama_version}"
    return f"{llama}, zen5turbo {options.shim_version}" if variant == SHIM else llama


def interval(values):
    """Bounds that cover the median with 95 %: order statistics, min..max for up to five values."""
    values = sorted(values)
    n, rank = len(values), 1
    below, term = 0.0, 0.5**n
    for k in range(1, n // 2 + 1):
        below += term  # P(Binomial(n, 1/2) < k)
        term *= (n - k + 1) / k
        if 1 - 2 * below >= 0.95:
            rank = k
    return values[rank - 1], values[n - rank]


def summarise(record):
    """Prints the table: medians, spread, and the shim's ratios."""
    groups = peers_plot.read(record)
    print(f"\n{'model':<24}{'test':<7}{'thr':>3}  medians in tokens/s (smallest..largest);")
    print(f"{'':36}ratios: medians [order statistics for 95 %; smallest, largest below 6 rounds]")
    for (model, test, threads), values in groups.items():
        print(f"{model:<24}{test:<7}{threads:>3}")
        for variant, by_round in values.items():
            found = list(by_round.values())
            print(f"{'':36}{variant:<16}{median(found):8.1f}  ({min(found):.1f}..{max(found):.1f})")
        for name, other in ratios(values):
            low, high = interval(other)
            print(f"{'':36}shim / {name}: {median(other):.3f}  [{low:.3f}, {high:.3f}]")


def ratios(values):
    """The shim against the better of stock and against the better of ik: (name, ratio of each round)."""
    for name, rivals in (("stock", STOCK), ("ik", (IK, IK_REPACK))):
        present = [variant for variant in rivals if variant in values]
        if present and SHIM in values:
            best = max(present, key=lambda variant: median(values[variant].values()))
            shared = values[SHIM].keys() & values[best].keys()
            if shared:
                yield f"better of {name} ({best})", [values[SHIM][i] / values[best][i] for i in sorted(shared)]


if __name__ == "__main__":
    main()
