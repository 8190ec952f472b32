#!/usr/bin/env python3
"""llama-server with drafts and with many clients, without and with the shim: tokens/s, acceptance, time to the first token.

    bench/speculative.py [--modes plain,draft,ngram,clients,draft-clients] [--rounds N] [--prompts N] [--tokens N]
    bench/speculative.py --summary RECORD...

Every round runs both layouts of stock and the shim in each mode, in an order that rotates. Sampling is greedy, prompts are texts
of llama.cpp's source tree. Writes a record with one line for each request, and prints a table. Ends with status 1 if a request
failed, if tokens are missing, or if drafts are accepted less often under the shim than with both layouts of stock. The draft
model is the model itself in another type, made by llama-quantize, unless --draft names one. Nothing else should run on the
machine. `scripts/setup.sh shim llama models` makes what it needs.
"""

import argparse
import contextlib
import csv
import pathlib
import queue
import subprocess
import sys
import tempfile
import threading
import time
from statistics import median, quantiles, stdev

import server
from peers import recording
from server import ARMS, SHIM, STOCK

CLIENTS = 8
DRAFT_TYPE = "Q4_0"
# Clients at a time, and the words that switch drafts on. `DRAFT` stands for the draft model. The n-grams are shorter than
# upstream's 12 and 48, which hardly ever meet in answers of 128 tokens.
MODES = {
    "plain": (1, ()),
    "draft": (1, ("--spec-type", "draft-simple", "-md", "DRAFT")),
    "ngram": (1, ("--spec-type", "ngram-simple", "--spec-ngram-simple-size-n", 3, "--spec-ngram-simple-size-m", 8)),
    "clients": (CLIENTS, ()),
    "draft-clients": (CLIENTS, ("--spec-type", "draft-simple", "-md", "DRAFT")),
}
PROMPT_BYTES = 1500
# Tokens of a context that are left free beside a prompt, which has no more tokens than bytes, and an answer.
SPARE = 16
FIELDS = ["date", "cpu", "kernel", "program", "kernels", "model", "mode", "threads", "arm", "round", "position", "prompt", "prompt_tokens",
          "tokens", "drafted", "accepted", "first_ms", "begin_ms", "end_ms", "fault"]  # fmt: skip
# A share that is lower by more than so many standard errors is lower.
ERRORS = 3


def main():
    options = arguments()
    if options.summary:
        rows = [row for record in options.summary for row in csv.DictReader(record.open())]
    else:
        rows = measure(options)
    table(rows)
    found = faults(rows)
    for fault in found:
        print(f"error: {fault}")
    sys.exit(1 if found else 0)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--summary", nargs="+", type=pathlib.Path, metavar="RECORD", help="only print the table of these records")
    parser.add_argument("--modes", default=",".join(MODES), type=lambda text: text.split(","))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128, help="length of an answer")
    parser.add_argument("--bytes", type=int, default=PROMPT_BYTES, help="length of a prompt")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", type=pathlib.Path, default=server.ROOT / ".deps/models/gemma-3-270m-q4_k_m.gguf")
    parser.add_argument("--draft", type=pathlib.Path, help=f"default: the model as {DRAFT_TYPE}")
    options = server.options(parser)
    unknown = set(options.modes) - set(MODES)
    if unknown:
        parser.error(f"found the modes {', '.join(sorted(unknown))}; expected some of {', '.join(MODES)}")
    if min(options.rounds, options.prompts, options.tokens, options.bytes, options.threads) < 1:
        parser.error("--rounds, --prompts, --tokens, --bytes and --threads must be at least 1")
    needed = [options.model, options.lib, options.bin / "llama-server", *filter(None, [options.draft])]
    for path in [] if options.summary else needed:
        if not path.exists():
            parser.error(f"there is no {path}; scripts/setup.sh shim llama models, and cargo build --release, make the usual files")
    return options


def texts(count, size):
    """The beginnings of so many files, in a fixed order: pages and code in turns."""
    source = server.ROOT / ".deps/llama.cpp/src"
    pages, code = sorted(source.glob("docs/**/*.md")), sorted(source.glob("src/*.cpp"))
    files = [path for pair in zip(pages, code) for path in pair if path.stat().st_size > 2 * size]
    if len(files) < count:
        sys.exit(f"error: --prompts {count}: {source} has {len(files)} files that are long enough")
    return [path.read_text(errors="replace")[:size] for path in files[:count]]


@contextlib.contextmanager
def draft_model(options):
    if options.draft or not any("DRAFT" in MODES[mode][1] for mode in options.modes):
        yield options.draft
        return
    with tempfile.TemporaryDirectory() as folder:
        to = pathlib.Path(folder) / "draft.gguf"
        command = [options.bin / "llama-quantize", "--allow-requantize", "--pure", options.model, to, DRAFT_TYPE]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"error: llama-quantize ended with status {done.returncode}: {done.stderr[-500:]}")
        yield to


def measure(options):
    prompts = texts(options.prompts, options.bytes)
    rows = []
    with draft_model(options) as draft, recording(options, "speculative", FIELDS, program=options.version) as (_, add):
        for turn in range(options.rounds):
            for mode in options.modes:
                shift = turn % len(ARMS)
                for position, arm in enumerate(ARMS[shift:] + ARMS[:shift], 1):
                    place = {"model": options.model.name, "mode": mode, "threads": options.threads, "arm": arm, "round": turn + 1, "position": position}
                    for row in run(options, mode, arm, prompts, draft):
                        add(place | row)
                        rows.append({key: str(value) for key, value in (place | row).items()})
                    print(f"round {turn + 1}, {mode}, {arm}: {rate(rows[-len(prompts):]):.1f} tokens/s", file=sys.stderr, flush=True)
    return rows


def run(options, mode, arm, prompts, draft):
    """All prompts, asked by the clients of a mode: a row for each."""
    clients, words = MODES[mode]
    words = [draft if word == "DRAFT" else word for word in words]
    words += ["-m", options.model, "-t", options.threads, "-np", clients, "-c", clients * (options.bytes + options.tokens + SPARE), "--no-webui"]
    if options.threads != 1 and draft in words:
        words += ["-td", options.threads]
    left = queue.Queue()
    for item in enumerate(prompts):
        left.put(item)
    rows = [{"prompt": number, "tokens": 0, "drafted": 0, "accepted": 0, "fault": "was not asked"} for number in range(len(prompts))]
    try:
        with server.Server(arm, words, options.bin / "llama-server", options.lib) as running:
            # The first tokens of a process are no measurement: pages are read, memory is touched for the first time.
            running.ask("/completion", body(prompts[0], 2))
            start = time.monotonic()

            def client():
                while True:
                    try:
                        number, prompt = left.get_nowait()
                    except queue.Empty:
                        return
                    try:
                        rows[number] = {"prompt": number} | answer(running, body(prompt, options.tokens), start)
                    except (OSError, ValueError, KeyError, server.Failed) as error:
                        rows[number]["fault"] = f"{type(error).__name__}: {error}"[:200]

            threads = [threading.Thread(target=client) for _ in range(clients)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if arm == SHIM and not running.taken("MUL_MAT"):
            raise server.Failed("the shim took no product over")
    except server.Failed as error:
        for row in rows:
            row["fault"] = row["fault"] or str(error)[:200]
    return rows


def body(prompt, tokens):
    return {"prompt": prompt, "n_predict": tokens, "temperature": 0, "ignore_eos": True, "cache_prompt": False, "return_tokens": True}


def answer(running, request, start):
    """One answer, as a client sees it arrive."""
    begin, first, streamed, text = time.monotonic(), None, 0, ""
    last = {}
    for event in running.stream(request):
        if event["stop"]:
            last = event
        elif event["tokens"]:
            first = first or time.monotonic()
            streamed += len(event["tokens"])
            text += event["content"]
    end = time.monotonic()
    if not last or first is None:
        raise server.Failed("the stream ended without a last event, or without a token")
    # The server holds back tokens that end within a character, and sends the text of these with a later token.
    wanted, counted = request["n_predict"], last["tokens_predicted"]
    lost = counted != wanted or streamed > wanted or (streamed < wanted and text.isascii())
    timings = last["timings"]
    return {
        "prompt_tokens": last["tokens_evaluated"], "tokens": counted,
        "drafted": timings.get("draft_n", 0), "accepted": timings.get("draft_n_accepted", 0),
        "first_ms": f"{1000 * (first - begin):.1f}", "begin_ms": f"{1000 * (begin - start):.1f}", "end_ms": f"{1000 * (end - start):.1f}",
        "fault": f"{wanted} tokens asked for, {counted} counted, {streamed} sent" if lost else "",
    }  # fmt: skip


def rate(rows):
    """Tokens of all answers by the time in which they were made, prompts included."""
    ends = [float(row["end_ms"]) for row in rows if row.get("end_ms")]
    return 1000 * sum(int(row["tokens"]) for row in rows) / max(ends) if ends else 0.0


def groups(rows, *keys):
    """Rows by the values of these columns, in the order in which they come."""
    found = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return found


def share(rows):
    """Accepted tokens of all that were drafted, and how many were."""
    drafted = sum(int(row["drafted"]) for row in rows)
    return (sum(int(row["accepted"]) for row in rows) / drafted if drafted else 0.0), drafted


def faults(rows):
    """What must not be."""
    found = [f"{row['mode']}, {row['arm']}, round {row['round']}, prompt {row['prompt']}: {row['fault']}" for row in rows if row["fault"]]
    for (mode,), of_mode in groups(rows, "mode").items():
        arms = {arm: of_arm for (arm,), of_arm in groups(of_mode, "arm").items()}
        lower = [lower_share(arms[SHIM], other) for arm, other in arms.items() if arm != SHIM and SHIM in arms]
        if lower and all(lower):
            found.append(f"{mode}: accepted {share(arms[SHIM])[0]:.3f} of the drafts; {lower[0]}")
    return found


def lower_share(ours, theirs):
    """Whether drafts are accepted less often: a text that says so, or an empty one. Rounds repeat the same answers, so the
    standard error is that of the prompts, and at least that of as many throws of a coin."""
    (mine, drafted), (other, drafted_other) = share(ours), share(theirs)
    rounds = len({row["round"] for row in ours})
    if not drafted or not drafted_other:
        # A count has its square root as standard error: of one draft or two nothing can be told.
        fewer = not drafted and drafted_other > ERRORS * drafted_other**0.5
        return f"{drafted_other} were drafted with stock, and {drafted} here" if fewer else ""
    pooled = (mine * drafted + other * drafted_other) / (drafted + drafted_other)
    error = (pooled * (1 - pooled) * (1 / drafted + 1 / drafted_other) * rounds) ** 0.5
    prompts = [{prompt: share(of)[0] for (prompt,), of in groups(rows, "prompt").items() if share(of)[1]} for rows in (ours, theirs)]
    differences = [prompts[0][prompt] - prompts[1][prompt] for prompt in prompts[0].keys() & prompts[1].keys()]
    if len(differences) > 1:
        error = max(error, stdev(differences) / len(differences) ** 0.5)
    return f"stock {other:.3f}, with a standard error of {error:.3f}" if other - mine > ERRORS * error else ""


def table(rows):
    print("| mode | arm | tokens/s | over the better of stock | accepted | of drafted | first token, ms: median, 90 % |")
    print("|---|---|---|---|---|---|---|")
    for (mode,), of_mode in groups(rows, "mode").items():
        rates = {}
        for (arm, turn), of_run in groups(of_mode, "arm", "round").items():
            rates.setdefault(arm, {})[turn] = rate(of_run)
        stock = max((arm for arm in rates if arm != SHIM), key=lambda arm: median(rates[arm].values()), default=STOCK)
        for arm, by_turn in rates.items():
            of_arm = [row for row in of_mode if row["arm"] == arm]
            ratios = sorted(value / rates[stock][turn] for turn, value in by_turn.items() if rates.get(stock, {}).get(turn))
            ratio = f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})" if arm == SHIM and ratios else ""
            accepted, drafted = share(of_arm)
            first = sorted(float(row["first_ms"]) for row in of_arm if row.get("first_ms"))
            slow = quantiles(first, n=10, method="inclusive")[-1] if len(first) > 1 else (first or [0])[-1]
            values = by_turn.values()
            print(f"| {mode} | {arm} | {median(values):.1f} ({min(values):.1f} to {max(values):.1f}) | {ratio} "
                  f"| {f'{accepted:.3f}' if drafted else ''} | {drafted or ''} | {median(first or [0]):.0f}, {slow:.0f} |")  # fmt: skip


if __name__ == "__main__":
    main()
