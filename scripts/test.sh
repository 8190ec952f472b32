#!/usr/bin/env bash
# All tests in one command on a fresh machine; stops at the first stage that fails. At the end it lists what was skipped.
# usage: scripts/test.sh [fast|nightly]
#   fast      without llama.cpp, the whole-program tests and the emulator
#   nightly   also the tests that take long and guard little: those with #[ignore = "nightly"]
# EMULATE=1: run the AVX-512 kernel tests on the emulator even where the CPU has AVX-512 VNNI
# ZEN5TURBO_REQUIRE=avx512,cgroup,...: what this machine has; a test that would be skipped for want of it fails instead. The names
#   are in tests/skip/src/lib.rs; `all` is all of them. AVX-512 VNNI is required wherever /proc/cpuinfo has it.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

whole=1 total=9 more=()
case ${1:-all} in
all) ;;
nightly) more=(--include-ignored) ;;
fast) whole=0 total=7 ;;
*) die "usage: scripts/test.sh [fast|nightly]" ;;
esac
# Kernel tests for AVX-512 VNNI: among the others where this CPU runs them, and may not be skipped then; else on the emulator.
native=0
if [[ ${EMULATE:-0} != 1 ]] && cpu_has avx512f avx512bw avx512dq avx512vl avx512_vnni; then
    native=1
    export ZEN5TURBO_REQUIRE=${ZEN5TURBO_REQUIRE:+$ZEN5TURBO_REQUIRE,}avx512
fi
emulated=$((whole && !native || ${EMULATE:-0} == 1))
total=$((total + emulated))
cd "$ROOT"

# Each test that is skipped adds a line.
ZEN5TURBO_SKIPPED=$(mktemp)
export ZEN5TURBO_SKIPPED

# stage TITLE COMMAND...: the title says how long everything before it took.
number=0
stage() {
    number=$((number + 1))
    step "[$number/$total, ${SECONDS} s so far] $1"
    "${@:2}" || die "stage $number/$total failed: $1"
}

# What runs beside a stage, with its output in a file until it is finished: a compiler that optimises a whole library has work for one
# CPU, and so has an emulated machine.
work=$(mktemp -d)
beside=0
end_beside() { ((!beside)) || kill -- "-$beside" 2>/dev/null || true; }
trap 'end_beside; rm -rf "$ZEN5TURBO_SKIPPED" "$work"' EXIT
# beside COMMAND...: starts a command, one at a time, in a session of its own, so that it is ended with all that it has started.
beside() {
    setsid "$@" >"$work/beside" 2>&1 </dev/null &
    beside=$!
}
# finished: waits for it, says what it said, and has its status.
finished() {
    local status=0
    wait "$beside" || status=$?
    beside=0
    cat "$work/beside"
    return "$status"
}

# One profile for lints, documentation and tests, and one choice of packages, so that dependencies are compiled once.
packages=(--locked --profile checks --workspace)
((whole)) || packages+=(--exclude zen5turbo-tests)
# test_options FILE...: the option --test for each of these files.
test_options() { basename -s .rs "$@" | sed 's/^/--test=/'; }
mapfile -t unit < <(test_options src/*/tests/*.rs bench/tests/*.rs)
mapfile -t whole_program < <(test_options tests/*.rs)

formatted() { cargo fmt --all --check && cargo fmt --check --manifest-path fuzz/Cargo.toml; }
unit_tests() { cargo test "${packages[@]}" --lib --bins "${unit[@]}" && cargo test "${packages[@]}" --doc; }
# Without cargo-fuzz: scripts/fuzz.sh fuzzes.
fuzz_targets() {
    cargo test --locked --profile checks --manifest-path fuzz/Cargo.toml --target-dir "${CARGO_TARGET_DIR:-target}"
}
# Static, since the emulator has no dynamic loader; one case per property, 2 to 4 minutes.
kernel_tests_emulated() {
    local target=x86_64-unknown-linux-gnu
    scripts/setup.sh emulator || return
    CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER=$DEPS/emulator/emulate \
        RUSTFLAGS="-C target-feature=+crt-static" ZEN5TURBO_REQUIRE=avx512 ZEN5TURBO_TEST_CASES=1 \
        cargo test --locked --release --target "$target" --target-dir "${CARGO_TARGET_DIR:-target}/emulated" \
        -p zen5turbo-kernels --lib
}
# whole_programs OPTION...: the command that runs these files. One test at a time: nearly all of them use all cores, and ggml's spinning
# threads starve each other.
whole_programs() { command=(env ZEN5TURBO_SHIPPED=1 cargo test "${packages[@]}" "$@" --no-fail-fast -- --test-threads=1 "${more[@]}"); }
whole_program_tests() {
    local command odd=() even=() others=() status=0 option
    for option in "${whole_program[@]}"; do
        if [[ $option != *_guest ]]; then
            others+=("$option")
        elif ((${#odd[@]} > ${#even[@]})); then
            even+=("$option")
        else
            odd+=("$option")
        fi
    done
    # Emulated machines, two at a time: in most of them one thread computes.
    whole_programs "${odd[@]}"
    beside "${command[@]}"
    whole_programs "${even[@]}"
    "${command[@]}" || status=1
    finished || status=1
    whole_programs "${others[@]}"
    "${command[@]}" || status=1
    return "$status"
}

if ((whole)); then
    stage "set-up: tools, llama.cpp, models" scripts/setup.sh all llama-dl builds containers published vm preloads zig
else
    stage "set-up: tools" scripts/setup.sh shim
fi
# The only build in the release profile: the whole-program tests run its library and its command.
((!whole)) || beside scripts/package.sh
stage "format" formatted
stage "clippy" cargo clippy "${packages[@]}" --all-targets -- -D warnings
stage "documentation" env RUSTDOCFLAGS="-D warnings" cargo doc "${packages[@]}" --no-deps --quiet
stage "tests: build" cargo build "${packages[@]}" --lib --bins --tests --examples
stage "unit and property tests" unit_tests
stage "fuzz targets on the inputs that are kept" fuzz_targets
if ((emulated)); then
    stage "kernel tests with AVX-512 VNNI, emulated" kernel_tests_emulated
fi
if ((whole)); then
    stage "what is shipped, against an old glibc, built meanwhile" finished
    stage "whole-program tests" whole_program_tests
fi

tests=$(cut -d ' ' -f 1 "$ZEN5TURBO_SKIPPED" | sort -u | wc -l)
step "passed in $SECONDS s; skipped, or not run in full, for want of what this machine lacks: $tests tests"
sort -u "$ZEN5TURBO_SKIPPED" | sed 's/^/skipped: /'
