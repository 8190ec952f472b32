"""Puts a static ELF program and its arguments into the machine, as execve would."""

import os
import struct
import sys

from machine import LOAD_AT, MEMORY, PAGE, STACK

ET_DYN, PT_LOAD, PT_INTERP = 3, 1, 3
PF_W = 2
PROT_RW, PROT_RWX = 3, 7
RANDOM = bytes(range(1, 17))  # the same in every run, so that instruction counts repeat


class Program:
    """A loaded program: `entry`, `bias` (load address less the file's), `end` of its highest segment."""

    def __init__(self, memory, path):
        with open(path, "rb") as f:
            image = f.read()
        if image[:5] != b"\x7fELF\x02" or struct.unpack_from("<H", image, 18)[0] != 62:
            sys.exit(f"emulator: {path} is not an x86-64 program")
        kind, entry, at, count = (
            struct.unpack_from(f, image, o)[0] for f, o in (("<H", 16), ("<Q", 24), ("<Q", 32), ("<H", 56))
        )
        self.bias = LOAD_AT if kind == ET_DYN else 0
        self.entry = entry + self.bias
        self.start, self.end = MEMORY, 0
        self.headers, self.header_count = 0, count
        for i in range(count):
            kind, flags, offset, va, _, in_file, in_memory, _ = struct.unpack_from("<IIQQQQQQ", image, at + 56 * i)
            if kind == PT_INTERP:
                sys.exit(
                    f"emulator: {path} is dynamically linked; link it with -C target-feature=+crt-static (or -static)"
                )
            if kind != PT_LOAD:
                continue
            va += self.bias
            memory.protect(va, in_memory, PROT_RWX if flags & PF_W else PROT_RWX & ~2)
            memory.write(va, image[offset : offset + in_file])
            self.start, self.end = min(self.start, va), max(self.end, va + in_memory)
            if offset <= at < offset + in_file:
                self.headers = va + at - offset

    def stack(self, memory, arguments, environment):
        """Writes arguments, environment and auxiliary vector; gives the initial stack pointer."""
        memory.protect(MEMORY - STACK, STACK, PROT_RW)
        top = MEMORY - PAGE

        def put(data):
            nonlocal top
            top -= len(data)
            memory.write(top, data)
            return top

        argv = [put(os.fsencode(a) + b"\0") for a in arguments]
        envp = [put(os.fsencode(f"{k}={v}") + b"\0") for k, v in environment.items()]
        random, platform = put(RANDOM), put(b"x86_64\0")
        auxiliary = [
            (3, self.headers),  # AT_PHDR
            (4, 56),  # AT_PHENT
            (5, self.header_count),  # AT_PHNUM
            (6, PAGE),  # AT_PAGESZ
            (9, self.entry),  # AT_ENTRY
            (11, 0), (12, 0), (13, 0), (14, 0),  # AT_UID, AT_EUID, AT_GID, AT_EGID
            (15, platform),  # AT_PLATFORM
            (16, 0x178B_FBFF),  # AT_HWCAP
            (17, 100),  # AT_CLKTCK
            (23, 0),  # AT_SECURE
            (25, random),  # AT_RANDOM
            (31, argv[0]),  # AT_EXECFN
            (51, 3632),  # AT_MINSIGSTKSZ: a signal frame with AVX-512 state
            (0, 0),
        ]  # fmt: skip
        words = [len(argv), *argv, 0, *envp, 0, *(w for pair in auxiliary for w in pair)]
        top = (top - 8 * len(words)) & -64
        memory.write(top, struct.pack(f"<{len(words)}Q", *words))
        return top
