#!/usr/bin/env python3
"""Draws a record of scripts/peers.sh as an SVG beside it: usage: bench/peers_plot.py RECORD.csv

One block for each model, test and number of threads; one bar for each variant, as long as its median,
where the better of stock's two settings is 1. The thin line goes from the smallest to the largest value.
"""

import csv
import pathlib
import sys
from html import escape
from statistics import median

COLOURS = {
    "stock repack 0": "#8d99a6",
    "stock repack 1": "#b9c2cb",
    "ik": "#d99a3d",
    "ik repack": "#ecc88f",
    "shim": "#2b6cb0",
}
WIDTH, LEFT, RIGHT, BAR, GAP = 860, 130, 190, 15, 30


def read(record):
    """(model, test, threads) -> variant -> round -> value, in the order of the file."""
    groups = {}
    with open(record, newline="") as file:
        for row in csv.DictReader(file):
            key = (row["model"].removesuffix(".gguf"), row["test"], int(row["threads"]))
            groups.setdefault(key, {}).setdefault(row["variant"], {})[int(row["round"])] = float(row["value"])
    # The first round's order is the order of the variants; groups by model, then test, then threads.
    return {key: groups[key] for key in sorted(groups, key=lambda key: (key[0], key[1], key[2]))}


def plot(record):
    """Writes the SVG and returns its path."""
    record = pathlib.Path(record)
    groups = read(record)
    with open(record, newline="") as file:
        first = next(csv.DictReader(file))
    blocks, longest = [], 1.0
    for key, values in groups.items():
        stock = [median(v.values()) for name, v in values.items() if name.startswith("stock")]
        one = max(stock) if stock else max(median(v.values()) for v in values.values())
        bars = [(name, [x / one for x in v.values()], median(v.values())) for name, v in values.items()]
        longest = max([longest] + [max(relative) for _, relative, _ in bars])
        blocks.append((key, bars))

    scale = (WIDTH - LEFT - RIGHT) / longest
    y, body = 62, []
    for (model, test, threads), bars in blocks:
        title = f"{model}, {test}, {threads} thread{'s' if threads > 1 else ''}"
        body.append(f'<text x="12" y="{y}" font-weight="bold">{escape(title)}</text>')
        top = y + 8
        for i, (name, relative, tokens) in enumerate(bars):
            at = top + i * (BAR + 3)
            middle = at + BAR / 2
            length = median(relative) * scale
            low, high = LEFT + min(relative) * scale, LEFT + max(relative) * scale
            body += [
                f'<text x="{LEFT - 8}" y="{at + 12}" text-anchor="end">{escape(name)}</text>',
                f'<rect x="{LEFT}" y="{at}" width="{length:.1f}" height="{BAR}" fill="{COLOURS.get(name, "#777777")}"/>',
                f'<path d="M{low:.1f} {middle}H{high:.1f}M{low:.1f} {at + 4}v7M{high:.1f} {at + 4}v7" stroke="#222222"/>',
                f'<text x="{max(high, LEFT + length) + 8:.1f}" y="{at + 12}">{tokens:.1f} tokens/s, {median(relative):.2f}</text>',
            ]
        bottom = top + len(bars) * (BAR + 3)
        body.append(f'<path d="M{LEFT + scale:.1f} {top - 3}V{bottom}" stroke="#222222" stroke-dasharray="3 3"/>')
        y = bottom + GAP
    programs = f"{first['cpu']}; shim kernels: {first['kernels']}; {first['date'][:10]}"
    svg = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y - 10}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{y - 10}" fill="#ffffff"/>',
        '<text x="12" y="20" font-size="14" font-weight="bold">Tokens per second; 1 is the better of stock</text>',
        f'<text x="12" y="38" fill="#555555">{escape(programs)}</text>',
        *body,
        "</svg>",
    ]
    path = record.with_suffix(".svg")
    path.write_text("\n".join(svg) + "\n")
    return path


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(plot(sys.argv[1]).name)
