#!/usr/bin/env bash
# Does `zen5turbo ab` keep its word on this machine? Many runs in which one arm is stock itself, where no difference may be
# claimed, and one is stock made slower by a known share, which must be found. Leaves a dated record in bench/records.
# usage: scripts/ab-check.sh [--runs N] [--percent N] [--model FILE] [--out DIR]    (default: 20 runs, 5 %, SmolLM2 135M Q4_1,
# a type that llama.cpp does not repack; half an hour). The machine should have nothing else to do.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

runs=20 percent=5 model=$DEPS/models/smollm2-135m-instruct-q4_1.gguf out=$ROOT/bench/records
while (($#)); do
    case $1 in
    --runs | --percent | --model | --out) (($# > 1)) || die "$1 needs a value" ;;&
    --runs) runs=$2 ;;
    --percent) percent=$2 ;;
    --model) model=$2 ;;
    --out) out=$2 ;;
    *) die "usage: scripts/ab-check.sh [--runs N] [--percent N] [--model FILE] [--out DIR]" ;;
    esac
    shift 2
done

"$ROOT/scripts/setup.sh" shim llama models
cargo build --release --locked --quiet --manifest-path "$ROOT/Cargo.toml" -p zen5turbo-cli -p zen5turbo-shim
open_gate
commit=$(git -C "$ROOT" describe --always --dirty --exclude '*' 2>/dev/null || printf unknown)
exec python3 "$ROOT/bench/ab_check.py" --command "${CARGO_TARGET_DIR:-$ROOT/target}/release/zen5turbo" --bin "$DEPS/llama.cpp/bin" \
    --model "$model" --version "zen5turbo $commit" --runs "$runs" --percent "$percent" --out "$out"
