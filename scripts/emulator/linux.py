"""The Linux system calls that a static, single-threaded program needs.

Creating a thread or a process fails with EAGAIN, so libtest runs its tests one after the other.
"""

import errno
import os
import random
import struct
import sys
import time

from machine import MEMORY, PAGE, STACK, round_up

HEAP = 64 << 20  # most that brk gives
PROT_RWX = 7
MAP_FIXED, MAP_ANONYMOUS = 0x10, 0x20
MADV_DONTNEED = 4
ARCH_SET_FS = 0x1002
AT_EMPTY_PATH_FLAG = 0x1000
FUTEX_WAKE = 1
U64 = struct.Struct("<QQ")


class Linux:
    """The kernel's side of one process; `exit(code)` ends it."""

    def __init__(self, machine, program, exit):
        self.machine, self.memory, self.exit = machine, machine.memory, exit
        self.heap = self.brk_now = round_up(program.end, 1 << 20)
        # Free ranges of the mmap area, sorted, never touching each other.
        self.free = [(self.heap + HEAP, MEMORY - STACK - PAGE)]
        self.random = random.Random(1)
        self.names = {number: getattr(self, name) for number, name in TABLE.items()}

    def call(self, number, arguments):
        """The result of a system call, or the negated error number."""
        function = self.names.get(number)
        if function is None:
            return -errno.ENOSYS
        try:
            return function(*arguments[: function.__code__.co_argcount - 1])
        except OSError as e:
            return -e.errno

    # ---- files -----------------------------------------------------------------------------------

    def read(self, fd, at, n):
        data = os.read(fd, n)
        self.memory.write(at, data)
        return len(data)

    def write(self, fd, at, n):
        return os.write(fd, self.memory.read(at, n))

    def writev(self, fd, at, n):
        vectors = (U64.unpack(self.memory.read(at + 16 * i, 16)) for i in range(n))
        return os.writev(fd, [self.memory.read(*v) for v in vectors])

    def openat(self, _dir, path, flags, mode):
        name = self.memory.string(path)
        if name.startswith("/proc/self"):
            return -errno.ENOENT  # it would describe the emulator
        return os.open(name, flags, mode)

    def close(self, fd):
        os.close(fd)
        return 0

    def lseek(self, fd, offset, whence):
        return os.lseek(fd, offset - (1 << 64) if offset >> 63 else offset, whence)

    def _put_stat(self, at, s):
        fields = (s.st_dev, s.st_ino, s.st_nlink, s.st_mode, s.st_uid, s.st_gid, 0, s.st_rdev, s.st_size,
                  s.st_blksize, s.st_blocks, int(s.st_atime), 0, int(s.st_mtime), 0, int(s.st_ctime), 0)  # fmt: skip
        self.memory.write(at, struct.pack("<QQQIIIIQqqqQQQQQQ24x", *fields))
        return 0

    def fstat(self, fd, at):
        return self._put_stat(at, os.fstat(fd))

    def newfstatat(self, fd, path, at, flags):
        name = self.memory.string(path)
        return self._put_stat(at, os.stat(name) if name or not flags & AT_EMPTY_PATH_FLAG else os.fstat(fd))

    def readlink(self, path, at, n):
        data = os.fsencode(os.readlink(self.memory.string(path)))[:n]
        self.memory.write(at, data)
        return len(data)

    def readlinkat(self, _dir, path, at, n):
        return self.readlink(path, at, n)

    def getcwd(self, at, _n):
        data = os.fsencode(os.getcwd()) + b"\0"
        self.memory.write(at, data)
        return len(data)

    def ioctl(self):
        return -errno.ENOTTY

    # ---- memory ----------------------------------------------------------------------------------

    def brk(self, to):
        if self.heap <= to < self.heap + HEAP:
            if to > self.brk_now:
                self.memory.protect(self.brk_now, to - self.brk_now, PROT_RWX)
            else:
                # The C library expects zeros when it grows again.
                self.memory.write(to, bytes(min(round_up(to), self.brk_now) - to))
                if round_up(self.brk_now) > round_up(to):
                    self.memory.clear(round_up(to), round_up(self.brk_now) - round_up(to))
            self.brk_now = to
        return self.brk_now

    def _take(self, n):
        for i, (start, end) in enumerate(self.free):
            # One page stays unmapped behind each mapping, so that overruns are caught.
            if end - start >= n + PAGE:
                self.free[i] = (start + n + PAGE, end)
                return start
        raise OSError(errno.ENOMEM, "the emulated memory is full")

    def mmap(self, at, n, prot, flags, fd, offset):
        n = round_up(n)
        if not flags & MAP_FIXED:
            at = self._take(n)
        elif at + n > MEMORY - STACK:
            return -errno.ENOMEM
        if flags & MAP_ANONYMOUS:
            if flags & MAP_FIXED:
                self.memory.clear(at, n)
        else:
            self.memory.write(at, os.pread(fd, n, offset))
        self.memory.protect(at, n, prot)
        return at

    def munmap(self, at, n):
        n = round_up(n)
        self.memory.protect(at, n, 0)
        self.memory.clear(at, n)
        start, end = at, at + n
        merged = []
        for s, e in self.free:
            # A gap of one page is the guard behind a mapping.
            if e + PAGE >= start and s <= end + PAGE:
                start, end = min(s, start), max(e, end)
            else:
                merged.append((s, e))
        self.free = sorted([*merged, (start, end)])
        return 0

    def mprotect(self, at, n, prot):
        self.memory.protect(at, n, prot)
        return 0

    def madvise(self, at, n, advice):
        if advice == MADV_DONTNEED:
            self.memory.clear(at, round_up(n))
        return 0

    # ---- the process -----------------------------------------------------------------------------

    def arch_prctl(self, code, value):
        if code != ARCH_SET_FS:
            return -errno.EINVAL
        self.machine.set_fs(value)
        return 0

    def getpid(self):
        return os.getpid()

    def exit_group(self, code):
        self.exit(code & 255)

    def kill(self, _pid, signal):
        self._die_of(signal)

    def tgkill(self, _group, _thread, signal):
        self._die_of(signal)

    def _die_of(self, signal):
        sys.stderr.write(f"emulator: the program was killed by signal {signal}\n")
        self.exit(128 + signal)

    def no_threads(self):
        return -errno.EAGAIN

    def futex(self, _at, operation):
        # Nobody else could be waiting, and nobody could wake us.
        return 0 if operation & 127 == FUTEX_WAKE else -errno.EAGAIN

    def sched_getaffinity(self, _pid, n, at):
        self.memory.write(at, struct.pack("<Q", 1))
        return min(n, 8)

    def prlimit64(self, _pid, _resource, _new, old):
        if old:
            self.memory.write(old, U64.pack(STACK, STACK))
        return 0

    def clock_gettime(self, clock, at):
        ns = time.time_ns() if clock == 0 else time.monotonic_ns()
        self.memory.write(at, struct.pack("<qq", *divmod(ns, 10**9)))
        return 0

    def getrandom(self, at, n):
        # The same in every run, so that instruction counts repeat.
        self.memory.write(at, self.random.randbytes(n))
        return n

    def uname(self, at):
        fields = ("Linux", "emulator", "6.1.0", "#1", "x86_64", "")
        self.memory.write(at, b"".join(f.encode().ljust(65, b"\0") for f in fields))
        return 0

    def nothing(self):
        return 0


# Numbers from arch/x86/entry/syscalls/syscall_64.tbl; the others give ENOSYS.
TABLE = {
    0: "read", 1: "write", 3: "close", 5: "fstat", 8: "lseek", 9: "mmap", 10: "mprotect", 11: "munmap",
    12: "brk", 16: "ioctl", 20: "writev", 28: "madvise", 39: "getpid", 56: "no_threads", 57: "no_threads",
    58: "no_threads", 60: "exit_group", 62: "kill", 63: "uname", 79: "getcwd", 89: "readlink",
    158: "arch_prctl", 186: "getpid", 202: "futex", 204: "sched_getaffinity", 218: "getpid",
    228: "clock_gettime", 231: "exit_group", 234: "tgkill", 257: "openat", 262: "newfstatat",
    267: "readlinkat", 302: "prlimit64", 318: "getrandom", 435: "no_threads",
    # poll, rt_sigaction, rt_sigprocmask, sched_yield, nanosleep, getuid, getgid, geteuid, getegid,
    # sigaltstack, prctl, sched_setaffinity, clock_nanosleep, set_robust_list: done, nothing to do
    **dict.fromkeys((7, 13, 14, 24, 35, 102, 104, 107, 108, 131, 157, 203, 230, 273), "nothing"),
}  # fmt: skip
