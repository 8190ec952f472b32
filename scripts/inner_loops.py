#!/usr/bin/env python3
"""What the compiler made of the kernels.

usage: scripts/inner_loops.py loops [--isa ISA] [PATTERN]
       scripts/inner_loops.py where [--isa ISA] [--n LIST] [--k K] [--lines COUNT] TYPE...

loops  for each innermost loop of each micro-kernel and packing function, its instructions by class;
       PATTERN selects functions by a regular expression, e.g. 'super256.*, 8>'
where  runs one product (M = 128) on the emulator and tells where its instructions go: packing,
       micro-kernel, quantisation, rest, by class, per 64 multiply-adds; --lines also shows the most
       executed instructions

ISA is avx512vnni (default), avx512vnni-256 or avx2; TYPE is written as ggml does (q4_K). The program
is src/kernels/examples/one_product.rs, built here; objdump does the reading.

The classes: dot (vpdpbusd, vpdpwssd, vpmaddubsw, vpmaddwd), {1to} those of them with an embedded
broadcast, float, bcast (separate broadcasts), load and store (plain moves), spill (vectors to and from
the stack), move (register to register), shuffle, integer (all other vector and mask instructions),
scalar (with branches and prefetches).
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TARGET = "x86_64-unknown-linux-gnu"
MODULES = {"avx512vnni": "avx512", "avx512vnni-256": "vnni256", "avx2": "avx2"}
CLASSES = ["dot", "{1to}", "float", "bcast", "load", "store", "spill", "move", "shuffle", "integer", "scalar"]
M = 128

DOT = re.compile(r"vpdp|vpmadd(ubsw|wd)")
FLOAT = re.compile(r"v(f(n?m(add|sub))|mulp|addp|subp|maxp|minp|cvt|rcp|divp|[a-z]+[sp]s$)")
SHUFFLE = re.compile(r"vp?(unpck|perm|shuf|insert|extract|insr|extr|align|pack|blend|movzx|movsx|mov[lh]|gather)")
MOVE = re.compile(r"vmov(dq|ap|up|q|d$|s[sd]$|nt)")


def class_of(mnemonic, operands):
    """The class of an instruction in AT&T syntax."""
    if not mnemonic.startswith(("v", "k")) or mnemonic.startswith("vzero"):
        return "scalar"
    if DOT.match(mnemonic):
        return "{1to}" if "{1to" in operands else "dot"
    if mnemonic.startswith(("vpbroadcast", "vbroadcast")):
        return "bcast"
    if MOVE.match(mnemonic):
        if "(" not in operands:
            return "move"
        if "(%rsp" in operands:
            return "spill"
        return "store" if operands.rstrip("}kz0123456789{%").endswith(")") else "load"
    if SHUFFLE.match(mnemonic):
        return "shuffle"
    return "float" if FLOAT.match(mnemonic) else "integer"


class Function:
    """A function of the program: its instructions as (address, mnemonic, operands)."""

    def __init__(self, name):
        self.name = re.sub(r"zen5turbo_kernels::|registry::(?=Of)|\.llvm\.\d+", "", name)
        self.code = []

    def innermost_loops(self):
        """Slices of `code`: the bodies of backward jumps that contain no other."""
        at = {address: i for i, (address, _, _) in enumerate(self.code)}
        loops = set()
        for i, (_, mnemonic, operands) in enumerate(self.code):
            target = re.match(r"([0-9a-f]+)", operands)
            if mnemonic.startswith("j") and target:
                start = at.get(int(target[1], 16), i + 1)
                if start <= i:
                    loops.add((start, i + 1))
        return [
            self.code[a:b]
            for a, b in sorted(loops)
            if not any((c, d) != (a, b) and a <= c and d <= b for c, d in loops)
        ]


def functions(program):
    """All functions of a program by disassembly."""
    listing = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", "-C", program], check=True, capture_output=True, text=True
    ).stdout
    found = []
    for line in listing.splitlines():
        header = re.match(r"[0-9a-f]+ <(.*)>:$", line)
        code = re.match(r"\s*([0-9a-f]+):\s+(?:(?:notrack|bnd|rep\w*|lock|data16|cs) )*(\S+)\s*([^#]*)", line)
        if header:
            found.append(Function(header[1]))
        elif code and found:
            found[-1].code.append((int(code[1], 16), code[2], code[3].strip()))
    return found


def build():
    """Builds the program with names that show generic parameters; gives its path."""
    directory = os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")), "static")
    flags = "-C target-feature=+crt-static -C symbol-mangling-version=v0"
    command = "cargo build --locked --release --quiet -p zen5turbo-kernels --example one_product"
    subprocess.run(
        [*command.split(), "--target", TARGET, "--target-dir", directory],
        check=True,
        cwd=ROOT,
        env={**os.environ, "RUSTFLAGS": flags},
    )
    return os.path.join(directory, TARGET, "release/examples/one_product")


def row(label, counts, total, scale=1.0, digits=0):
    """A line of the tables."""
    cells = [f"{counts[c] * scale:9.{digits}f}" if counts[c] else "        -" for c in CLASSES]
    return f"{label:<64} {total * scale:9.{digits}f}" + "".join(cells)


def heading(label):
    return f"{label:<64} {'all':>9}" + "".join(f"{c:>9}" for c in CLASSES)


def show_loops(arguments):
    pattern = re.compile(arguments.pattern)
    print(heading("instructions of one iteration"))
    names = re.compile(rf"registry::{MODULES[arguments.isa]}::(block32|super256|pack)")
    for function in sorted(functions(build()), key=lambda f: f.name):
        if not names.match(function.name) or not pattern.search(function.name):
            continue
        for loop in function.innermost_loops():
            counts = Counter(class_of(m, o) for _, m, o in loop)
            print(row(function.name.removeprefix("registry::"), counts, len(loop)))


def part_of(function):
    """Which part of a product a function is."""
    for part, names in (
        ("pack", r"::pack(::|$)"),
        ("micro-kernel", r"registry::\w+::(block32|super256)|^micro::"),
        ("quantise", r"^act::|quantize"),
    ):
        if re.search(names, function.name):
            return part
    return "rest"


def repetition(program, arguments):
    """Executions per address of one repetition: half the difference of three and one."""
    runs = []
    with tempfile.NamedTemporaryFile(mode="r") as f:
        for reps in ("1", "3"):
            command = [os.path.join(ROOT, ".deps/emulator/emulate"), "--profile", f.name, program, *arguments, reps]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            f.seek(0)
            runs.append({int(a, 16): int(n) for a, n in map(str.split, f)})
    return {a: (n - runs[0].get(a, 0)) / 2 for a, n in runs[1].items() if n != runs[0].get(a, 0)}


def show_where(arguments):
    subprocess.run([os.path.join(ROOT, "scripts/setup.sh"), "emulator"], check=True, stdout=subprocess.DEVNULL)
    program = build()
    code = functions(program)
    for weight in arguments.types:
        for n in arguments.n.split(","):
            k = arguments.k
            counts = repetition(program, [arguments.isa, weight, str(M), str(k), n])
            scale = 64 / (M * k * int(n))
            parts, hottest = defaultdict(Counter), []
            for function in code:
                for address, mnemonic, operands in function.code:
                    executed = counts.get(address)
                    if executed:
                        parts[part_of(function)][class_of(mnemonic, operands)] += executed
                        hottest.append((-executed, address, f"{mnemonic} {operands}", function.name))
            total = sum(parts.values(), Counter())
            everything = sum(total.values())
            print(heading(f"{weight}, N = {n}: instructions per 64 multiply-adds"))
            for part in ("quantise", "pack", "micro-kernel", "rest"):
                print(row(f"  {part}", parts[part], sum(parts[part].values()), scale, 3))
            print(row("  all", total, everything, scale, 3))
            dots = total["dot"] + total["{1to}"]
            print(f"  {dots / everything:.0%} of the instructions are dot products")
            for executed, address, text, name in sorted(hottest)[: arguments.lines]:
                print(f"  {-executed:10.0f}  {address:x}  {text}   {name}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    loops = commands.add_parser("loops")
    loops.add_argument("pattern", nargs="?", default="")
    loops.set_defaults(run=show_loops)
    where = commands.add_parser("where")
    where.add_argument("types", nargs="+", metavar="TYPE")
    where.add_argument("--n", default="1,4,16", metavar="LIST")
    where.add_argument("--k", type=int, default=2048)
    where.add_argument("--lines", type=int, default=0)
    where.set_defaults(run=show_where)
    for command in (loops, where):
        command.add_argument("--isa", choices=MODULES, default="avx512vnni")
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as e:
        sys.exit(f"error: {e}")
