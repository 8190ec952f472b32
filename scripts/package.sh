#!/usr/bin/env bash
# What is shipped: libzen5turbo.so against glibc 2.28, so that it loads in images of 2018 and later.
# usage: scripts/package.sh [library]
#   library    only target/x86_64-unknown-linux-gnu/release/libzen5turbo.so, which the tests look at
#   (nothing)  also the command, and in dist/: the archive zen5turbo-VERSION-x86_64-linux.tar.gz with everything, a wheel for
#              pip, a Debian package, and SHA256SUMS
# The same sources give the same bytes (one compiler, one version of zlib and xz).
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/package/deb.sh
. "$ROOT/scripts/package/deb.sh"

GLIBC=2.28
TARGET=x86_64-unknown-linux-gnu

case ${1:-} in
'') packages=(-p zen5turbo-shim -p zen5turbo-cli) ;;
library) packages=(-p zen5turbo-shim) ;;
*) die "usage: scripts/package.sh [library]" ;;
esac
cd "$ROOT"
"$ROOT/scripts/setup.sh" zig
built=${CARGO_TARGET_DIR:-$ROOT/target}/$TARGET/release

# The command reads the topology from sysfs then: libhwloc would have to be there, as old as this glibc.
step "building against glibc $GLIBC: ${packages[*]}"
# What names source lines is not made. The names of functions are kept for the tests, and stripped in the packages. Messages name
# files of crates: not by where they lie here.
RUSTFLAGS="${RUSTFLAGS:-} --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}/registry/src=crates --remap-path-prefix=$ROOT=." \
    PATH=$DEPS/zig:$PATH CARGO_ZIGBUILD_ZIG_PATH=$DEPS/zig/ziglang/zig CARGO_PROFILE_RELEASE_DEBUG=false CARGO_PROFILE_RELEASE_STRIP=none \
    cargo zigbuild --locked --release --no-default-features --target "$TARGET.$GLIBC" "${packages[@]}"
[[ ${1:-} != library ]] || exit 0

version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
name=zen5turbo-$version-x86_64-linux
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir -p "$folder/$name"/{lib,bin,include,docs,scripts} dist
cp "$built/libzen5turbo.so" "$folder/$name/lib/"
cp "$built/zen5turbo" "$folder/$name/bin/"
strip --strip-all "$folder/$name/lib/libzen5turbo.so" "$folder/$name/bin/zen5turbo"
cp include/zen5turbo.h "$folder/$name/include/"
cp docs/*.md "$folder/$name/docs/"
cp -r scripts/ollama "$folder/$name/scripts/"
cp README.md CHANGELOG.md CONTRIBUTING.md LICENSE SECURITY.md "$folder/$name/"
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || printf 0)}
export SOURCE_DATE_EPOCH
rm -f dist/zen5turbo[-_]*
tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
    -C "$folder" -c "$name" | gzip -9n >"dist/$name.tar.gz"

library=$folder/$name/lib/libzen5turbo.so command=$folder/$name/bin/zen5turbo
python3 scripts/package/wheel.py "$version" "$library" "$command" README.md LICENSE dist >/dev/null
if has dpkg-deb; then
    deb "$version" "$library" "$command" dist
else
    say "no Debian package: dpkg-deb was not found"
fi
(cd dist && sha256sum zen5turbo[-_]* >SHA256SUMS)
for file in dist/zen5turbo[-_]*; do say "package: $file, $(($(stat -c %s "$file") / 1024)) KiB"; done
