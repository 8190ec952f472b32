#!/usr/bin/env python3
"""Token generation and the memory under it; scripts/decode.sh calls it.

Four variants take turns: stock with --repack 0 and 1, the shim with the weights left in the file mapping,
and the shim with weights on huge pages. Each process generates several times; the first time is kept apart,
because weights are moved during it. Before each process the model is dropped from the page cache, so that each
variant reads the pages that it has loaded itself, as it would where nothing else runs. In every round the
machine's streaming rate is measured beside them, so that each figure has its share of what the memory gives.
`decode.py --summary RECORD` prints a record's figures again.
"""

import argparse
import csv
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from statistics import median

from peers import Failed, answer, interval, recording

VARIANTS = {
    "stock repack 0": (["--repack", "0"], None),
    "stock repack 1": (["--repack", "1"], None),
    "shim, file pages": ([], {"ZEN5TURBO_HUGEPAGES": "off"}),
    "shim": ([], {}),
}
STOCK = ("stock repack 0", "stock repack 1")
FILE, SHIM = "shim, file pages", "shim"
FIELDS = [
    "date", "cpu", "kernel", "program", "kernels", "model", "threads", "variant", "round", "position",
    "repetition", "value", "unit",
]  # fmt: skip


def main():
    if sys.argv[1:2] == ["--summary"]:
        return summarise(sys.argv[2])
    options = arguments()
    program = f"llama.cpp {options.llama_version}, zen5turbo {options.shim_version}"
    with recording(options, "decode", FIELDS, program=program) as (record, add):
        for model in options.models:
            for threads in options.threads:
                for turn in range(1, options.pairs + 1):
                    measure(options, model, threads, turn, lambda **row: add(row))
    summarise(record)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=pathlib.Path)
    parser.add_argument("--bin", required=True, type=pathlib.Path)
    parser.add_argument("--lib", required=True, type=pathlib.Path)
    parser.add_argument("--streams", required=True, type=pathlib.Path)
    parser.add_argument("--llama-version", default="?")
    parser.add_argument("--shim-version", default="?")
    parser.add_argument("--kernels")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--repetitions", type=int, default=4)
    parser.add_argument("--threads", default="1,2", type=lambda s: [int(n) for n in s.split(",")])
    parser.add_argument("--tg", type=int, default=64)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    options = parser.parse_args()
    for path in (options.lib, options.streams, options.bin / "llama-bench", *options.models):
        if not path.exists():
            parser.error(f"there is no {path}")
    if options.pairs < 1 or options.repetitions < 2 or min(options.threads) < 1 or options.tg < 1:
        parser.error("--pairs, --threads and --tg must be at least 1, --repetitions at least 2")
    return options


def measure(options, model, threads, turn, add):
    """One round: the streaming rates, then every variant, in an order that rotates."""
    for pages, rate in streams(options, threads):
        add(model=model.name, threads=threads, variant=f"stream {pages}", round=turn, value=f"{rate:.0f}", unit="bytes/s")
    names = list(VARIANTS)
    shift = turn % len(names)
    for position, variant in enumerate(names[shift:] + names[:shift], 1):
        drop_cached(model)
        try:
            samples, bytes_per_token = generate(options, variant, model, threads)
        except Failed as reason:
            sys.exit(f"error: {variant}, {model.name}: {reason}")
        at = {"model": model.name, "threads": threads, "variant": variant, "round": turn, "position": position}
        for repetition, value in enumerate(samples, 1):
            add(**at, repetition=repetition, value=f"{value:.3f}", unit="tokens/s")
        if bytes_per_token:
            add(**at, value=f"{bytes_per_token:.0f}", unit="bytes/token")
        later = ", ".join(f"{value:.1f}" for value in samples)
        print(f"{model.name}, {threads} thread(s), round {turn}/{options.pairs}, {variant}: {later}", flush=True)


def drop_cached(model):
    with model.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def streams(options, threads):
    done = subprocess.run([str(options.streams), "--threads", str(threads)], capture_output=True, text=True, check=True)
    return [(row["pages"], float(row["bytes_per_s"])) for row in csv.DictReader(io.StringIO(done.stdout))]


def generate(options, variant, model, threads):
    """Tokens per second of each repetition; with the shim also the weight bytes that a token reads."""
    arguments, knobs = VARIANTS[variant]
    command = [str(options.bin / "llama-bench"), "-m", str(model), "-t", str(threads), "-p", "0", "-n", str(options.tg)]
    command += ["-r", str(options.repetitions), "-o", "json", *arguments]
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD" and not k.startswith("ZEN5TURBO")}
    if knobs is None:
        return answer(command, environment)[0]["samples_ts"], None
    environment |= {k: v for k, v in os.environ.items() if k.startswith("ZEN5TURBO_")} | knobs
    if options.kernels:
        environment["ZEN5TURBO_KERNELS"] = options.kernels
    with tempfile.TemporaryDirectory() as folder:
        stats = pathlib.Path(folder, "stats.json")
        environment |= {"LD_PRELOAD": str(options.lib.resolve()), "ZEN5TURBO_STATS": str(stats)}
        samples = answer(command, environment)[0]["samples_ts"]
        if not stats.exists():
            raise Failed("the shim wrote no statistics: it did not engage (`zen5turbo doctor` tells why)")
        found = json.loads(stats.read_text())
    read = sum(kind.get("bytes", 0) for kinds in found["ops"].values() for kind in kinds.values())
    if not read:
        raise Failed("the shim took nothing over: its figures would be stock's")
    weights = found["memory"]["weights"]
    if variant == SHIM and not weights["cached"] and not any(weights["copied"].values()):
        raise Failed(f"no weights lie on huge pages: {found['events']}")
    tokens = options.repetitions * options.tg + 1  # llama-bench warms up with one
    return samples, read / tokens


def summarise(record):
    """Prints the medians of the later repetitions, their ratios by round, and the share of the streaming rate."""
    groups = {}
    with open(record, newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        groups.setdefault((row["model"], row["threads"]), []).append(row)
    for (model, threads), found in groups.items():
        print(f"\n{model}, {threads} thread(s): medians (smallest..largest) of rounds")
        stream = {}
        for pages in ("small", "huge", "file"):
            rates = [float(r["value"]) / 1e9 for r in found if r["variant"] == f"stream {pages}"]
            stream[pages] = median(rates)
            print(f"  stream {pages:<12}{median(rates):8.1f}  ({min(rates):.1f}..{max(rates):.1f}) GB/s")
        size = median([float(r["value"]) for r in found if r["unit"] == "bytes/token"]) / 1e9
        end = max(int(r["repetition"]) for r in found if r.get("repetition"))
        times = {
            when: {variant: by_round(found, variant, wanted) for variant in VARIANTS}
            for when, wanted in (("first", {1}), ("later", set(range(2, end + 1))), ("last", {end}))
        }
        for variant in VARIANTS:
            first, later, last = ([*times[when][variant].values()] for when in times)
            share = median(last) * size / stream["huge" if variant == SHIM else "file"]
            print(
                f"  {variant:<19}{median(later):8.1f}  ({min(later):.1f}..{max(later):.1f}) tokens/s, first time "
                f"{median(first):.1f}, last {median(last):.1f}: {median(last) * size:.1f} GB/s, "
                f"{share:.0%} of streaming such pages"
            )
        best = max(STOCK, key=lambda variant: median(times["later"][variant].values()))
        for over, under in ((SHIM, best), (FILE, best), (SHIM, FILE)):
            texts = []
            for when, values in times.items():
                ratios = [values[over][i] / values[under][i] for i in sorted(values[over])]
                low, high = interval(ratios)
                texts.append(f"{when} {median(ratios):.2f} [{low:.2f}, {high:.2f}]")
            print(f"  {over} / {under}: {', '.join(texts)}")


def by_round(rows, variant, wanted):
    """The median over the wanted repetitions, by round."""
    values = {}
    for row in rows:
        if row["variant"] == variant and row["unit"] == "tokens/s" and int(row["repetition"]) in wanted:
            values.setdefault(row["round"], []).append(float(row["value"]))
    return {turn: median(found) for turn, found in values.items()}


if __name__ == "__main__":
    main()
