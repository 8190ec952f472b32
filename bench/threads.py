"""Tokens/s of llama-server by the threads that it is started with and the CPUs that it may use, without and with the shim.

    bench/threads.py [--busy] [--rounds N] [--out NAME]

Needs root for CPU quotas (cgroup, version 1 or 2), and `scripts/setup.sh llama containers`. Writes bench/records/NAME.csv and prints a
table. An answer that does not come within its limit counts as 0, and stock is not asked with more threads then. Nothing else
should run on the machine.
"""

import argparse
import csv
import json
import os
import pathlib
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILDS = {"no OpenMP": ROOT / ".deps/llama.cpp-ollama/bin", "OpenMP": ROOT / ".deps/llama.cpp/bin"}
MODEL = ROOT / ".deps/models/gemma-3-270m-q4_k_m.gguf"
SHIM = {"LD_PRELOAD": str(ROOT / "target/release/libzen5turbo.so"), "ZEN5TURBO_GATE": "off", "ZEN5TURBO_TUNE": "off"}
THREADS = (1, 2, 4, 8, 32)
# Name, CPUs allowed, CPUs of the quota.
BUDGETS = (("2 CPUs", "0,1", None), ("1 CPU", "1", None), ("quota 0.5", None, 0.5), ("quota 1", None, 1), ("quota 1.5", None, 1.5))
LIMIT = 8  # seconds for one answer
TOKENS = 32


class Group:
    """A control group with a CPU quota."""

    def __init__(self, cpus):
        self.version1 = pathlib.Path("/sys/fs/cgroup/cpu")
        parent = self.version1 if self.version1.is_dir() else pathlib.Path("/sys/fs/cgroup")
        self.folder = parent / f"zen5turbo-bench-{os.getpid()}"
        self.folder.mkdir(exist_ok=True)
        quota = int(cpus * 100_000)
        if self.version1.is_dir():
            (self.folder / "cpu.cfs_period_us").write_text("100000")
            (self.folder / "cpu.cfs_quota_us").write_text(str(quota))
        else:
            (self.folder / "cpu.max").write_text(f"{quota} 100000")

    def enter(self):
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def close(self):
        for _ in range(50):
            try:
                return self.folder.rmdir()
            except OSError:
                time.sleep(0.1)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def ask(port, path, body=None, limit=5):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=limit) as reply:
        return json.load(reply)


def measure(build, shim, threads, cpus, quota):
    """Tokens/s of one answer, after one to warm up where that takes no time."""
    group = Group(quota) if quota else None
    port = free_port()
    command = [build / "llama-server", "-m", MODEL, "--host", "127.0.0.1", "--port", str(port), "-c", "1024", "-np", "1", "--no-warmup"]
    command += ["-t", str(threads)]
    if cpus:
        command = ["taskset", "-c", cpus, *command]
    environment = os.environ | {"LD_LIBRARY_PATH": str(build)} | (SHIM if shim else {})
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command, env=environment, preexec_fn=group.enter if group else None, **quiet)
    try:
        for _ in range(600):
            try:
                ask(port, "/health")
                break
            except OSError:
                time.sleep(0.05)
        body = {"prompt": "One two three", "n_predict": TOKENS, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
        rate = 0.0
        for _ in range(2):
            before = time.time()
            try:
                rate = ask(port, "/completion", body, LIMIT)["timings"]["predicted_per_second"]
            except OSError:
                return 0.0
            if time.time() - before > LIMIT / 2:
                break
        return rate
    finally:
        server.send_signal(signal.SIGKILL)
        server.wait()
        if group:
            group.close()


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--busy", action="store_true", help="an endless loop for each CPU runs beside")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--out", default="threads")
    options = options.parse_args()
    loops = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(os.cpu_count() if options.busy else 0)]
    rows = []
    try:
        budgets = BUDGETS[:1] if options.busy else BUDGETS
        for name, build in BUILDS.items():
            for budget, cpus, quota in budgets:
                for round_ in range(options.rounds):
                    for threads in THREADS:
                        for arm in ("stock", "shim"):
                            if arm == "stock" and round_ > 0:
                                continue
                            given_up = arm == "stock" and any(row[:2] == (name, budget) and row[3] == arm and row[5] == 0 for row in rows)
                            rate = 0.0 if given_up else measure(build, arm == "shim", threads, cpus, quota)
                            rows.append((name, budget, threads, arm, round_, round(rate, 2)))
                            print(*rows[-1], sep="\t", file=sys.stderr, flush=True)
    finally:
        for loop in loops:
            loop.kill()
    with open(ROOT / f"bench/records/{options.out}.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("build", "budget", "threads", "arm", "round", "tokens_per_second"))
        writer.writerows(rows)
    table(rows)


def table(rows):
    print("| build, budget | " + " | ".join(f"{threads} threads" for threads in THREADS) + " | worst shim / best shim |")
    print("|---" * (len(THREADS) + 2) + "|")
    for build, budget in dict.fromkeys((row[0], row[1]) for row in rows):
        def median(threads, arm):
            return statistics.median(row[5] for row in rows if row[:4] == (build, budget, threads, arm))
        shim = [median(threads, "shim") for threads in THREADS]
        cells = [f"{median(threads, 'stock'):.1f} / {ours:.1f}" for threads, ours in zip(THREADS, shim)]
        print(f"| {build}, {budget} | " + " | ".join(cells) + f" | {min(shim) / max(shim):.2f} |")


if __name__ == "__main__":
    main()
