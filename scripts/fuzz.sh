#!/usr/bin/env bash
# Fuzzes with cargo-fuzz: all targets of fuzz/, or one, from the corpus that is kept.
# usage: scripts/fuzz.sh [TARGET|all] [RUNS]     RUNS: executions of each target, by default as many as RUNS below says
#        scripts/fuzz.sh minimise                 merges what was found (fuzz/work) into fuzz/corpus: as few inputs as reach the same code
# A finding ends the script; its input lies in fuzz/artifacts. The last lines are the executions of each target and their sum.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

VERSION=0.13.2 # of cargo-fuzz
# Executions by default: those that are cheap, those with files in memory, those with products. 10 million in all.
declare -A RUNS=([fake_root]=200000 [segment]=200000 [kernel_product]=150000 [kernel_quantise]=150000 [kernel_copy]=300000 [kernel_attention]=50000)
MOST=1125000
# Inputs longer than this teach nothing, and cost.
declare -A LENGTH=([elf]=4096 [fake_root]=2048 [kernel_product]=512 [kernel_quantise]=512 [kernel_copy]=256 [kernel_attention]=512)
BINARIES=$ROOT/fuzz/target/x86_64-unknown-linux-gnu/release

cd "$ROOT/fuzz"
if [[ $(cargo fuzz --version 2>/dev/null) != "cargo-fuzz $VERSION" ]]; then
    step "cargo-fuzz $VERSION"
    cargo install cargo-fuzz --version "$VERSION" --locked
fi
step "targets"
# Stable Rust, without a sanitizer: the kernels' operands lie against guard pages instead.
cargo fuzz build -s none --fuzz-dir . --features libfuzzer

mapfile -t targets < <(cd fuzz_targets && printf '%s\n' *.rs | sed 's/\.rs$//')
minimise() {
    local target
    for target in "${targets[@]}"; do
        mkdir -p "corpus/$target" "work/$target" && rm -rf "work/$target.min" && mkdir "work/$target.min"
        "$BINARIES/$target" -set_cover_merge=1 -use_counters=0 -max_len="${LENGTH[$target]:-1024}" "work/$target.min" "corpus/$target" "work/$target" 2>/dev/null
        rm -rf "corpus/$target" && mv "work/$target.min" "corpus/$target"
        say "$target: $(find "corpus/$target" -type f | wc -l) inputs, $(cat "corpus/$target"/* | wc -c) bytes"
    done
}

case ${1:-all} in
minimise)
    minimise
    exit
    ;;
all) ;;
*)
    [[ -f fuzz_targets/$1.rs ]] || die "found no target $1; expected one of: all minimise ${targets[*]}"
    targets=("$1")
    ;;
esac

sum=0
report=
for target in "${targets[@]}"; do
    step "$target"
    mkdir -p "corpus/$target" "work/$target" "artifacts/$target"
    log=work/$target.log
    "$BINARIES/$target" -runs="${2:-${RUNS[$target]:-$MOST}}" -max_len="${LENGTH[$target]:-1024}" -timeout=10 -rss_limit_mb=1024 \
        -close_fd_mask=1 -print_final_stats=1 -artifact_prefix="artifacts/$target/" "work/$target" "corpus/$target" 2>"$log" ||
        { tail -n 30 "$log" >&2 && die "$target found something: see fuzz/artifacts/$target"; }
    n=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    sum=$((sum + n))
    report+=$(printf '%-16s %9d' "$target" "$n")$'\n'
done
say "${report}$(printf '%-16s %9d' "executions" "$sum")"
