//! What the whole-program tests share: running a real program under the shim, reading its
//! statistics, compiling a C fixture.
//!
//! Every program runs in a clean environment (no variable of the shim, of ggml or of llama.cpp
//! that the caller happens to have set), with a time limit that only a deadlock reaches. A missing
//! prerequisite fails the test with the command that provides it. What the machine itself lacks is
//! skipped, said and counted: see [`skip`]. What takes long and guards little has `#[ignore = "nightly"]`.

mod cold;
mod container;
mod debian;
pub mod distance;
mod fake_root;
mod fixture;
mod group;
mod guest;
mod kept;
mod key;
mod machine;
mod outcome;
mod pages;
mod program;
mod refusal;
mod waiting;

pub use cold::Cold;
pub use container::{Container, Engine, OLLAMA, only_program, unpacked};
pub use debian::Debian;
pub use fake_root::FakeRoot;
pub use fixture::{Fixture, copied_fixture, fake_ggml, ggml_headers, linked_symbolically, reopened, work_dir};
pub use group::{CpuGroup, MemoryGroup};
pub use guest::{Guest, GuestOutcome, page_nodes};
pub use machine::{MILAN, Tier, ZEN5, has_avx512, has_thp, is_root, tiers, unusual_tiers, usual_tiers};
pub use outcome::{Outcome, Stats};
pub use pages::{Mapping, Snapshot, buffers, cached, copies};
pub use program::{Program, TIME_LIMIT, clean_environment};
pub use refusal::{CONTAINER, Refusal};
pub use waiting::Waiting;
pub use zen5turbo_skip::{Need, skip};

use std::path::{Path, PathBuf};

/// The weight types that the shim has kernels for, as `ggml_type_name` writes them.
#[rustfmt::skip]
pub const TYPES: [&str; 25] = [
    "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_K", "q3_K", "q4_K", "q5_K", "q6_K", "iq4_nl", "iq4_xs", "mxfp4",
    "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq1_s", "iq1_m", "tq1_0", "tq2_0", "nvfp4", "q1_0", "q2_0",
];

/// How the shim begins each of its lines on stderr.
pub const PREFIX: &str = "zen5turbo: ";

/// The top folder of the repository.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the repository").to_owned()
}

/// `path` below the top folder, or a failure that names the command that makes it.
#[must_use]
pub fn need(path: impl AsRef<Path>, command: &str) -> PathBuf {
    let path = root().join(path);
    assert!(path.exists(), "{} is missing; run: {command}", path.display());
    path
}

/// The variable that is set where the tests take what `scripts/package.sh` builds, as in `scripts/test.sh`, which then builds the
/// library and the command in the release profile once. Empty is as not set.
pub const SHIPPED: &str = "ZEN5TURBO_SHIPPED";

fn takes_what_is_shipped() -> bool {
    std::env::var_os(SHIPPED).is_some_and(|value| !value.is_empty())
}

/// The library under test.
#[must_use]
pub fn shim() -> PathBuf {
    if takes_what_is_shipped() { shipped() } else { need("target/release/libzen5turbo.so", BUILD_SHIM) }
}

/// A library that cargo has built with this machine's own linker; in `scripts/test.sh` in the profile of the tests.
#[must_use]
pub fn plain() -> PathBuf {
    if takes_what_is_shipped() {
        need("target/checks/libzen5turbo.so", "cargo build --profile checks -p zen5turbo-shim")
    } else {
        shim()
    }
}

const BUILD_SHIM: &str = "cargo build --release -p zen5turbo-shim";

/// The library as it is shipped: the same, built against an old glibc.
#[must_use]
pub fn shipped() -> PathBuf {
    need("target/x86_64-unknown-linux-gnu/release/libzen5turbo.so", "scripts/package.sh library")
}

/// The archive that is handed on, made of that library and the command of the same build.
///
/// # Panics
/// When it is missing, or older than the library.
#[must_use]
pub fn archive() -> PathBuf {
    let name = concat!("zen5turbo-", env!("CARGO_PKG_VERSION"), "-x86_64-linux.tar.gz");
    let archive = need(Path::new("dist").join(name), "scripts/package.sh");
    let made = |path: &Path| path.metadata().and_then(|m| m.modified()).expect("the file system keeps times");
    assert!(made(&archive) >= made(&shipped()), "{} is out of date; run: scripts/package.sh", archive.display());
    archive
}

/// The name of the package with this ending, beside the archive.
///
/// # Panics
/// There is another kind.
#[must_use]
pub fn package_name(ending: &str) -> String {
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    match ending {
        ".deb" => format!("zen5turbo_{VERSION}_amd64.deb"),
        ".whl" => format!("zen5turbo-{VERSION}-py3-none-manylinux_2_28_x86_64.whl"),
        other => panic!("there is no package {other}"),
    }
}

/// The command `zen5turbo`.
#[must_use]
pub fn command() -> PathBuf {
    if takes_what_is_shipped() {
        need("target/x86_64-unknown-linux-gnu/release/zen5turbo", "scripts/package.sh")
    } else {
        need("target/release/zen5turbo", "cargo build --release -p zen5turbo-cli")
    }
}

/// A file of the stock build of llama.cpp.
#[must_use]
pub fn llama(name: &str) -> PathBuf {
    need(Path::new(".deps/llama.cpp/bin").join(name), "scripts/setup.sh llama")
}

/// A file of the stripped build whose CPU backends are opened by dlopen.
#[must_use]
pub fn llama_dl(name: &str) -> PathBuf {
    need(Path::new(".deps/llama.cpp-dl/bin").join(name), "scripts/setup.sh llama-dl")
}

/// The backend of that build for CPUs with AVX2 and without AVX-512.
#[must_use]
pub fn dl_backend_avx2() -> PathBuf {
    llama_dl("libggml-cpu-haswell.so")
}

/// The CPU backends of that build, the variants that were built for this machine.
#[must_use]
pub fn dl_backends() -> Vec<PathBuf> {
    let dir = llama_dl("llama-bench").with_file_name("");
    let mut found: Vec<_> = std::fs::read_dir(&dir)
        .expect("the folder can be read")
        .map(|entry| entry.expect("the entry can be read").path())
        .filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("libggml-cpu-")))
        .collect();
    found.sort();
    assert!(!found.is_empty(), "{} holds no CPU backend; run: scripts/setup.sh llama-dl", dir.display());
    found
}

/// Gemma 3 270M, Q4_K_M: a real model, with Q4_K, Q5_0, Q6_K and Q8_0 weights and K = 640.
#[must_use]
pub fn gemma() -> PathBuf {
    need(".deps/models/gemma-3-270m-q4_k_m.gguf", "scripts/setup.sh models")
}

/// SmolLM2 135M, Q4_1: a small real model, K = 576, which old releases can load and whose context can be shifted.
#[must_use]
pub fn smollm2() -> PathBuf {
    need(".deps/models/smollm2-135m-instruct-q4_1.gguf", "scripts/setup.sh models")
}

/// A model of random weights, 0.4 GB, all of them Q4_K.
#[must_use]
pub fn synthetic_q4_k() -> PathBuf {
    need(".deps/models/synth-q4_k.gguf", "scripts/setup.sh models")
}

/// A model of random weights, 40 MB, all of them Q8_0: small enough for the emulated [`Guest`].
#[must_use]
pub fn guest_model() -> PathBuf {
    need(".deps/models/guest-q8_0.gguf", "scripts/setup.sh vm")
}

/// A model of random weights, 1.1 GB of F16, nearly all in its experts: a 1 GiB page of the [`Guest`] fits into it.
#[must_use]
pub fn guest_giant_model() -> PathBuf {
    need(".deps/models/guest-giant-f16.gguf", "scripts/setup.sh vm")
}
