#!/usr/bin/env bash
# All tests in one command on a fresh machine; stops at the first stage that fails. The last line is cargo's own.
# usage: scripts/test.sh [fast]      fast: without llama.cpp, the whole-program tests and the emulator
# EMULATE=1: run the AVX-512 kernel tests on the emulator even where the CPU has AVX-512 VNNI
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

case ${1:-all} in
all) whole=1 total=10 ;;
fast) whole=0 total=7 ;;
*) die "usage: scripts/test.sh [fast]" ;;
esac
# Kernel tests for AVX-512 VNNI: among the others where this CPU runs them, and may not be skipped then; else on the emulator.
native=0
if [[ ${EMULATE:-0} != 1 ]] && cpu_has avx512f avx512bw avx512dq avx512vl avx512_vnni; then native=1; fi
emulated=$((whole && !native || ${EMULATE:-0} == 1))
total=$((total + emulated))
cd "$ROOT"

# stage TITLE COMMAND...: the title says how long everything before it took.
number=0
stage() {
    number=$((number + 1))
    step "[$number/$total, ${SECONDS} s so far] $1"
    "${@:2}" || die "stage $number/$total failed: $1"
}

formatted() { cargo fmt --all --check && cargo fmt --check --manifest-path fuzz/Cargo.toml; }
unit_tests() {
    cargo test --locked --release --workspace --exclude zen5turbo-tests --exclude zen5turbo-kernels &&
        ZEN5TURBO_REQUIRE_AVX512=$native cargo test --locked --release -p zen5turbo-kernels
}
# Static, since the emulator has no dynamic loader; one case per property, 2 to 4 minutes.
kernel_tests_emulated() {
    local target=x86_64-unknown-linux-gnu
    scripts/setup.sh emulator || return
    CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER=$DEPS/emulator/emulate \
        RUSTFLAGS="-C target-feature=+crt-static" ZEN5TURBO_REQUIRE_AVX512=1 ZEN5TURBO_TEST_CASES=1 \
        cargo test --locked --release --target "$target" --target-dir "${CARGO_TARGET_DIR:-target}/emulated" \
        -p zen5turbo-kernels --lib
}

if ((whole)); then
    stage "set-up: tools, llama.cpp, models" scripts/setup.sh all llama-dl builds containers vm preloads zig
else
    stage "set-up: tools" scripts/setup.sh shim
fi
stage "format" formatted
stage "clippy" cargo clippy --locked --workspace --all-targets -- -D warnings
stage "documentation" env RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --quiet
stage "release build" cargo build --locked --release --workspace
stage "unit and property tests" unit_tests
# Without cargo-fuzz: scripts/fuzz.sh fuzzes.
stage "fuzz targets on the inputs that are kept" cargo test --locked --manifest-path fuzz/Cargo.toml
if ((emulated)); then
    stage "kernel tests with AVX-512 VNNI, emulated" kernel_tests_emulated
fi
if ((whole)); then
    stage "what is shipped, against an old glibc" scripts/package.sh
    # One at a time: every one of them uses all cores, and ggml's spinning threads starve each other.
    stage "whole-program tests: build" cargo test --locked --release -p zen5turbo-tests --tests --no-run
    stage "whole-program tests" cargo test --locked --release -p zen5turbo-tests --tests --no-fail-fast -- --test-threads=1
fi
