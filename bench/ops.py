#!/usr/bin/env python3
"""Operations that are no products: the library's time over ggml's, of bench/ops.c.

    bench/ops.py LLAMA_CPP LIBRARY [--threads 1,2] [--rounds 3] [--only TEXT]

LLAMA_CPP is a folder with `src` and `bin`. Processes with and without the library take turns. Each value is the median of
the rounds; a row has the tokens, the threads, ggml's and the library's microseconds, and how many times as fast it is.
"""
import argparse
import os
import pathlib
import statistics
import subprocess
import tempfile

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("llama", type=pathlib.Path)
parser.add_argument("library", type=pathlib.Path)
parser.add_argument("--threads", default="1,2")
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--only", default="")
args = parser.parse_args()

with tempfile.TemporaryDirectory() as folder:
    program = os.path.join(folder, "ops")
    source, libraries = pathlib.Path(__file__).with_suffix(".c"), args.llama.resolve() / "bin"
    include = args.llama.resolve() / "src/ggml/include"
    subprocess.run(["cc", "-O2", "-o", program, source, f"-I{include}", f"-L{libraries}", f"-Wl,-rpath,{libraries}",
                    "-lggml-cpu", "-lggml-base", "-lggml"], check=True)
    times = {}
    for _ in range(args.rounds):
        for threads in args.threads.split(","):
            for ours in (False, True):
                env = dict(os.environ, OMP_WAIT_POLICY="active")
                if ours:
                    env |= {"LD_PRELOAD": str(args.library.resolve()), "ZEN5TURBO_GATE": "off"}
                out = subprocess.run([program, threads, args.only], env=env, check=True, capture_output=True, text=True)
                for line in out.stdout.splitlines():
                    name, tokens, threads_, ns = line.split("|")
                    times.setdefault((name, int(tokens), int(threads_)), ([], []))[ours].append(float(ns))
print("| operation | tokens | threads | ggml us | zen5turbo us | times as fast |\n|---|---|---|---|---|---|")
for (name, tokens, threads), both in times.items():
    ggml, ours = (statistics.median(values) / 1000 for values in both)
    print(f"| {name} | {tokens} | {threads} | {ggml:.2f} | {ours:.2f} | {ggml / ours:.2f} |")
