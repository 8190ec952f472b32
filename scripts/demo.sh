#!/usr/bin/env bash
# The main job in one command on a fresh machine: an unmodified llama.cpp on real weights, without and
# with libzen5turbo.so: the same text, how close the answers are, how fast, and what was taken over.
# usage: scripts/demo.sh      (DEMO_PAIRS=N interleaved measurements, default 6)
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

gemma=$DEPS/models/gemma-3-270m-q4_k_m.gguf
synth=$DEPS/models/synth-q4_k.gguf
lib=$BUILT/libzen5turbo.so
zen5turbo=$BUILT/zen5turbo
bin=$DEPS/llama.cpp/bin
threads=$(nproc)

"$ROOT/scripts/setup.sh" shim llama models
step "building libzen5turbo.so and the zen5turbo command (2 to 4 minutes on 2 cores)"
build_release shim cli
open_gate
work=$(mktemp -d "$DEPS/demo.XXXXXX")
trap 'rm -rf "$work"' EXIT

# text WHO: Gemma goes on from one prompt, greedily; the words as they came from WHO.
text() {
    say "--- $1"
    "${@:2}" "$bin/llama-completion" -m "$gemma" -p "The history of computing begins with" -n 48 \
        --temp 0 --seed 1 -no-cnv -t "$threads" 2>"$work/log" </dev/null || { tail -n 15 "$work/log"; die "llama-completion failed"; }
}
step "Gemma 3 270M, greedy, the same prompt (two paths of stock itself differ after some words: see the KL divergence)"
text "stock"
text "zen5turbo" env "LD_PRELOAD=$lib" "ZEN5TURBO_STATS=$work/stats.json"

step "what the shim took over in that run"
[[ -s $work/stats.json ]] || die "the shim wrote no statistics: it did not engage ($zen5turbo doctor $bin/llama-completion tells why)"
"$zen5turbo" stats "$work/stats.json"

step "distance of the answers on 8 x 512 tokens of English, against stock's default (about 1 minute)"
SHIM_LIB=$lib "$ROOT/scripts/kld.sh" "$gemma"

step "speed, ${DEMO_PAIRS:-6} interleaved pairs: Gemma 3 270M and the synthetic Q4_K model, $threads thread(s) (a few minutes)"
"$zen5turbo" ab --bin "$bin" --lib "$lib" --model "$gemma" --model "$synth" --pp 128 --tg 32 \
    --threads "$threads" --pairs "${DEMO_PAIRS:-6}"
