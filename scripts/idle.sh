#!/usr/bin/env bash
# What the shim costs programs without ggml: starts, calls of the C library, whole programs; beside an A/A run.
# Leaves a dated record in bench/records. The machine should have nothing else to do; takes about 90 s.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() { say "usage: scripts/idle.sh [--rounds N] [--out DIR]      (default: 21 rounds, bench/records)"; }

rounds=21 out=$ROOT/bench/records
parse_options --rounds=rounds --out=out -- "$@"

build_release shim
exec python3 "$ROOT/bench/idle.py" --lib "$BUILT/libzen5turbo.so" --version "zen5turbo $(commit_name)" --rounds "$rounds" --out "$out"
