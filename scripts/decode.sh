#!/usr/bin/env bash
# Token generation, stock against the shim with and without huge pages, beside the machine's streaming rate;
# interleaved. Leaves a dated record in bench/records. See usage() or run it with --help.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'TEXT'
usage: scripts/decode.sh [OPTIONS] [MODEL.gguf...]
  --types T,T        synthetic models of these types, when no model is named (default: q4_k,q6_k,q8_0)
  --kernels TIER     ZEN5TURBO_KERNELS of the shim's runs
  --pairs N          interleaved rounds (default 5; a claim needs that many)
  --repetitions N    generations of each process; the first is kept apart (default 4)
  --threads N,N      (default: 1,2)
  --tg N             tokens of each generation (default 64)
  --out DIR          where the record goes (default: bench/records)
The machine should have nothing else to do. One model takes about 5 minutes with the defaults.
TEXT
}

types=q4_k,q6_k,q8_0 out=$ROOT/bench/records
parse_options --types=types --kernels= --pairs= --repetitions= --threads= --tg= --out=out WORDS -- "$@"
models=("${WORDS[@]}")

"$ROOT/scripts/setup.sh" llama
if ((${#models[@]} == 0)); then
    files=$(synthetic_models "$types")
    mapfile -t models <<<"$files"
fi
step "building libzen5turbo.so and the streaming bench"
build_release shim bench
open_gate

exec python3 "$ROOT/bench/decode.py" --bin "$DEPS/llama.cpp/bin" --lib "$BUILT/libzen5turbo.so" \
    --streams "$BUILT/streams" --llama-version "$(llama_version)" --shim-version "$(commit_name)" --out "$out" \
    "${PASSED[@]}" "${models[@]}"
