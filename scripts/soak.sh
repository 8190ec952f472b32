#!/usr/bin/env bash
# llama-server under the shim and under load, for hours: do answers, memory, descriptors or mappings drift?
# See usage() or run it with --help.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'TEXT'
usage: scripts/soak.sh [DURATION] [OPTIONS]
  DURATION           24h by default; 30m for every night; scripts/test.sh nightly does it for two minutes
  --out DIR          report.jsonl (a line a minute), summary.json and logs (default: target/soak/UTC-TIME)
  --model FILE       (default: SmolLM2 135M of scripts/setup.sh models)
Other options go to the program: --context, --slots, --clients, --threads, --seed, --stock (without the shim).
Exit status 0 when nothing was found; else 1 and one line that says what was found and what was expected.
TEXT
}

out=$ROOT/target/soak/$(date -u +%Y%m%dT%H%M%SZ) model=$DEPS/models/smollm2-135m-instruct-q4_1.gguf
parse_options --out=out --model=model --context= --slots= --clients= --threads= --seed= '--stock!' WORDS -- "$@"
((${#WORDS[@]} <= 1)) || die "one duration is enough; found: ${WORDS[*]}"
duration=${WORDS[0]:-24h}
[[ -x $DEPS/llama.cpp/bin/llama-server ]] || die "llama.cpp is missing; run scripts/setup.sh llama"
[[ -r $model ]] || die "no such model: $model; run scripts/setup.sh models"
model=$(readlink -f "$model") out=$(readlink -m "$out")
cd "$ROOT"
cargo build --release --locked --quiet -p zen5turbo-shim -p zen5turbo-tests --lib --bin soak
exec "$BUILT/soak" --duration "$duration" --out "$out" --model "$model" "${PASSED[@]}"
