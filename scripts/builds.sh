# `scripts/setup.sh builds`: the other ways in which ggml is built, for tests/builds.rs, and upstream's own
# test programs, for tests/suites.rs. Sourced by scripts/setup.sh, whose functions it uses.
# shellcheck shell=bash

RELEASE_O2=(-DCMAKE_C_FLAGS_RELEASE='-O2 -DNDEBUG' -DCMAKE_CXX_FLAGS_RELEASE='-O2 -DNDEBUG')
# libllama of other releases is compiled only to run a small model: without time for the optimiser.
RELEASE_O1=(-DCMAKE_C_FLAGS_RELEASE='-O1 -DNDEBUG' -DCMAKE_CXX_FLAGS_RELEASE='-O1 -DNDEBUG')
CLANG=(-DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++)

LLAMA_GCC_O2=("${LLAMA_NATIVE[@]}" "${RELEASE_O2[@]}")
LLAMA_CLANG_O2=("${LLAMA_NATIVE[@]}" "${RELEASE_O2[@]}" "${CLANG[@]}" -DGGML_OPENMP=OFF -DGGML_LLAMAFILE=OFF)
# Clang's OpenMP is a package of its own; ggml's threads do as well.
LLAMA_BLAS=("${LLAMA_NATIVE[@]}" "${CLANG[@]}" -DGGML_OPENMP=OFF -DGGML_BLAS=ON -DGGML_BLAS_VENDOR=OpenBLAS)
LLAMA_OTHER=("${LLAMA_NATIVE[@]}" "${RELEASE_O1[@]}"
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_SERVER=OFF)

# Of May 2025, and of October 2024: before ggml had an operation hook.
# shellcheck disable=SC2034 # used by scripts/setup.sh
PYTHON_VERSIONS=(0.3.9 0.3.1)
CRATE_VERSION=0.1.161

# The test programs of llama.cpp, beside test-backend-ops, and what each is linked with.
declare -A SUITES=(
    [test-quantize-fns]="ggml-cpu ggml-base"
    [test-barrier]="ggml-cpu ggml-base"
    [test-tiled-mulmat]="ggml ggml-base"
    [test-thread-safety]="llama-common llama ggml ggml-base"
    [test-state-restore-fragmented]="llama-common llama ggml ggml-base"
)

# need_packages COMMAND_OR_FILE:PACKAGE...: installs the packages of those that are not there.
need_packages() {
    local missing=() pair
    for pair in "$@"; do
        has "${pair%%:*}" || [[ -e ${pair%%:*} ]] || missing+=("${pair##*:}")
    done
    ((${#missing[@]} == 0)) || apt_install "${missing[@]}"
}

setup_llama_gcc_o2() { llama_flavour gcc-o2 ggml "${LLAMA_GCC_O2[@]}"; }

setup_llama_clang() {
    need_packages clang:clang
    llama_flavour clang-o2 ggml "${LLAMA_CLANG_O2[@]}"
}

# Debian's BLIS is what the tests give ZEN5TURBO_BLAS; nothing is built with it.
setup_llama_blas() {
    local lib=/usr/lib/x86_64-linux-gnu
    need_packages clang:clang "$lib/openblas-pthread/libopenblas.so:libopenblas-dev" \
        "$lib/blis-pthread/libblis.so.4:libblis4-pthread"
    llama_flavour blas ggml "${LLAMA_BLAS[@]}"
}

# other_key FILE: names a build of the llama.cpp in a download, which need not be there.
other_key() { short_hash "$(grep -F " $1 " "$ROOT/scripts/pypi.sha256")" "$(llama_key "${LLAMA_OTHER[@]}")"; }

# other_release NAME SOURCE LIBRARIES: builds libllama and ggml of SOURCE and copies them into the folder LIBRARIES.
other_release() {
    local build=$STORE/build/$1
    step "llama.cpp: $1 (1 to 2 minutes on 2 cores)"
    rm -rf "$build"
    llama_build "$build" "$2" llama "${LLAMA_OTHER[@]}"
    mkdir -p "$3"
    # Older releases leave each library in the folder of its sources.
    find "$build" \( -name 'lib*.so' -o -name 'lib*.so.*' \) -exec cp -a {} "$3/" ';'
    rm -rf "$build"
}

# python_site: prints the folder of the packages that llama-cpp-python imports.
python_site() {
    local dir
    dir=$STORE/site-$(short_hash "$(python3 --version)" "$(<"$ROOT/scripts/requirements-python.txt")")
    if [[ ! -d $dir ]]; then
        rm -rf "$dir.part"
        "$(venv)/bin/python" -m pip install --quiet --no-cache-dir --disable-pip-version-check --no-deps \
            --require-hashes --only-binary :all: --target "$dir.part" -r "$ROOT/scripts/requirements-python.txt" >&2
        publish "$dir.part" "$dir"
    fi
    printf '%s\n' "$dir"
}

# setup_python VERSION: llama-cpp-python as its source package has it, with the libraries that its own
# CMakeLists.txt would install beside it (libllama and ggml, not the one for images).
setup_python() {
    local version=$1 sdist=llama_cpp_python-$1.tar.gz archive source dir site
    source=$STORE/build/llama_cpp_python-$version
    dir=$STORE/llama-cpp-python-$version-$(other_key "$sdist")
    if [[ ! -d $dir ]]; then
        archive=$(fetch "$sdist" --no-binary llama-cpp-python)
        rm -rf "$source" "$dir.part"
        mkdir -p "$source" "$dir.part"
        tar -xzf "$archive" -C "$source" --strip-components=1
        cp -a "$source/llama_cpp" "$dir.part/"
        other_release "python-$version" "$source/vendor/llama.cpp" "$dir.part/llama_cpp/lib"
        rm -rf "$source"
        publish "$dir.part" "$dir"
    fi
    site=$(python_site)
    # In a fresh checkout whose store has everything, nothing above asked for .deps/venv, which runs it.
    venv >/dev/null
    mkdir -p "$DEPS/llama-cpp-python-$version"
    ln -sfn "$dir/llama_cpp" "$DEPS/llama-cpp-python-$version/llama_cpp"
    ln -sfn "$site" "$DEPS/llama-cpp-python-$version/site"
    say "llama-cpp-python: .deps/llama-cpp-python-$version"
}

# crate_file: prints the path of the package file, which cargo downloads, with its checksum checked.
crate_file() {
    local file=llama-cpp-sys-2-$CRATE_VERSION.crate sum path=$STORE/pypi/llama-cpp-sys-2-$CRATE_VERSION.crate work
    read -r sum _ < <(grep -F " $file " "$ROOT/scripts/pypi.sha256")
    if ! verify "$sum" "$path"; then
        step "download: llama-cpp-sys-2 $CRATE_VERSION" >&2
        work=$STORE/build/crate
        rm -rf "$work"
        mkdir -p "$work/src"
        printf '[package]\nname = "fetch"\nversion = "0.0.0"\nedition = "2021"\n[workspace]\n[dependencies]\nllama-cpp-sys-2 = "=%s"\n' \
            "$CRATE_VERSION" >"$work/Cargo.toml"
        touch "$work/src/lib.rs"
        cargo fetch --quiet --manifest-path "$work/Cargo.toml" >&2 ||
            die "download of llama-cpp-sys-2 $CRATE_VERSION failed"
        find "${CARGO_HOME:-$HOME/.cargo}/registry/cache" -name "$file" -exec cp {} "$path.part" ';'
        verify "$sum" "$path.part" || die "$file does not have the checksum in scripts/pypi.sha256"
        mv "$path.part" "$path"
        rm -rf "$work"
    fi
    printf '%s\n' "$path"
}

# The llama.cpp in the Rust package, with the options of its feature "dynamic-link". Its default is static, where
# a preloaded library cannot get in.
setup_rust() {
    local name=llama-cpp-sys-2-$CRATE_VERSION archive source dir
    source=$STORE/build/$name
    dir=$STORE/llama.cpp/rust-$CRATE_VERSION-$(other_key "$name.crate")
    if [[ ! -d $dir ]]; then
        archive=$(crate_file)
        rm -rf "$source" "$dir.part"
        tar -xzf "$archive" -C "$STORE/build"
        mkdir -p "$dir.part"
        other_release "rust-$CRATE_VERSION" "$source/llama.cpp" "$dir.part/bin"
        cp -a "$source/llama.cpp/include" "$dir.part/"
        cp -a "$source"/llama.cpp/ggml/include/* "$dir.part/include/"
        rm -rf "$source"
        publish "$dir.part" "$dir"
    fi
    ln -sfn "$dir" "$DEPS/llama-cpp-sys-2"
    say "llama-cpp-sys-2: .deps/llama-cpp-sys-2/bin"
}

# Compiled against the libraries of the native build, which know nothing of it.
setup_suites() {
    local native source dir name libs options=()
    setup_llama
    native=$(llama_native)
    source=$(llama_source)
    dir=$STORE/llama.cpp/suites-$(short_hash "${native##*/}" "${!SUITES[@]}" "${SUITES[@]}")
    if [[ ! -d $dir ]]; then
        step "llama.cpp: its own test programs (about 1 minute)"
        rm -rf "$dir.part"
        mkdir -p "$dir.part"
        for name in "${!SUITES[@]}"; do
            options=()
            for libs in ${SUITES[$name]}; do options+=("-l$libs"); done
            g++ -std=c++17 -O1 "-I$source/ggml/include" "-I$source/include" "-I$source/common" "-I$source/vendor" \
                "$source/tests/$name.cpp" -o "$dir.part/$name" "-L$native/bin" "-Wl,-rpath,$native/bin" \
                -Wl,--no-as-needed "${options[@]}" -lpthread
        done
        publish "$dir.part" "$dir"
    fi
    mkdir -p "$DEPS/llama.cpp"
    ln -sfn "$dir" "$DEPS/llama.cpp/suites"
    say "llama.cpp: .deps/llama.cpp/suites"
}

# llama.cpp's worker for other machines, and the backend that reaches it. The build with backends opened by dlopen takes both as they
# are: they know nothing of the rest. Seconds instead of a whole build.
RPC_OPTIONS=(-std=c++17 -O2 -fPIC -DGGML_BACKEND_DL -DGGML_BACKEND_SHARED -DGGML_SHARED)

setup_rpc() {
    local dl source dir part object
    setup_llama_dl
    dl=$(readlink -f "$DEPS/llama.cpp-dl/bin")
    source=$(llama_source)
    dir=$STORE/llama.cpp/rpc-$(short_hash "$dl" "$(c++ --version)" "${RPC_OPTIONS[@]}")
    if [[ ! -d $dir ]]; then
        step "llama.cpp: ggml-rpc-server"
        part=$dir.part
        rm -rf "$part"
        mkdir -p "$part/bin"
        for object in ggml/src/ggml-rpc/{ggml-rpc,transport} tools/rpc/rpc-server; do
            local more=(-DGGML_BACKEND_BUILD)
            [[ $object != tools/* ]] || more=()
            c++ "${RPC_OPTIONS[@]}" "${more[@]}" "-I$source/ggml/include" "-I$source/ggml/src" \
                -c "$source/$object.cpp" -o "$part/${object##*/}.o"
        done
        # shellcheck disable=SC2016 # $ORIGIN is for the loader
        local link=("-L$dl" -Wl,-rpath,'$ORIGIN' "-Wl,-rpath-link,$dl")
        c++ -shared -o "$part/bin/libggml-rpc.so" "$part"/{ggml-rpc,transport}.o "${link[@]}" -l:libggml-base.so.0 -lpthread
        c++ -o "$part/bin/ggml-rpc-server" "$part/rpc-server.o" "${link[@]}" -l:libggml.so.0 -l:libggml-base.so.0
        rm "$part"/*.o
        ln -s "$dl"/libggml*.so* "$part/bin/"
        publish "$part" "$dir"
    fi
    mkdir -p "$DEPS/llama.cpp-rpc"
    ln -sfn "$dir/bin" "$DEPS/llama.cpp-rpc/bin"
    say "llama.cpp: .deps/llama.cpp-rpc/bin"
}
