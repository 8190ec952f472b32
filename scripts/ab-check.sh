#!/usr/bin/env bash
# Does `zen5turbo ab` keep its word on this machine? Many runs in which one arm is stock itself, where no difference may be
# claimed, and one is stock made slower by a known share, which must be found. Leaves a dated record in bench/records.
# By default 20 runs of at most 24 pairs, as ab's own default is, 5 %, prompts of 16 tokens and no generation, SmolLM2 135M Q4_1,
# a type that llama.cpp does not repack. The machine should have nothing else to do. 20 minutes on a noisy machine, on which more
# pairs are needed to find 5 %.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() { say "usage: scripts/ab-check.sh [--runs N] [--percent N] [--max-pairs N] [--pp N] [--tg N] [--model FILE] [--out DIR]"; }

runs=20 percent=5 pairs=24 pp=16 tg=0 model=$DEPS/models/smollm2-135m-instruct-q4_1.gguf out=$ROOT/bench/records
parse_options --runs=runs --percent=percent --max-pairs=pairs --pp=pp --tg=tg --model=model --out=out -- "$@"

"$ROOT/scripts/setup.sh" shim llama models
build_release cli shim
open_gate
exec python3 "$ROOT/bench/ab_check.py" --command "$BUILT/zen5turbo" --bin "$DEPS/llama.cpp/bin" \
    --model "$model" --version "zen5turbo $(commit_name)" --runs "$runs" --percent "$percent" --max-pairs "$pairs" --pp "$pp" --tg "$tg" --out "$out"
