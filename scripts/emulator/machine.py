"""One Bochs CPU with AVX-512 VNNI and flat memory: virtual address == physical address.

The CPU runs in 64-bit user mode (ring 3) from the start. The only ring-0 code is a stub of five
instructions that `syscall` jumps to; its first one, `wbinvd`, calls back into Python.
"""

import ctypes
import errno
import mmap
import os
import struct

import bochscpu
import bochscpu.cpu
import bochscpu.memory

PAGE = 4096
MAP_NORESERVE = 0x4000  # the mmap module has a name for it from Python 3.13 on
MEMORY = 1 << 30
STACK = 8 << 20
# Base of a position-independent program; below it lie the page tables.
LOAD_AT = 0x1000_0000

# Page-table entry bits.
PRESENT, WRITE, USER = 1, 2, 4

PML4, PDPT, SYSCALL_STUB, PD, PT = 0x10_0000, 0x10_1000, 0x10_2000, 0x10_3000, 0x11_0000
TABLES_END = PT + PAGE * (MEMORY >> 21)
assert TABLES_END <= LOAD_AT and MEMORY <= 1 << 30

SYSCALL_STUB_CODE = bytes.fromhex(
    "0f09"  # wbinvd             calls Machine's cache_cntrl hook: the system call itself
    "0f23c0"  # mov dr0, rax
    "0f20d8"  # mov rax, cr3
    "0f22d8"  # mov cr3, rax     the call may have changed page tables: flush the TLB
    "0f21c0"  # mov rax, dr0
    "480f07"  # sysretq
)

CR4 = 1 << 9 | 1 << 10 | 1 << 16 | 1 << 18  # OSFXSR, OSXMMEXCPT, FSGSBASE, OSXSAVE
XCR0 = 0xE7  # x87, SSE, AVX, opmask, the two parts of ZMM
USER_CODE, USER_DATA, KERNEL_CODE = 0x33, 0x2B, 0x10
CODE_ATTR, DATA_ATTR = 0x22FB, 0x0CF3  # present, ring 3, 64-bit code | writable data

# In the wheel's BX_CPU_C (the same in the wheels of all Python versions); `check_layout` makes sure.
RIP_OFFSET = 0xD8

INVALID_OPCODE = 6


def round_up(n, unit=PAGE):
    """`n` rounded up to a multiple of `unit`."""
    return -(-n // unit) * unit


def segment(selector, attr, base=0):
    """A flat segment."""
    s = bochscpu.Segment()
    s.present, s.selector, s.base, s.limit, s.attr = True, selector, base, 0xFFFF_FFFF, attr
    return s


class Memory:
    """The guest's memory and its page tables."""

    def __init__(self):
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
        self.ram = mmap.mmap(-1, MEMORY, flags=flags)
        self.host = ctypes.addressof(ctypes.c_char.from_buffer(self.ram))
        all_bits = PRESENT | WRITE | USER
        self.write(PML4, struct.pack("<Q", PDPT | all_bits))
        self.write(PDPT, struct.pack("<Q", PD | all_bits))
        for i in range(MEMORY >> 21):
            self.write(PD + 8 * i, struct.pack("<Q", (PT + PAGE * i) | all_bits))
        self.write(PT + 8 * (SYSCALL_STUB // PAGE), struct.pack("<Q", SYSCALL_STUB | PRESENT))
        self.write(SYSCALL_STUB, SYSCALL_STUB_CODE)

    def read(self, at, n):
        """`n` bytes at `at`."""
        if not 0 <= at <= at + n <= MEMORY:
            raise OSError(errno.EFAULT, "bad address")
        return self.ram[at : at + n]

    def write(self, at, data):
        """Stores `data` at `at`."""
        if not 0 <= at <= at + len(data) <= MEMORY:
            raise OSError(errno.EFAULT, "bad address")
        self.ram[at : at + len(data)] = data

    def string(self, at):
        """The zero-terminated string at `at`."""
        return self.ram[at : self.ram.find(b"\0", at)].decode()

    def clear(self, at, n):
        """Makes whole pages zero and gives their memory back."""
        self.ram.madvise(mmap.MADV_DONTNEED, at, n)

    def protect(self, at, n, prot):
        """Maps the pages of `[at, at + n)` with PROT_READ, PROT_WRITE, PROT_EXEC bits; 0 unmaps them."""
        first = at & -PAGE
        last = round_up(at + n)
        if first < TABLES_END or last > MEMORY:
            raise OSError(errno.ENOMEM, "outside the emulated memory")
        pages = (last - first) // PAGE
        if prot & 7:
            bits = PRESENT | USER | (WRITE if prot & 2 else 0)
            table = struct.pack(f"<{pages}Q", *range(first | bits, last | bits, PAGE))
        else:
            table = bytes(8 * pages)
        self.write(PT + 8 * (first // PAGE), table)


class Machine:
    """CPU and memory; `system_call(number, arguments)` gives what the guest finds in `rax`."""

    def __init__(self, hooks_path, cpu_model="sapphire_rapids"):
        self.memory = Memory()
        self.system_call = None
        self.fault = None
        self.hooks = ctypes.CDLL(hooks_path)
        self.wheel = ctypes.CDLL(bochscpu._bochscpu.__file__)
        self._choose_model(cpu_model)
        self.session = bochscpu.Session()
        self.session.missing_page_handler = self._missing_page

    def _choose_model(self, name):
        constructor = f"create_{name}_cpuid"
        address = ctypes.cast(getattr(self.wheel, f"_Z{len(constructor)}{constructor}P8BX_CPU_C"), ctypes.c_void_p)
        ctypes.c_void_p.in_dll(self.hooks, "cpu_model").value = address.value

    def _missing_page(self, physical):
        # Bochs asks once for every page it touches.
        page = physical & -PAGE
        if page >= MEMORY:
            os.write(2, f"emulator: no memory at physical address {physical:#x}\n".encode())
            os._exit(139)
        bochscpu.memory.page_insert(page, self.memory.host + page)

    def set_fs(self, base):
        """The thread pointer."""
        self.session.cpu.fs = segment(0, DATA_ATTR, base)

    @property
    def instructions(self):
        """Instructions executed so far."""
        return ctypes.c_uint64.in_dll(self.hooks, "instructions").value

    def profile(self, start, length):
        """From now on, counts the executions of every instruction in that range; gives the counters."""
        counters = (ctypes.c_uint64 * length)()
        ctypes.c_uint64.in_dll(self.hooks, "profile_from").value = start
        ctypes.c_uint64.in_dll(self.hooks, "profile_len").value = length
        cpu = ctypes.addressof(ctypes.c_char.in_dll(self.wheel, "bx_cpu"))
        ctypes.c_void_p.in_dll(self.hooks, "rip").value = cpu + RIP_OFFSET
        ctypes.c_void_p.in_dll(self.hooks, "profile").value = ctypes.addressof(counters)
        return counters

    def run(self, entry, stack):
        """Starts at `entry`. Returns only if the CPU stops by itself, which it should not."""
        state = bochscpu.State()
        bochscpu.cpu.set_long_mode(state)
        state.cr3 = PML4
        state.cr4 |= CR4
        state.xcr0 = XCR0
        state.rip, state.rsp, state.rflags = entry, stack, 0x202
        state.mxcsr, state.mxcsr_mask, state.fpcw, state.fptw = 0x1F80, 0xFFFF, 0x37F, 0
        state.lstar, state.star, state.sfmask = SYSCALL_STUB, 0x23 << 48 | KERNEL_CODE << 32, 0x47700
        state.cs = segment(USER_CODE, CODE_ATTR)
        state.ss = state.ds = state.es = state.fs = state.gs = segment(USER_DATA, DATA_ATTR)
        self.session.cpu.state = state
        hook = bochscpu.Hook()
        hook.cache_cntrl = self._trap
        hook.exception = self._exception
        self.session.run([hook])

    def _trap(self, *_):
        cpu = self.session.cpu
        arguments = (cpu.rdi, cpu.rsi, cpu.rdx, cpu.r10, cpu.r8, cpu.r9)
        cpu.rax = self.system_call(cpu.rax, arguments) & (2**64 - 1)

    def _exception(self, _session, _cpu, vector, error):
        cpu = self.session.cpu
        self.fault(int(vector), int(error), cpu.rip, cpu.cr2)
