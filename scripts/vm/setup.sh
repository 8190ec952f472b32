# `scripts/setup.sh vm`: what scripts/vm/run boots. Sourced by scripts/setup.sh, whose functions it uses.
# shellcheck shell=bash

# 40 MB as Q8_0. A matrix of the feed-forward network is 3.3 MB: more than a 2 MiB page.
GUEST_MODEL=(--layers 2 --embd 512 --ff 6144 --heads 8 --kv-heads 8 --seed 1)

# 1.1 GB as F16, so that a page of 1 GiB fits into its weights. A token reads 70 MB of it: two experts.
GUEST_GIANT=(--layers 1 --embd 512 --ff 4096 --heads 8 --kv-heads 8 --experts 87 --seed 2)

# Built into the kernel: the guest has no modules. Debian's cloud kernel of bookworm (6.1) has them all.
GUEST_KERNEL=(NUMA HUGETLBFS CGROUP_HUGETLB MEMCG EXT4_FS BLK_DEV_NVME SERIAL_8250_CONSOLE DEVTMPFS)

# guest_deb PACKAGE DIR: unpacks the newest version of a Debian package, which is not installed, and
# prints the name of its file, which holds the version.
guest_deb() {
    local file
    mkdir -p "$2/deb"
    # apt would otherwise complain that its own user cannot write here.
    (cd "$2/deb" && apt-get -o APT::Sandbox::User=root -qq download "$1" >/dev/null 2>&1) || return
    file=$(cd "$2/deb" && echo *.deb)
    dpkg -x "$2/deb/$file" "$2" || return
    rm -r "$2/deb"
    printf '%s\n' "${file%_amd64.deb}"
}

# guest_download DIR: kernel and busybox; prints the name of the kernel's package, with its version.
guest_download() {
    local package
    # The package of the version; linux-image-cloud-amd64 itself is empty.
    package=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null |
        sed -n 's/.*Depends: \(linux-image-[0-9].*-cloud-amd64\)$/\1/p')
    [[ -n $package ]] || return
    guest_deb busybox-static "$1" >/dev/null || return
    guest_deb "$package" "$1"
}

# setup_guest_kernel: a finished folder in the store is used whatever its version; remove it for a newer one.
setup_guest_kernel() {
    local dir part=$STORE/vm/part name option
    dir=$(find "$STORE/vm" -maxdepth 1 -name 'linux-image-*' | sort -V | tail -n 1)
    if [[ -z $dir ]]; then
        { has apt-get && has dpkg; } || die "the guest is made of Debian packages; this machine has no apt-get and dpkg"
        step "guest: Debian's cloud kernel and busybox"
        rm -rf "$part"
        # As in apt_install: no package lists, or old ones.
        name=$(guest_download "$part") || name=$(apt-get update -qq >&2 && rm -rf "$part" && guest_download "$part") ||
            die "linux-image-cloud-amd64 or busybox-static cannot be downloaded; try: sudo apt-get update"
        for option in "${GUEST_KERNEL[@]}"; do
            grep -q "^CONFIG_$option=y" "$part"/boot/config-* || die "$name is built without CONFIG_$option=y"
        done
        dir=$STORE/vm/$name
        mkdir "$part/guest"
        mv "$part"/boot/vmlinuz-* "$part/guest/vmlinuz"
        find "$part" -path '*/bin/busybox' -exec mv {} "$part/guest/busybox" ';'
        publish "$part/guest" "$dir"
        rm -rf "$part"
    fi
    ln -sfn "$dir" "$DEPS/vm"
    say "guest: .deps/vm, ${dir##*/}"
}

# guest_model_key OPTION...: names a model by everything it is made from.
guest_model_key() { short_hash "$LLAMA_VERSION" "$*" "$(<"$ROOT/scripts/synthetic_model.py")"; }

# make_guest_model FILE OPTION...: writes an f16 model.
make_guest_model() {
    step "synthetic model for the guest: ${*:2}"
    "$(venv)/bin/python" "$ROOT/scripts/synthetic_model.py" "$@" \
        --vocab-from "$(llama_source)/models/ggml-vocab-llama-spm.gguf"
}

setup_guest_models() {
    local key file base
    key=$(guest_model_key "${GUEST_MODEL[@]}")
    file=$STORE/models/guest-$key-q8_0.gguf
    if [[ ! -e $file ]]; then
        base=$STORE/models/guest-$key.f16
        SYNTH_BASES+=("$base")
        make_guest_model "$base" "${GUEST_MODEL[@]}"
        quantize "$base" "$file.part" q8_0
        mv "$file.part" "$file"
    fi
    mkdir -p "$DEPS/models"
    ln -sfn "$file" "$DEPS/models/guest-q8_0.gguf"
    say "model: .deps/models/guest-q8_0.gguf"

    file=$STORE/models/guest-giant-$(guest_model_key "${GUEST_GIANT[@]}")-f16.gguf
    [[ -e $file ]] || make_guest_model "$file" "${GUEST_GIANT[@]}" # in place when it is complete
    ln -sfn "$file" "$DEPS/models/guest-giant-f16.gguf"
    say "model: .deps/models/guest-giant-f16.gguf"
}

setup_vm() {
    local missing=()
    has qemu-system-x86_64 || missing+=(qemu-system-x86)
    PATH=$PATH:/usr/sbin:/sbin has mke2fs || missing+=(e2fsprogs)
    ((${#missing[@]} == 0)) || apt_install "${missing[@]}"
    mkdir -p "$STORE/vm"
    setup_guest_kernel
    setup_llama # llama-quantize makes the small model
    setup_guest_models
}
