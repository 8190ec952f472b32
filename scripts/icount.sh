#!/usr/bin/env bash
# Instructions per 64 multiply-adds of one product: our kernels against upstream ggml. See usage().
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'TEXT'
usage: scripts/icount.sh [--isa ISA] [--path PATH] [--n LIST] [TYPE ...]       e.g. scripts/icount.sh --n 1,64 q4_K

Counts what one matrix product on one thread executes, quantising the activations and packing the
weights included, for M = 128 rows, K = 2048 and N = 1, 4, 16, 64, 512 columns (q4_K and q8_0 also with
K = 4096), and the same with upstream ggml built for AVX-512 VNNI, with its weights plain and in a
CPU_REPACK buffer. All run on the emulator, so any x86-64 machine gives the same numbers. Set-up cancels:
a count is half the difference of 3 repetitions and 1. An instruction with a REP prefix counts once.

  --isa ISA   our tier: avx512vnni (default), avx512vnni-256 or avx2
  --path PATH split (default): kernels for CPUs that compute 512-bit operations in halves, with tiles of 16
              rows by 8 columns, as in the record; full: those for CPUs that compute them at once, with tiles
              of 32 rows by 6 columns, which have more instructions by design, because fewer of them load
  --n LIST    columns, separated by commas
  TYPE        weight types (default: all that have a kernel)

Prints a line per case, instructions per 64 multiply-adds and the ratio to the better of upstream's two:
  TYPE N OURS UPSTREAM_PLAIN UPSTREAM_REPACKED RATIO
writes them to bench/records/DATE-icount.csv (with --isa: DATE-icount-ISA.csv, with --path full:
DATE-icount-full.csv; a run for some types replaces their lines) and the same as a table beside it, .md. Upstream's counts are kept in .deps.
TEXT
}

ISA=avx512vnni
DATA_PATH='split'
COLUMNS_LIST=1,4,16,64,512
parse_options --isa=ISA --path=DATA_PATH --n=COLUMNS_LIST WORDS -- "$@"
TYPES=("${WORDS[@]}")
case $ISA in avx512vnni | avx512vnni-256 | avx2) ;; *) die "no tier is called $ISA; try avx512vnni, avx512vnni-256 or avx2" ;; esac
case $DATA_PATH in split | full) ;; *) die "no data path is called $DATA_PATH; try split or full" ;; esac
[[ $COLUMNS_LIST =~ ^[1-9][0-9]*(,[1-9][0-9]*)*$ ]] || die "--n wants numbers separated by commas, not $COLUMNS_LIST"
IFS=, read -ra COLUMNS_WANTED <<<"$COLUMNS_LIST"

M=128
cd "$ROOT"

# ---- the two programs ------------------------------------------------------------------------------

scripts/setup.sh emulator upstream-avx512 >&2
EMULATE=$DEPS/emulator/emulate

target=x86_64-unknown-linux-gnu
OURS=${CARGO_TARGET_DIR:-$ROOT/target}/static/$target/release/examples/one_product
RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --release --quiet -p zen5turbo-kernels \
    --example one_product --target "$target" --target-dir "${OURS%/"$target"/*}" >&2

# Upstream's program and its counts depend on nothing but this.
upstream=$(readlink -f "$DEPS/upstream-avx512")
cache=$(readlink -f "$DEPS/store")/icount-$(short_hash "${upstream##*/}" "$(<bench/icount/upstream_mm.cpp)")
UPSTREAM=$cache/upstream_mm
mkdir -p "$cache"
if [[ ! -x $UPSTREAM ]]; then
    g++ -O2 -static -I "$upstream/include" -o "$UPSTREAM.part" bench/icount/upstream_mm.cpp \
        "$upstream"/lib/libggml.a "$upstream"/lib/libggml-cpu.a "$upstream"/lib/libggml-base.a -lpthread
    mv "$UPSTREAM.part" "$UPSTREAM"
fi

mapfile -t KNOWN < <("$EMULATE" "$OURS" --list)
((${#TYPES[@]})) || TYPES=("${KNOWN[@]}")
for i in "${!TYPES[@]}"; do
    for known in "${KNOWN[@]}"; do
        [[ ${TYPES[i],,} != "${known,,}" ]] || TYPES[i]=$known
    done
    [[ " ${KNOWN[*]} " == *" ${TYPES[i]} "* ]] || die "there is no kernel for ${TYPES[i]}; the types are ${KNOWN[*]}"
done

# ---- counting --------------------------------------------------------------------------------------

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# executed FILE COMMAND...: the number of instructions of a whole run, on standard output; its text to FILE.
executed() {
    local out=$1 status=0
    shift
    "$EMULATE" --count "$@" >"$out" 2>"$out.err" || status=$?
    ((status == 0)) || return "$status"
    sed -n 's/^instructions //p' "$out.err"
}

# per_64 M K N REPS1 REPS3: instructions of one repetition per 64 multiply-adds.
per_64() { awk -v m="$1" -v k="$2" -v n="$3" -v a="$4" -v b="$5" 'BEGIN { printf "%.3f", (b - a) / 2 / (m * k * n / 64) }'; }

# repetition FILE M K N PROGRAM ARGS...: writes `FIGURE SUM` or `- -` (no such layout) to FILE.
repetition() {
    local file=$1 m=$2 k=$3 n=$4 out one three status=0
    out=$(mktemp -p "$work")
    shift 4
    one=$(executed "$out" "$@" "$m" "$k" "$n" 1) || status=$?
    if ((status == 3)); then
        echo "- -" >"$file"
        return
    fi
    ((status == 0)) || { cat "$out.err" >&2 && die "$* $m $k $n ended with status $status"; }
    three=$(executed "$out" "$@" "$m" "$k" "$n" 3) || die "$* $m $k $n 3 failed"
    echo "$(per_64 "$m" "$k" "$n" "$one" "$three") $(sed -n 's/.*sum //p' "$out")" >"$file.part"
    mv "$file.part" "$file"
}

# The jobs: our file name is the case, upstream's has its layout and stays in the cache.
cases=()
jobs=()
for type in "${TYPES[@]}"; do
    for k in 2048 4096; do
        [[ $k == 2048 || $type == q4_K || $type == q8_0 ]] || continue
        for n in "${COLUMNS_WANTED[@]}"; do
            cases+=("$type $k $n")
            jobs+=("$work/$type-$k-$n $M $k $n $OURS --path $DATA_PATH $ISA $type")
            for layout in plain repack; do
                file=$cache/$type-$k-$n-$layout
                [[ -e $file ]] || jobs+=("$file $M $k $n $UPSTREAM $layout $type")
            done
        done
    done
done

export -f repetition executed per_64 die
export EMULATE work
step "counting ${#cases[@]} cases (${#jobs[@]} to run)" >&2
# shellcheck disable=SC2016 # the inner shell expands them
printf '%s\n' "${jobs[@]}" |
    xargs -P "$(nproc)" -L 1 bash -c 'set -euo pipefail; file=$1 m=$2 k=$3 n=$4; shift 4
        repetition "$file" "$m" "$k" "$n" "$@"' _ || die "a count failed"

# ---- the result ------------------------------------------------------------------------------------

# Case by case: `TYPE K N OURS PLAIN REPACKED RATIO`; the sums of the results must agree.
for c in "${cases[@]}"; do
    read -r type k n <<<"$c"
    echo "$c $(<"$work/$type-$k-$n") $(<"$cache/$type-$k-$n-plain") $(<"$cache/$type-$k-$n-repack")"
done | awk '
    function far(a, b) { return b != "-" && (a - b > 1e-3 * b || b - a > 1e-3 * b) }
    far($5, $7) || far($5, $9) {
        print "error: " $1 ", N = " $3 ": the results differ: ours " $5 ", upstream " $7 ", " $9 > "/dev/stderr"
        exit 1
    }
    {
        best = $8 != "-" && $8 < $6 ? $8 : $6
        printf "%s %d %d %.2f %.2f %s %.3f\n", tolower($1), $2, $3, $4, $6, $8 == "-" ? "-" : sprintf("%.2f", $8), $4 / best
    }' >"$work/result"

# The lines that issue and tests know are those of K = 2048; the others say so.
awk '$2 == 2048 { print $1, $3, $4, $5, $6, $7 }' "$work/result"
awk '$2 != 2048 { print "# K = " $2 ": " $1, $3, $4, $5, $6, $7 }' "$work/result"

suffix=
[[ $ISA == avx512vnni ]] || suffix=-$ISA
[[ $DATA_PATH == split ]] || suffix+=-$DATA_PATH
record=bench/records/$(date +%F)-icount$suffix
mkdir -p bench/records
[[ ! -e $record.csv ]] || sed 1d "$record.csv" | tr , ' ' >"$work/before"
touch "$work/before"
{
    echo type,k,n,ours,upstream_plain,upstream_repacked,ratio
    awk 'NR == FNR { new[$1, $2, $3] = 1; print; next } !(($1, $2, $3) in new)' "$work/result" "$work/before" |
        sort -k1,1 -k2,2n -k3,3n | tr ' ' ,
} >"$work/csv"
mv "$work/csv" "$record.csv"
{
    echo "# Instructions per 64 multiply-adds, $(date +%F)"
    echo
    echo "Counted on the emulator by \`scripts/icount.sh\`: one thread, M = $M, tier $ISA, data path $DATA_PATH, at commit"
    echo "$(git rev-parse --short HEAD 2>/dev/null || echo unknown)$(git diff --quiet HEAD -- src/kernels 2>/dev/null || echo ' with changes'), ggml of ${upstream##*/} (AVX-512 VNNI, VBMI, BF16)."
    echo "\`ratio\` is ours over the better of upstream's two layouts."
    if [[ $ISA == avx512vnni ]]; then
        echo "A \`vpdpbusd\` is 64 multiply-adds: where quantised weights go through panels (N = 16 and more), it is"
        echo "one instruction in each 64, and its share of all is 1 / ours."
    fi
    echo
    echo "| type | K | N | ours | upstream plain | upstream repacked | ratio |"
    echo "|---|---:|---:|---:|---:|---:|---:|"
    sed '1d; s/,/ | /g; s/.*/| & |/' "$record.csv"
} >"$record.md"
say "written: $record.csv, $record.md" >&2
