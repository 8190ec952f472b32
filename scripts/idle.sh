#!/usr/bin/env bash
# What the shim costs programs without ggml: starts, calls of the C library, whole programs; beside an A/A run.
# Leaves a dated record in bench/records. The machine should have nothing else to do; takes about 90 s.
# usage: scripts/idle.sh [--rounds N] [--out DIR]      (default: 21 rounds, bench/records)
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

rounds=21 out=$ROOT/bench/records
while (($#)); do
    case $1 in
    --rounds | --out) (($# > 1)) || die "$1 needs a value" ;;&
    --rounds) rounds=$2 ;;
    --out) out=$2 ;;
    *) die "usage: scripts/idle.sh [--rounds N] [--out DIR]" ;;
    esac
    shift 2
done

cargo build --release --locked --quiet --manifest-path "$ROOT/Cargo.toml" -p zen5turbo-shim
commit=$(git -C "$ROOT" describe --always --dirty --exclude '*' 2>/dev/null || printf unknown)
exec python3 "$ROOT/bench/idle.py" --lib "${CARGO_TARGET_DIR:-$ROOT/target}/release/libzen5turbo.so" \
    --version "zen5turbo $commit" --rounds "$rounds" --out "$out"
