#!/usr/bin/env bash
# Writes docs/command.md from docs/command.md.in: what the zen5turbo command prints. See usage() or run it with --help.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'TEXT'
usage: scripts/command-docs.sh [--check | --record]
  (nothing)  writes docs/command.md, with the help texts of target/release/zen5turbo; COMMAND=FILE: of another one
  --check    writes nothing; exit status 1 where docs/command.md is not what the template and the command give
  --record   first records doctor, doctor-process, run-refused, setup-ollama, run-report, stats and top-once anew on this machine. Needs
             `scripts/setup.sh llama models`, root (for a file capability), and a machine with nothing else to do; 1 minute.
             SHIM_LIB=FILE records with another library
Lines of the template:
  @help WORDS      what `zen5turbo WORDS -h` prints, on every machine alike
  @recorded NAME   docs/command/NAME.txt but for its first line, which is the day; @date NAME in a line is that day
Recorded by hand, since they need a terminal, a container or an hour: doctor-all, top-screen, tune-table, bios-*.
TEXT
}

zen5turbo=${COMMAND:-$BUILT/zen5turbo}
recorded=$ROOT/docs/command
[[ -x $zen5turbo ]] || die "$zen5turbo is not there: cargo build --release"

# record NAME COMMAND...: the output, with the places of installed programs in place of ours. Its exit status does not matter.
record() {
    { date -u +%F && { "${@:2}" 2>&1 || true; } | sed -E "$places"; } >"$recorded/$1.txt"
}

record_all() {
    local bench=$DEPS/llama.cpp/bin/llama-bench model=$DEPS/models/gemma-3-270m-q4_k_m.gguf
    [[ -x $bench && -f $model ]] || die "no llama-bench or no model: scripts/setup.sh llama models"
    work=$(mktemp -d "$DEPS/docs.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    local lib=${SHIM_LIB:-${zen5turbo%/*}/libzen5turbo.so}
    places="s#$DEPS/llama.cpp/bin|$(dirname "$(readlink -f "$bench")")#/opt/llama.cpp#g; s#$lib#/opt/zen5turbo/libzen5turbo.so#g; s#$work#bin#g; s#[[:space:]]+\$##"
    # A file capability makes the loader drop LD_PRELOAD.
    cp "$bench" "$work/capable"
    setcap cap_ipc_lock+ep "$work/capable"
    open_gate
    record doctor "$zen5turbo" doctor --gate off "$bench"
    record run-refused "$zen5turbo" run -- "$work/capable"
    record setup-ollama "$zen5turbo" setup ollama-systemd --gate off
    record run-report "$zen5turbo" run --report -- "$bench" -m "$model" -p 512 -n 128 -r 2
    "$zen5turbo" run --stats "$work/stats.json" -- "$bench" -m "$model" -p 512 -n 128 -r 2 >"$work/log" 2>&1
    record stats "$zen5turbo" stats "$work/stats.json"
    "$zen5turbo" run -- "$bench" -m "$model" -p 0 -n 128 -r 20 >"$work/log" 2>&1 &
    local program=$!
    sleep 5
    record top-once "$zen5turbo" top --once
    record doctor-process "$zen5turbo" doctor "$program"
    # From the process on: the machine stands above.
    sed -i '2,/^process /{/^process /!d}' "$recorded/doctor-process.txt"
    kill "$program"
}

indented() { sed 's/^\(.\)/    \1/'; }

page() {
    local line name
    say '<!-- Written by scripts/command-docs.sh from docs/command.md.in: change that file. -->'
    while IFS= read -r line; do
        case $line in
        @help*)
            # shellcheck disable=SC2086 # words of a command
            "$zen5turbo" ${line#@help} -h | sed 's/[[:space:]]*$//' | indented
            ;;
        @recorded\ *) tail -n +2 "$recorded/${line#@recorded }.txt" | indented ;;
        *)
            while [[ $line =~ @date\ ([a-z-]+) ]]; do
                name=${BASH_REMATCH[1]}
                line=${line/"@date $name"/$(head -n 1 "$recorded/$name.txt")}
            done
            say "$line"
            ;;
        esac
    done <"$ROOT/docs/command.md.in"
}

case ${1:-} in
'') ;;
--check)
    page | diff "$ROOT/docs/command.md" - || die "docs/command.md is old: run scripts/command-docs.sh"
    exit
    ;;
--record) record_all ;;
-h | --help) usage && exit ;;
*) usage >&2 && die "unknown option: $1" ;;
esac
page >"$ROOT/docs/command.md.new"
mv "$ROOT/docs/command.md.new" "$ROOT/docs/command.md"
say "docs/command.md"
