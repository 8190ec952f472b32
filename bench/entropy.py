#!/usr/bin/env python3
"""Entropy of a model's weights: how many bytes a lossless code could save at best.

usage: bench/entropy.py MODEL.gguf...

For each type of weights, bits per weight in the file, and the least that codes without memory reach: of whole codes (one
symbol for a scale or a quant, two bytes for F16 and BF16), and of each byte of a block by itself. Tables of a code are not
counted, nor what decoding costs. No model of BF16 or F16 is at hand: their exponents are estimated from the values of Q8_0.
"""
import array
import collections
import math
import struct
import sys

# Bytes of a block, weights of a block, and its fields: name, bytes from where to where, bits of a symbol (of ggml's block_* structures).
TYPES = {
    0: ("f32", 4, 1, [("value", 0, 4, 32)]),
    1: ("f16", 2, 1, [("value", 0, 2, 16)]),
    2: ("q4_0", 18, 32, [("scale", 0, 2, 16), ("quants", 2, 18, 4)]),
    3: ("q4_1", 20, 32, [("scale", 0, 2, 16), ("minimum", 2, 4, 16), ("quants", 4, 20, 4)]),
    6: ("q5_0", 22, 32, [("scale", 0, 2, 16), ("high bits", 2, 6, 8), ("quants", 6, 22, 4)]),
    8: ("q8_0", 34, 32, [("scale", 0, 2, 16), ("quants", 2, 34, 8)]),
    12: ("q4_K", 144, 256, [("scales of scales", 0, 4, 16), ("scales", 4, 16, 8), ("quants", 16, 144, 4)]),
    14: ("q6_K", 210, 256, [("low quants", 0, 128, 4), ("high quants", 128, 192, 8), ("scales", 192, 208, 8), ("scale of scales", 208, 210, 16)]),
    30: ("bf16", 2, 1, [("value", 0, 2, 16)]),
}
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


class Gguf:
    """The tensors of a GGUF file: (name, elements, type, offset)."""

    def __init__(self, data):
        self.data, self.at = data, 0
        magic, _, tensors, pairs = self.take("<4sIQQ")
        if magic != b"GGUF":
            sys.exit("found no GGUF file; expected a model")
        values = {self.text(): self.value(self.take("<I")[0]) for _ in range(pairs)}
        self.tensors = []
        for _ in range(tensors):
            name, dims = self.text(), self.take("<I")[0]
            elements = math.prod(self.take("<%dQ" % dims))
            self.tensors.append((name, elements, *self.take("<IQ")))
        align = values.get("general.alignment", 32)
        self.start = -(-self.at // align) * align

    def take(self, form):
        values = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return values

    def text(self):
        length = self.take("<Q")[0]
        self.at += length
        return bytes(self.data[self.at - length : self.at]).decode("utf-8", "replace")

    def value(self, kind):
        if kind == 8:
            return self.text()
        if kind == 9:
            inner, count = self.take("<IQ")
            for _ in range(count):
                self.value(inner)
            return None
        return self.take("<" + NUMBERS[kind])[0]


def symbols(data, bits):
    """How often each symbol occurs."""
    if bits == 4:
        counts = collections.Counter()
        for byte, n in collections.Counter(data).items():
            counts[byte & 15] += n
            counts[byte >> 4] += n
        return counts
    return collections.Counter(array.array({8: "B", 16: "H", 32: "I"}[bits], data))


def entropy_bits(counts):
    total = sum(counts.values())
    return sum(n * math.log2(total / n) for n in counts.values())


def exponents(raw):
    """How often each exponent occurs among the values of every 64th block of Q8_0, which are not zero."""
    counts = collections.Counter()
    for at in range(0, len(raw), 34 * 64):
        scale, *quants = struct.unpack_from("<e32b", raw, at)
        counts.update(math.frexp(scale * quant)[1] for quant in quants if quant and scale)
    return counts


def main():
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    print("| model | type | share of the weights' bytes | bits per weight | codes | saved | each byte by itself | saved |")
    print("|---|---|---|---|---|---|---|---|")
    parts = []
    for path in sys.argv[1:]:
        with open(path, "rb") as file:
            data = memoryview(file.read())
        gguf = Gguf(data)
        by_type = collections.defaultdict(list)
        for _, elements, kind, offset in gguf.tensors:
            by_type[kind].append((elements, gguf.start + offset))
        sizes = {kind: sum(n for n, _ in all) // TYPES[kind][2] * TYPES[kind][1] for kind, all in by_type.items()}
        for kind, tensors in sorted(by_type.items()):
            name, size, weights, fields = TYPES[kind]
            codes, planes, count = [collections.Counter() for _ in fields], [collections.Counter() for _ in range(size)], 0
            found = collections.Counter()
            for elements, start in tensors:
                raw = bytes(data[start : start + elements // weights * size])
                count += elements
                if name == "q8_0":
                    found.update(exponents(raw))
                lanes = [raw[i::size] for i in range(size)]
                for i, lane in enumerate(lanes):
                    planes[i].update(lane)
                for i, (_, first, last, bits) in enumerate(fields):
                    step = max(bits // 8, 1)
                    for at in range(first, last, step):
                        joined = bytearray(len(lanes[0]) * step)
                        for k in range(step):
                            joined[k::step] = lanes[at + k]
                        codes[i].update(symbols(bytes(joined), bits))
            stored = 8 * size / weights
            by_code = sum(map(entropy_bits, codes)) / count
            by_byte = sum(map(entropy_bits, planes)) / count
            model = path.rsplit("/", 1)[-1]
            print(f"| {model} | {name} | {100 * sizes[kind] / sum(sizes.values()):.1f} % | {stored:.3f} | {by_code:.3f} | {100 * (1 - by_code / stored):.1f} % | {by_byte:.3f} | {100 * (1 - by_byte / stored):.1f} % |")
            for (field, *_, bits), counts in zip(fields, codes):
                parts.append(f"{model} {name} {field}: {entropy_bits(counts) / sum(counts.values()):.2f} of {bits} bits")
            if found:
                bits = entropy_bits(found) / sum(found.values())
                parts.append(
                    f"{model} exponents of the q8_0 values: {bits:.2f} bits; with signs and mantissas as they are, BF16 of such values has "
                    f"{8 + bits:.1f} of 16 bits ({100 * (8 - bits) / 16:.0f} % saved), F16 {11 + bits:.1f} ({100 * (5 - bits) / 16:.0f} % saved)"
                )
    print("\n" + "\n".join(parts))


main()
