#!/usr/bin/env bash
# Does `zen5turbo ab` keep its word on this machine? Many runs in which one arm is stock itself, where no difference may be
# claimed, and one is stock made slower by a known share, which must be found. Leaves a dated record in bench/records.
# usage: scripts/ab-check.sh [--runs N] [--percent N] [--max-pairs N] [--pp N] [--tg N] [--model FILE] [--out DIR]
# By default 20 runs of at most 24 pairs, as ab's own default is, 5 %, prompts of 16 tokens and no generation, SmolLM2 135M Q4_1,
# a type that llama.cpp does not repack. The machine should have nothing else to do. 20 minutes on a noisy machine, on which more
# pairs are needed to find 5 %.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

runs=20 percent=5 pairs=24 pp=16 tg=0 model=$DEPS/models/smollm2-135m-instruct-q4_1.gguf out=$ROOT/bench/records
while (($#)); do
    case $1 in
    --runs | --percent | --max-pairs | --pp | --tg | --model | --out) (($# > 1)) || die "$1 needs a value" ;;&
    --runs) runs=$2 ;;
    --percent) percent=$2 ;;
    --max-pairs) pairs=$2 ;;
    --pp) pp=$2 ;;
    --tg) tg=$2 ;;
    --model) model=$2 ;;
    --out) out=$2 ;;
    *) die "usage: scripts/ab-check.sh [--runs N] [--percent N] [--max-pairs N] [--pp N] [--tg N] [--model FILE] [--out DIR]" ;;
    esac
    shift 2
done

"$ROOT/scripts/setup.sh" shim llama models
cargo build --release --locked --quiet --manifest-path "$ROOT/Cargo.toml" -p zen5turbo-cli -p zen5turbo-shim
open_gate
commit=$(git -C "$ROOT" describe --always --dirty --exclude '*' 2>/dev/null || printf unknown)
exec python3 "$ROOT/bench/ab_check.py" --command "${CARGO_TARGET_DIR:-$ROOT/target}/release/zen5turbo" --bin "$DEPS/llama.cpp/bin" \
    --model "$model" --version "zen5turbo $commit" --runs "$runs" --percent "$percent" --max-pairs "$pairs" --pp "$pp" --tg "$tg" --out "$out"
