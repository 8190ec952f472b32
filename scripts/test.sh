#!/usr/bin/env bash
# All tests in one command on a fresh machine; stops at the first failure. The last line is cargo's own.
# usage: scripts/test.sh [fast]      fast: without llama.cpp and the whole-program tests
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

case ${1:-all} in
all) whole=1 total=8 ;;
fast) whole=0 total=6 ;;
*) die "usage: scripts/test.sh [fast]" ;;
esac
cd "$ROOT"

# stage TITLE COMMAND...: the title says how long everything before it took.
number=0
stage() {
    number=$((number + 1))
    step "[$number/$total, ${SECONDS} s so far] $1"
    "${@:2}" || die "stage $number/$total failed: $1"
}

if ((whole)); then
    stage "set-up: tools, llama.cpp, models" scripts/setup.sh all llama-dl
else
    stage "set-up: tools" scripts/setup.sh shim
fi
stage "format" cargo fmt --all --check
stage "clippy" cargo clippy --locked --workspace --all-targets -- -D warnings
stage "documentation" env RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --quiet
stage "release build" cargo build --locked --release --workspace
stage "unit and property tests" cargo test --locked --release --workspace --exclude zen5turbo-tests
if ((whole)); then
    # One at a time: every one of them uses all cores, and ggml's spinning threads starve each other.
    stage "whole-program tests: build" cargo test --locked --release -p zen5turbo-tests --tests --no-run
    stage "whole-program tests" cargo test --locked --release -p zen5turbo-tests --tests -- --test-threads=1
fi
