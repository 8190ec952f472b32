"""Runs a static x86-64 Linux program on an emulated CPU with AVX-512 F, BW, DQ, VL, VBMI, VNNI and BF16.

usage: emulate [--count] [--profile FILE] PROGRAM [ARGUMENT...]

  --count         at the end, write `instructions N` (all that the program executed) to stderr
  --profile FILE  write `ADDRESS COUNT` (hexadecimal address in the program's file, decimal count)
                  for every instruction executed

The exit status is the program's; 132 after an illegal instruction, 139 after a bad access. The CPU is
Bochs' Sapphire Rapids, from the PyPI package bochscpu-python; there is no operating system under the
program, only the calls of linux.py, no threads, and 1 GiB of memory. Build with optimisation: it runs
tens of millions of instructions a second. Set up by `scripts/setup.sh emulator`.
"""

import os
import sys

from linux import Linux
from loader import Program
from machine import INVALID_OPCODE, MEMORY, Machine

HERE = os.path.dirname(os.path.abspath(__file__))
# Of this process, not of the program.
OWN_VARIABLES = ("LD_PRELOAD", "PYTHONPATH")


def options(words):
    """The options, and the program with its arguments."""
    count, profile = False, None
    while words and words[0].startswith("--"):
        option = words.pop(0)
        if option == "--count":
            count = True
        elif option == "--profile" and words:
            profile = words.pop(0)
        else:
            sys.exit(__doc__)
    if not words:
        sys.exit(__doc__)
    return count, profile, words


def main():
    count, profile_path, arguments = options(sys.argv[1:])
    machine = Machine(os.path.join(HERE, "bochs_hooks.so"))
    program = Program(machine.memory, arguments[0])
    environment = {k: v for k, v in os.environ.items() if k not in OWN_VARIABLES}
    stack = program.stack(machine.memory, arguments, environment)
    counters = machine.profile(program.start, program.end - program.start) if profile_path else None

    def leave(code):
        if counters is not None:
            if not counters[program.entry - program.start]:
                sys.exit("emulator: the instruction pointer is not where machine.RIP_OFFSET says")
            with open(profile_path, "w") as f:
                first = program.start - program.bias
                f.writelines(f"{first + i:x} {n}\n" for i, n in enumerate(counters) if n)
        if count:
            sys.stderr.write(f"instructions {machine.instructions}\n")
        sys.stdout.flush()
        sys.stderr.flush()
        # The emulator's threads and the interpreter's own clean-up have nothing left to do.
        os._exit(code)

    def fault(vector, error, rip, address):
        code = machine.memory.read(rip, 12).hex() if rip + 12 <= MEMORY else "?"
        sys.stderr.write(
            # The instruction pointer has already moved on.
            f"emulator: CPU exception {vector}, error {error:#x}, just before {rip - program.bias:#x} of the "
            f"program (bytes {code} follow), accessed address {address:#x}\n"
        )
        leave(132 if vector == INVALID_OPCODE else 139)

    linux = Linux(machine, program, leave)
    machine.system_call, machine.fault = linux.call, fault
    machine.run(program.entry, stack)
    sys.exit("emulator: the CPU stopped")


main()
