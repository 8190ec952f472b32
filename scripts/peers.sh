#!/usr/bin/env bash
# Speed beside the others, on the same model file and in one run: stock llama.cpp (--repack 0 and 1),
# the shim, and ik_llama.cpp; interleaved, medians with their spread. Leaves a dated record and a plot
# in bench/records/. See usage() or run it with --help.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'TEXT'
usage: scripts/peers.sh [OPTIONS] [MODEL.gguf...]
  --types T,T      synthetic models of these types, when no model is named (default: q4_k,q8_0)
  --kernels TIER   ZEN5TURBO_KERNELS of the shim's runs. With avx2 on a CPU that has AVX-512, stock and
                   the program under the shim are an AVX2 build as well: like is compared with like
  --bin DIR        llama.cpp programs for stock and shim (default: .deps/llama.cpp/bin)
  --stock-bin DIR  the same for stock, and without --bin for the shim
  --lib FILE       the shim library (default: built here)
  --pairs N        interleaved rounds (default 5; a claim needs that many)
  --threads N,N    (default: 1,2)
  --pp N, --tg N   prompt and generation lengths (default: 512 and 64)
  --ik-repack      ik_llama.cpp once more with its repacking at load
  --out DIR        where record and plot go (default: bench/records)
The machine should have nothing else to do. One model takes about 8 minutes with the defaults.
TEXT
}

types=q4_k,q8_0 kernels='' bin='' stock_bin='' lib='' out=$ROOT/bench/records
parse_options --types=types --kernels=kernels --bin=bin --stock-bin=stock_bin --lib=lib --pairs= --threads= --pp= --tg= \
    '--ik-repack!' --out=out WORDS -- "$@"
models=("${WORDS[@]}")

parts=(llama)
if [[ -z $bin$stock_bin ]]; then
    bin=$DEPS/llama.cpp/bin
    if [[ $kernels == avx2 ]] && cpu_has avx512f; then
        parts=(llama-avx2)
        bin=$DEPS/llama.cpp-avx2/bin
    fi
fi
"$ROOT/scripts/setup.sh" "${parts[@]}" peers
if ((${#models[@]} == 0)); then
    files=$(synthetic_models "$types")
    mapfile -t models <<<"$files"
fi
if [[ -z $lib ]]; then
    step "building libzen5turbo.so"
    build_release shim
    lib=$BUILT/libzen5turbo.so
fi
open_gate
[[ -z $kernels ]] || PASSED+=(--kernels "$kernels")

ik_version=$(sed -n 's/.* ik-llama-cpp-python==//p' "$ROOT/scripts/pypi.sha256")
exec python3 "$ROOT/bench/peers.py" --bin "${bin:-$stock_bin}" --stock-bin "${stock_bin:-$bin}" --lib "$lib" \
    --ik "$DEPS/ik_llama.cpp/ik_llama_cpp" --llama-version "$(llama_version)" --ik-version "$ik_version" \
    --shim-version "$(commit_name)" --out "$out" "${PASSED[@]}" "${models[@]}"
