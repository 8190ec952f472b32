#!/usr/bin/env bash
# How far the shim's answers are from stock's, beside how far two paths of stock itself are apart: the
# KL divergence of the next-token distributions on English text. Prints one line.
# usage: scripts/kld.sh MODEL      (SHIM_LIB=FILE tests another library, KLD_CHUNKS=N more text, KLD_ARGS="..." goes to
# llama-perplexity, such as "--override-kv gpt-oss.expert_used_count=int:32")
# KLD_F32=1 prints a second line: how far each of the three is from the same weights as F32, with F32 activations and KV cache.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

(($# == 1)) || die "usage: scripts/kld.sh MODEL"
model=$1
lib=$(readlink -f "${SHIM_LIB:-$BUILT/libzen5turbo.so}")
bin=$DEPS/llama.cpp/bin
source=$DEPS/llama.cpp/src
[[ -r $model ]] || die "no such model: $model"
[[ -r $lib ]] || die "no such library: $lib (build it: cargo build --release)"
[[ -x $bin/llama-perplexity ]] || die "llama.cpp is missing; run scripts/setup.sh llama"
open_gate >&2

work=$(mktemp -d "$DEPS/kld.XXXXXX")
trap 'rm -rf "$work"' EXIT
cat "$source"/{CONTRIBUTING,SECURITY,README}.md "$source"/docs/{build,speculative}.md >"$work/text"

read -ra more <<<"${KLD_ARGS:-}"

# perplexity NAME ARGS...: runs llama-perplexity on the text; its output goes to a log.
perplexity() {
    local log=$work/$1
    shift
    "$bin/llama-perplexity" -m "${weights:-$model}" "${more[@]}" -f "$work/text" -c 512 -t "$(nproc)" --chunks "${KLD_CHUNKS:-8}" \
        "$@" >"$log" 2>&1 </dev/null || { tail -n 15 "$log" >&2; die "llama-perplexity failed"; }
}

# figures NAME: "mean KLD, same top token" out of a log.
figures() {
    local mean top
    mean=$(sed -n 's/^Mean *KLD: *\([-0-9.e]*\).*/\1/p' "$work/$1")
    top=$(sed -n 's/^Same top p: *\([0-9.]*\).*/\1/p' "$work/$1")
    [[ -n $mean && -n $top ]] || die "llama-perplexity printed no KL divergence for $1"
    printf 'mean KLD %s, same top token %s %%' "$mean" "$top"
}

perplexity base --kl-divergence-base "$work/logits"
perplexity plain --kl-divergence-base "$work/logits" --kl-divergence --no-repack
LD_PRELOAD=$lib perplexity shim --kl-divergence-base "$work/logits" --kl-divergence
say "stock --no-repack: $(figures plain); zen5turbo: $(figures shim)"

[[ ${KLD_F32:-0} == 1 ]] || exit 0
"$bin/llama-quantize" --allow-requantize "$model" "$work/f32.gguf" F32 >"$work/quantize" 2>&1 ||
    { tail -n 15 "$work/quantize" >&2; die "llama-quantize failed"; }
weights=$work/f32.gguf perplexity base --kl-divergence-base "$work/logits" -ctk f32 -ctv f32 -fa off
rm "$work/f32.gguf"
perplexity repacked --kl-divergence-base "$work/logits" --kl-divergence
perplexity plain --kl-divergence-base "$work/logits" --kl-divergence --no-repack
LD_PRELOAD=$lib perplexity shim --kl-divergence-base "$work/logits" --kl-divergence
say "from F32: stock: $(figures repacked); stock --no-repack: $(figures plain); zen5turbo: $(figures shim)"
