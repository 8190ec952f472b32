# Shared by the scripts of this folder: where things are, and how to speak. Sourced, never run.
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034 # used by the scripts that source this
DEPS=$ROOT/.deps

say() { printf '%s\n' "$*"; }
step() { printf '==> %s\n' "$*"; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

has() { command -v "$1" >/dev/null 2>&1; }

# short_hash WORDS...: twelve hex digits that name a build by everything it was made from.
short_hash() { printf '%s\n' "$@" | sha256sum | cut -c1-12; }

# cpu_has FLAG...: whether /proc/cpuinfo lists every one of these feature flags.
cpu_has() {
    local flags flag
    flags=" $(sed -n '/^flags/{s/^[^:]*://;p;q}' /proc/cpuinfo) "
    for flag in "$@"; do
        [[ $flags == *" $flag "* ]] || return 1
    done
}

# Zen 5 as the shim's strict gate has it: AMD family 1Ah, models 00h-2Fh, 40h-4Fh, 60h-7Fh.
cpu_is_zen5() {
    local vendor family model
    vendor=$(sed -n '/^vendor_id/{s/.*: *//;p;q}' /proc/cpuinfo)
    family=$(sed -n '/^cpu family/{s/.*: *//;p;q}' /proc/cpuinfo)
    model=$(sed -n '/^model[[:space:]]*:/{s/.*: *//;p;q}' /proc/cpuinfo)
    [[ $vendor == AuthenticAMD && $family == 26 ]] || return 1
    ((model < 48 || (model >= 64 && model < 80) || (model >= 96 && model < 128)))
}

cpu_name() { sed -n '/^model name/{s/.*: *//;p;q}' /proc/cpuinfo; }

# open_gate: on a CPU that is not Zen 5, say so and switch the shim's CPU gate off for what follows.
open_gate() {
    if [[ -z ${ZEN5TURBO_GATE:-} ]] && ! cpu_is_zen5; then
        say "note: this CPU ($(cpu_name)) is not AMD Zen 5; continuing with ZEN5TURBO_GATE=off"
        export ZEN5TURBO_GATE=off
    fi
}
