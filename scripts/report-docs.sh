#!/usr/bin/env bash
# Writes docs/report.html and docs/report.md from bench/records. See usage() or run it with --help.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'TEXT'
usage: scripts/report-docs.sh [--check]
  (nothing)  writes docs/report.html and docs/report.md, with target/release/zen5turbo; COMMAND=FILE: with another one
  --check    writes nothing; exit status 1 where they are not what the command makes of bench/records
TEXT
}

zen5turbo=${COMMAND:-$BUILT/zen5turbo}
[[ -x $zen5turbo ]] || die "$zen5turbo is not there: cargo build --release"
zen5turbo=$(readlink -f "$zen5turbo")

# The pages name the records as they are named from here.
cd "$ROOT"
page() { "$zen5turbo" report bench/records --format "$1"; }

case ${1:-} in
'')
    for format in html:html markdown:md; do
        page "${format%:*}" >"docs/report.${format#*:}.new"
        mv "docs/report.${format#*:}.new" "docs/report.${format#*:}"
        say "docs/report.${format#*:}"
    done
    ;;
--check)
    for format in html:html markdown:md; do
        page "${format%:*}" | cmp -s - "docs/report.${format#*:}" || die "docs/report.${format#*:} is old: run scripts/report-docs.sh"
    done
    ;;
-h | --help) usage ;;
*) usage >&2 && die "unknown option: $1" ;;
esac
