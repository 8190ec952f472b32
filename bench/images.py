#!/usr/bin/env python3
"""llama-server with an image: time to encode one, and the text after it, without and with the shim.

    bench/images.py --model SLICE --mmproj SLICE [--rounds N] [--tokens N]

The files are those of `zen5turbo slice gemma-3-4b` and `zen5turbo slice gemma-3-4b-vision`, or a real model and its projector. Both
layouts of stock and the shim answer in turns, in an order that rotates. A prompt of text that is as long as the one with the image
tells what the text model takes; the rest of the time is the encoding. Writes a record, and prints a table. Ends with status 1 when
a request fails. Nothing else should run on the machine.
"""

import argparse
import base64
import pathlib
import struct
import sys
import zlib
from statistics import median

import server
from peers import recording
from server import ARMS, SHIM

QUESTION = "What is in the picture?"
FIELDS = ["date", "cpu", "kernel", "program", "kernels", "model", "mmproj", "threads", "arm", "round", "position", "test", "value", "unit"]


def main():
    options = arguments()
    image = base64.b64encode(png(options.size)).decode()
    rows = []
    with recording(options, "images", FIELDS, program=options.version) as (_, add):
        for turn in range(options.rounds):
            shift = turn % len(ARMS)
            for position, arm in enumerate(ARMS[shift:] + ARMS[:shift], 1):
                place = {"model": options.model.name, "mmproj": options.mmproj.name, "threads": options.threads, "arm": arm,
                         "round": turn + 1, "position": position}  # fmt: skip
                try:
                    found = run(options, arm, image)
                except (OSError, KeyError, server.Failed) as error:
                    sys.exit(f"error: {arm}: {error}")
                for test, (value, unit) in found.items():
                    row = place | {"test": test, "value": f"{value:.4g}", "unit": unit}
                    add(row)
                    rows.append(row)
                print(f"round {turn + 1}, {arm}: image {found['image'][0]:.2f} s", file=sys.stderr, flush=True)
    table(rows)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=pathlib.Path)
    parser.add_argument("--mmproj", required=True, type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=32, help="length of the answer")
    parser.add_argument("--size", type=int, default=896, help="width and height of the image")
    parser.add_argument("--threads", type=int, default=2)
    options = server.options(parser)
    for path in (options.model, options.mmproj, options.lib, options.bin / "llama-server"):
        if not path.exists():
            parser.error(f"there is no {path}; zen5turbo slice makes the models, scripts/setup.sh and cargo build --release the others")
    return options


def png(size):
    """A picture with colours that change, and squares."""
    def pixel(x, y):
        return bytes((x * 255 // size, y * 255 // size, (x * 16 // size + y * 16 // size) % 2 * 255))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + b"".join(pixel(x, y) for x in range(size)) for y in range(size))
    head = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def run(options, arm, image):
    """Seconds and rates of one process."""
    words = ["-m", options.model, "--mmproj", options.mmproj, "-t", options.threads, "-np", 1, "-c", 2048, "--no-webui"]
    common = {"n_predict": options.tokens, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
    with server.Server(arm, words, options.bin / "llama-server", options.lib) as running:
        marker = running.ask("/props")["media_marker"]
        with_image = {"prompt_string": marker + QUESTION, "multimodal_data": [image]}
        seen = running.ask("/completion", common | {"prompt": with_image})
        # As many tokens; a slice has a token for each byte.
        length = seen["timings"]["prompt_n"]
        tokens = running.ask("/tokenize", {"content": QUESTION * length})["tokens"][:length]
        read = running.ask("/completion", common | {"prompt": tokens})
    for answer in (seen, read):
        if answer["tokens_predicted"] != options.tokens:
            raise server.Failed(f"{answer['tokens_predicted']} tokens, where {options.tokens} were asked for")
    if arm == SHIM and not running.taken("MUL_MAT"):
        raise server.Failed("the shim took no product over")
    whole, text = (answer["timings"]["prompt_ms"] / 1000 for answer in (seen, read))
    return {
        "image": (whole - text, "s"),
        "text": (text, "s"),
        "after the image": (seen["timings"]["predicted_per_second"], "tokens/s"),
        "after the text": (read["timings"]["predicted_per_second"], "tokens/s"),
    }


def table(rows):
    print("| | " + " | ".join(ARMS) + " | over the better of stock |")
    print("|---" * (len(ARMS) + 2) + "|")
    for test, unit in dict.fromkeys((row["test"], row["unit"]) for row in rows):
        of = {arm: [float(row["value"]) for row in rows if (row["test"], row["arm"]) == (test, arm)] for arm in ARMS}
        best = (min if unit == "s" else max)((arm for arm in ARMS if arm != SHIM), key=lambda arm: median(of[arm]))
        ratios = sorted(b / a if unit == "s" else a / b for a, b in zip(of[SHIM], of[best]))
        cells = " | ".join(f"{median(values):.3g} ({min(values):.3g} to {max(values):.3g})" for values in of.values())
        print(f"| {test}, {unit} | {cells} | {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) |")


if __name__ == "__main__":
    main()
