// Preloaded into the Python process of the emulator, in front of the bochscpu wheel: the loader binds
// the wheel's calls of these functions to the ones here. See emulate.py.
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

// ---- the CPU model -------------------------------------------------------------------------------
// bochscpu always asks for a Cannon Lake, which has no VNNI. It gets the model that `cpu_model` makes;
// machine.py points it at the wheel's constructor of a better one.

void * (*cpu_model)(void * cpu);

void * _Z23create_corei3_cnl_cpuidP8BX_CPU_C(void * cpu) {
    if (!cpu_model) {
        fputs("emulator: no CPU model was set\n", stderr);
        abort();
    }
    return cpu_model(cpu);
}

// ---- counting ------------------------------------------------------------------------------------
// Bochs calls this before every instruction, once for one with a REP prefix. Doing it here instead of
// in a Python callback (5 million calls a second) costs next to nothing.

uint64_t   instructions;   // executed so far
uint64_t * profile;        // when set, one counter per byte of [profile_from, profile_from + profile_len)
uint64_t   profile_from;
uint64_t   profile_len;
// The instruction pointer inside the wheel's `bx_cpu` (BX_CPU_C::gen_reg[16]); machine.py checks it.
const uint64_t * rip;

void bx_instr_before_execution(unsigned cpu, const void * instruction) {
    (void) cpu;
    (void) instruction;
    instructions++;
    if (profile && *rip - profile_from < profile_len) {
        profile[*rip - profile_from]++;
    }
}

// The frequent hooks that nobody here listens to: without the wheel's search for listeners the emulator
// runs twice as fast. Their arguments do not matter.
void bx_instr_after_execution(void) {}
void bx_instr_cnear_branch_not_taken(void) {}
void bx_instr_cnear_branch_taken(void) {}
void bx_instr_lin_access(void) {}
void bx_instr_opcode(void) {}
void bx_instr_phy_access(void) {}
void bx_instr_prefetch_hint(void) {}
void bx_instr_repeat_iteration(void) {}
void bx_instr_ucnear_branch(void) {}

// ---- glibc before 2.38 -----------------------------------------------------------------------------
// The wheel is tagged for glibc 2.28 but was compiled against a newer one, whose C23 names of two old
// functions it asks for.

unsigned long long __isoc23_strtoull(const char * s, char ** end, int base) { return strtoull(s, end, base); }

int __isoc23_sscanf(const char * s, const char * format, ...) {
    va_list args;
    va_start(args, format);
    int n = vsscanf(s, format, args);
    va_end(args);
    return n;
}
