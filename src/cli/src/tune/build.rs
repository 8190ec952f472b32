//! The build of ggml that is measured.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail, ensure};
use zen5turbo_ggml::KNOWN_RELEASES;

use super::arm::{Arm, Start};
use crate::programs::find_program;
use crate::{abi, interposition};

/// What is looked for in a folder, the first that is there.
const MEMBERS: [&str; 7] =
    ["llama-bench", "llama-server", "llama-cli", "libllama.so", "libggml.so", "libggml-cpu.so", "libggml-base.so"];

/// A build of ggml.
#[derive(Debug)]
pub struct Build {
    /// The library with the CPU backend.
    pub backend: PathBuf,
    /// [`zen5turbo_ggml::build::identity`].
    pub identity: String,
}

/// The build that the programs in `bin` use (or that `bin`, a program or library, uses), or that of `ggml`, a
/// library with the CPU backend; without either that of the llama-bench in PATH.
///
/// # Errors
/// There is none, it cannot be taken over, or it does not fit the shim: with what to do.
pub fn find(bin: Option<&Path>, ggml: Option<&Path>, stop: &'static AtomicBool) -> Result<Build> {
    let root = match (ggml, bin) {
        (Some(file), _) => file.to_owned(),
        (None, Some(bin)) if bin.is_dir() => {
            let member = MEMBERS.iter().map(|name| bin.join(name)).find(|path| path.is_file());
            member.with_context(|| {
                format!(
                    "found no {} in {}; expected the folder of a llama.cpp: name it with --bin DIR, or its libggml-cpu.so with --ggml FILE",
                    MEMBERS.join(", "),
                    bin.display()
                )
            })?
        }
        (None, Some(bin)) if bin.exists() => bin.to_owned(),
        (None, Some(bin)) => bail!(
            "--bin {}: there is no such folder; expected llama.cpp's programs and libraries, or one of its programs",
            bin.display()
        ),
        (None, None) => find_program(OsStr::new("llama-bench")).context(
            "found no llama-bench in PATH; expected a llama.cpp: name its folder with --bin DIR, or its libggml-cpu.so with --ggml FILE",
        )?,
    };
    let mut candidates = reachable(&root)?;
    if let Some(file) = ggml {
        // Not a variant that lies beside it.
        candidates.retain(|path| path.canonicalize().ok() == file.canonicalize().ok());
    }
    let mut best: Option<(i32, Build)> = None;
    for backend in candidates {
        let build = open(&backend, stop)?;
        if let Some((score, build)) = build.filter(|(score, _)| best.as_ref().is_none_or(|(most, _)| score > most)) {
            best = Some((score, build));
        }
    }
    let (_, build) = best.with_context(|| {
        format!("found no CPU backend for this CPU beside {}; expected one that it can run", root.display())
    })?;
    Ok(build)
}

/// The CPU backends that `root` would load and whose products can be taken over.
fn reachable(root: &Path) -> Result<Vec<PathBuf>> {
    let reach = interposition::examine(root)?;
    let of_copies = reach.copies.iter().filter_map(|copy| copy.obstacle.as_ref());
    if let Some(against) = reach
        .obstacles
        .iter()
        .chain(&reach.unknown)
        .chain(&reach.partly)
        .chain(of_copies)
        .next()
        .filter(|_| reach.copies.iter().all(|copy| copy.obstacle.is_some()))
    {
        bail!("{}: found: {}; expected: {}; do: {}", root.display(), against.found, against.expected, against.todo);
    }
    let good = reach.copies.into_iter().filter(|copy| copy.obstacle.is_none()).map(|copy| copy.path);
    Ok(good.collect())
}

/// A backend with its score among several, 1 where it has none; `None` when this CPU cannot run it.
fn open(backend: &Path, stop: &'static AtomicBool) -> Result<Option<(i32, Build)>> {
    let differences = abi::ask(backend).with_context(|| format!("asking {}", backend.display()))?.differences();
    ensure!(
        differences.is_empty(),
        "{}: found structures that the shim does not know ({}); expected those of ggml {KNOWN_RELEASES}: nothing would be taken over",
        backend.display(),
        differences.join(", ")
    );
    let start = Start { name: "first", backend, preload: None, variables: &[], ours: false, stop };
    let (_worker, identity, score) = Arm::start(&start)?;
    let score = score.unwrap_or(1);
    Ok((score > 0).then(|| (score, Build { backend: backend.to_owned(), identity })))
}
