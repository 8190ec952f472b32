#!/usr/bin/env bash
# Measures everything in one command and leaves one dated folder in bench/records. See usage() or run it with --help.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'TEXT'
usage: scripts/record.sh [--quick] [--out DIR]
  --quick     about 4 minutes: fewer types, columns, models and rounds; for a first look, no claim
  --out DIR   where the folder goes (default: bench/records)
Writes DIR/DATE-CPU with streaming rates, kernels alone (products), our kernels against ggml's plain and repacked ones
(tune), whole programs (ab) on two synthetic models and Gemma 3 270M, and the machine's settings (bios record). Under 25
minutes on two cores; what does not fit is left out and named. The machine should have nothing else to do: beside other load steps end at their limits.
TEXT
}

quick='' out=$ROOT/bench/records
parse_options '--quick!quick' --out=out -- "$@"

threads=$(nproc)
many=$([[ $threads == 1 ]] && echo 1 || echo "1,$threads")
if [[ $quick ]]; then
    budget=270
    best=$(cpu_has avx512_vnni && echo avx512vnni || echo avx2)
    products=(--isa "$best" --types "q4_K,q8_0,q6_K,f16" --columns "1,4,16,512" --turns 5)
    tune=(--types "q4_K,q4_0")
    models=(gemma-3-270m-q4_k_m synth-q4_k)
    ab=(--pp 128 --tg 32 --threads "$threads" --pairs 6 --no-load)
    bios=(--rounds 4)
else
    budget=1470
    products=(--columns "1,2,4,8,16,64,512")
    tune=()
    models=(synth-q4_k gemma-3-270m-q4_k_m synth-q8_0)
    ab=(--pp 512 --tg 64 --threads "$many" --pairs 6 --no-load)
    bios=()
fi

"$ROOT/scripts/setup.sh" shim llama models
step "building the library, the command and the benches"
build_release shim cli bench
open_gate
lib=$BUILT/libzen5turbo.so
bin=$DEPS/llama.cpp/bin
without_settings
export ZEN5TURBO_TUNE=off

cpu=$(cpu_name | tr '[:upper:]' '[:lower:]' | sed 's/[^a-z0-9]\+/-/g; s/-[0-9]*-core-processor.*//; s/^-\|-$//g')
# Two generations of servers can have one brand.
name=$(date -u +%F)-$cpu-family$(cpuinfo 'cpu family')-model$(cpuinfo model)${quick:+-quick}
mkdir -p "$out"
folder=$out/$name
for ((n = 2; ; n++)); do
    mkdir "$folder" 2>/dev/null && break
    [[ -e $folder ]] || die "cannot make $folder; expected a folder that can be written: name one with --out"
    folder=$out/$name-$n
done

skipped=()
SECONDS=0
left() { echo $((budget - SECONDS)); }
# note_file: what the folder holds, and whether it is complete.
note_file() {
    {
        say "# $(cpu_name), $(date -u +%F)"
        say ''
        say "By \`scripts/record.sh${quick:+ --quick}\`, zen5turbo $(commit_name), $1."
        # shellcheck disable=SC2016 # Markdown
        say 'Only figures of one file compare; the files are explained in `bench/records/README.md`.'
        ((${#skipped[@]} == 0)) || printf '%s\n' '' 'Left out:' "${skipped[@]/#/- }"
    } >"$folder/README.md"
}
note_file 'unfinished: interrupted, or still running'
trap 'say "interrupted: what was measured is in $folder"; exit 130' INT TERM

# strip FILE: no paths of this machine, no builder of its kernel.
strip() { sed -i "s|$folder/||g; s|$ROOT/||g; s|${HOME:-/nowhere}|~|g; s|$(uname -r)|$(uname -r | sed 's/-.*//')|g" "$1"; }

# measure NAME SECONDS WHAT COMMAND...: says what it does, shows and keeps what COMMAND prints in NAME.txt; ends it after so many
# seconds, or when the whole time is used up.
measure() {
    local file=$folder/$1.txt limit=$2 what=$3 status=0 start=$SECONDS
    shift 3
    limit=$(($(left) < limit ? $(left) : limit))
    if ((limit < 10)); then
        say "skipped, no time is left: $what"
        skipped+=("$what: no time was left")
        return
    fi
    step "$what (at most $limit s; $(left) s are left for everything)"
    timeout --foreground --signal=INT --kill-after=10 "$limit" "$@" >"$file" 2>"$folder/.errors" || status=$?
    strip "$file"
    cat "$file"
    if ((status == 124 || status == 137)); then
        skipped+=("$what: stopped after $limit s; raw values up to then are kept where there is a .csv")
    elif ((status)); then
        tail -n 3 "$folder/.errors"
        skipped+=("$what: failed (status $status): $(tail -n 1 "$folder/.errors" | sed "s|$ROOT/||g")")
    fi
    rm -f "$folder/.errors"
    say "    took $((SECONDS - start)) s"
}

# machine: what the figures depend on. No host name, no path.
machine() {
    say "cpu: $(cpu_name), family $(cpuinfo 'cpu family'), model $(cpuinfo model), stepping $(cpuinfo stepping)"
    say "cpus: $threads; kernel: $(uname -sr | sed "s/-.*//"); load average before: $(cut -d' ' -f1-3 /proc/loadavg)"
    say "memory: $(sed -n 's/^MemTotal: *//p' /proc/meminfo); transparent huge pages: $(sed 's/.*\[\(.*\)\].*/\1/' /sys/kernel/mm/transparent_hugepage/enabled 2>/dev/null || echo unknown)"
    say "caches of CPU 0: $(cat /sys/devices/system/cpu/cpu0/cache/index*/size 2>/dev/null | tr '\n' ' ')"
    say "llama.cpp: $(llama_version)"
}
machine | tee "$folder/machine.txt"

measure streams 30 "streaming reads by kind of pages and threads" "$BUILT/streams" --threads "$many"
measure products $((quick ? 45 : 300)) "kernels alone, one thread, weights from memory" \
    "$BUILT/products" "${products[@]}" --csv "$folder/products.csv"
measure bios $((quick ? 40 : 90)) "settings, bandwidth, latencies and clocks" \
    "$BUILT/zen5turbo" bios record --label "$name" --dir "$folder/bios" "${bios[@]}"
measure tune $((quick ? 75 : 180)) "our kernels against ggml's plain and repacked ones" \
    "$BUILT/zen5turbo" tune --lib "$lib" --bin "$bin" --out "$folder/tune-file.txt" --jsonl "$folder/tune.jsonl" "${tune[@]}"
for ((i = 0; i < ${#models[@]}; i++)); do
    model=${models[i]}
    # What is left is shared by the models that are left.
    measure "ab-$model" $(($(left) / (${#models[@]} - i))) "whole programs: $model" \
        "$BUILT/zen5turbo" ab --bin "$bin" --lib "$lib" --model "$DEPS/models/$model.gguf" \
        --csv "$folder/ab.csv" "${ab[@]}"
done
[[ ! $quick ]] || skipped+=("synth-q8_0, the other types, one thread, long prompts: left out by --quick")

# Who built the kernel, and what it was started with, may name the place where the machine stands.
for file in "$folder"/*.csv "$folder"/*.jsonl; do [[ ! -f $file ]] || strip "$file"; done
for file in "$folder"/bios.txt "$folder"/bios/*.json; do
    [[ -f $file ]] || continue
    strip "$file"
    sed -i -E '/kernel.command_line/{s/(kernel.command_line +).*/\1(left out)/;n;s/("value": ").*"/\1(left out)"/}' "$file"
    sed -i -E '/kernel.release/{s/(kernel.release +[0-9.]+).*/\1/;n;s/("value": "[0-9.]+).*"/\1"/}' "$file"
done
note_file "$( ((${#skipped[@]})) && echo 'with parts left out' || echo complete), $SECONDS s"
chmod -R u=rwX,go=rX "$folder"
step "done in $SECONDS s: ${folder#"$ROOT"/}"
say "what to look at:"
say "  tune.txt      a cell below 1 marked stock or repacked: ggml is faster there"
say "  ab-*.txt      pp and tg over the better of stock's two layouts; beside them, what stock shows against itself"
say "  products.txt  'peak': the share of the multipliers with many columns, of the streaming rate with one"
say "  streams.txt   the streaming rate that the shares refer to; bios/ for zen5turbo bios compare"
grep -hE 'repacked kernels are faster' "$folder/tune.txt" 2>/dev/null | sed 's/^/  /' || true
((${#skipped[@]} == 0)) || printf '  left out: %s\n' "${skipped[@]}"
