#!/usr/bin/env python3
"""Where the time of a model goes beside the library's kernels, by perf.

    bench/outside.py LLAMA_CPP LIBRARY MODEL... [--threads 2] [--rate 2000] [--lines 8] [--stock] [--only TEST] [--more="-fa 0"]

LLAMA_CPP is a folder with `bin`. llama-bench runs three tests on each model: a prompt of 512 tokens, 32 tokens, and 32
tokens with 2048 before them. Loading, warming up, and the tokens before are left out: what llama-bench measures comes
last, and it says how long that took. Samples count as

    ours      the library
    waiting   the library's and libgomp's barriers, the kernel's share of them
    kernel    the rest of the kernel, such as page faults
    outside   everything else: libggml-cpu, libm, libc, libllama

and are shares of all samples but those of waiting. `perf record` needs no counters: it takes the CPU's clock.
"""
import argparse
import collections
import json
import os
import pathlib
import re
import subprocess
import tempfile

TESTS = [("pp512", ["-p", "512", "-n", "0", "-r", "3"]),
         ("tg32", ["-p", "0", "-n", "32", "-r", "6"]),
         ("tg32 @ d2048", ["-p", "0", "-n", "32", "-d", "2048", "-r", "6"])]
WAITING = re.compile(r"zen5turbo::threads|barrier|futex|sched|schedule|switch", re.I)

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("llama", type=pathlib.Path)
parser.add_argument("library", type=pathlib.Path)
parser.add_argument("models", nargs="+", type=pathlib.Path)
parser.add_argument("--threads", default="2")
parser.add_argument("--rate", default="2000", help="samples per second and thread")
parser.add_argument("--lines", type=int, default=8, help="functions to name for each test")
parser.add_argument("--stock", action="store_true", help="without the library")
parser.add_argument("--only", default="", help="only tests with this in their name")
parser.add_argument("--more", default="", help="more options of llama-bench")
args = parser.parse_args()


def kind(library, function):
    if "libgomp" in library or WAITING.search(function) and ("zen5turbo" in library or "kernel" in library):
        return "waiting"
    if "zen5turbo" in library:
        return "ours"
    return "kernel" if "kernel" in library else "outside"


def samples(folder, model, options):
    """The samples of a test by library and function, and its tokens per second."""
    data = os.path.join(folder, "perf.data")
    env = dict(os.environ)
    if not args.stock:
        env |= {"LD_PRELOAD": str(args.library.resolve()), "ZEN5TURBO_GATE": "off"}
    preload = [f"{name}={env.pop(name)}" for name in ("LD_PRELOAD",) if name in env]
    command = ["perf", "record", "-q", "-F", args.rate, "-e", "cpu-clock", "-o", data, "env", *preload,
               args.llama / "bin/llama-bench", "-m", model, "-t", args.threads, "-o", "json", *options, *args.more.split()]
    test, = json.loads(subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout)
    seconds = sum(test["samples_ns"]) / 1e9
    script = ["perf", "script", "-i", data, "-G", "-F", "time,ip,sym,dso"]
    lines = subprocess.run(script, check=True, capture_output=True, text=True).stdout.splitlines()
    found = [re.match(r"\s*([\d.]+):\s+\S+ (.*) \((\S+)\)$", line) for line in lines]
    found = [(float(m[1]), pathlib.Path(m[3]).name, m[2]) for m in found if m]
    # only what runs in a graph: the end of the program is none of the test
    end = max(time for time, library, _ in found if "ggml-cpu" in library or "zen5turbo" in library)
    counts = collections.Counter((lib, function) for time, lib, function in found if end - seconds <= time <= end)
    return counts, test["avg_ts"]


print("| model | test | tokens/s | outside | ours | kernel | waiting | what is outside, in percent |\n|---|---|---|---|---|---|---|---|")
with tempfile.TemporaryDirectory() as folder:
    for model in args.models:
        for name, options in TESTS:
            if args.only not in name:
                continue
            counts, speed = samples(folder, model, options)
            share = collections.Counter()
            for (library, function), n in counts.items():
                share[kind(library, function)] += n
            working = sum(share.values()) - share["waiting"]
            what = [(n, function) for (library, function), n in counts.items() if kind(library, function) == "outside"]
            named = ", ".join(f"{function.removeprefix('ggml_compute_forward_')} {100 * n / working:.1f}"
                              for n, function in sorted(what, reverse=True)[:args.lines])
            cells = [f"{100 * share[k] / working:.1f}" for k in ("outside", "ours", "kernel")]
            cells.append(f"{100 * share['waiting'] / sum(share.values()):.1f}")
            print(f"| {model.name.split('-layers')[0]} | {name} | {speed:.1f} | {' | '.join(cells)} | {named} |", flush=True)
