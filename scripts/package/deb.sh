# The Debian package, for scripts/package.sh, which sources this.
# shellcheck shell=bash

# deb VERSION LIBRARY COMMAND FOLDER: writes FOLDER/zen5turbo_VERSION_amd64.deb.
# The same files give the same bytes: dpkg-deb takes the date of all entries from SOURCE_DATE_EPOCH.
deb() {
    local version=$1 root doc
    root=$(mktemp -d)
    doc=$root/usr/share/doc/zen5turbo
    install -D -m 644 "$2" "$root/usr/lib/libzen5turbo.so"
    install -D -m 755 "$3" "$root/usr/bin/zen5turbo"
    install -D -m 644 include/zen5turbo.h "$root/usr/include/zen5turbo.h"
    install -D -m 644 README.md "$doc/README.md"
    # Debian's policy asks for these two names.
    install -D -m 644 LICENSE "$doc/copyright"
    gzip -9nc CHANGELOG.md >"$doc/changelog.gz"
    "$3" man --out "$root/usr/share/man/man1"
    gzip -9n "$root"/usr/share/man/man1/*
    install -d "$root"/usr/share/{bash-completion/completions,zsh/vendor-completions,fish/vendor_completions.d}
    "$3" completions bash >"$root/usr/share/bash-completion/completions/zen5turbo"
    "$3" completions zsh >"$root/usr/share/zsh/vendor-completions/_zen5turbo"
    "$3" completions fish >"$root/usr/share/fish/vendor_completions.d/zen5turbo.fish"
    mkdir "$root/DEBIAN"
    cat >"$root/DEBIAN/control" <<CONTROL
Package: zen5turbo
Version: $version
Architecture: amd64
Maintainer: the zen5turbo developers <zen5turbo@users.noreply.github.com>
Section: utils
Priority: optional
Installed-Size: $(du -sk --apparent-size "$root/usr" | cut -f 1)
Depends: libc6 (>= $GLIBC)
Homepage: https://github.com/zen5turbo/zen5turbo
Description: makes an unmodified llama.cpp faster on AMD Zen 5 CPUs
 A library for LD_PRELOAD that computes the matrix products and the attention
 of llama.cpp and Ollama, and the command zen5turbo, which tells whether it
 will work (doctor), starts programs with it (run) and sets services up (setup).
CONTROL
    find "$root" -type d -exec chmod 755 {} +
    find "$root" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
    dpkg-deb --root-owner-group -Zxz --build "$root" "$4/zen5turbo_${version}_amd64.deb" >/dev/null
    rm -rf "$root"
}
