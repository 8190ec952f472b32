//! What stock llama.cpp answers, computed once for each build, model, CPU and command line.
//!
//! Stock computes the same answer each time, so tests that compare with it keep it in `.deps/store/stock`, beside the builds
//! themselves. Only for answers that do not change between runs: numbers and texts on stdout, and files. Times, memory, and the
//! lines that llama.cpp logs on stderr do change.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use crate::fixture::target;
use crate::key::Key;
use crate::{Outcome, Program, root};

/// Larger files of a test's own folder are not part of the name: they are what stock itself has computed before.
const MOST: u64 = 16 << 20;

impl Program {
    /// Runs this program of stock llama.cpp, without the shim, to a successful end; or returns what an earlier run of it
    /// printed. `made` is a file that the program writes.
    #[must_use]
    pub fn stock(self, made: Option<&Path>) -> Outcome {
        let kept = root().join(".deps/store/stock").join(self.key().name());
        if !kept.exists() {
            let run = self.run().success();
            keep(&run, made, &kept);
            return run;
        }
        let read = |name| fs::read(kept.join(name)).unwrap_or_else(|e| panic!("{}: {e}; remove it", kept.display()));
        if let Some(made) = made {
            fs::copy(kept.join("made"), made).unwrap_or_else(|e| panic!("{}: {e}; remove it", kept.display()));
        }
        let what = format!("{}: of an earlier run", self.path().display());
        Outcome::new(what, ExitStatus::from_raw(0), read("stdout"), read("stderr"), None, 0, 0)
    }

    /// Everything that the answer depends on.
    fn key(&self) -> Key {
        let mut key = Key::new();
        cpu(&mut key);
        code(&mut key, self.path());
        let own = target().join("tmp");
        for arg in self.arguments() {
            let path = Path::new(arg);
            // The names of a test's own folder differ from run to run.
            let name = path.strip_prefix(&own).ok().and_then(Path::file_name);
            key.text(name.unwrap_or(arg));
            if let Ok(metadata) = path.metadata()
                && metadata.is_file()
                && (name.is_none() || metadata.len() <= MOST)
            {
                key.file(path);
            }
        }
        for (name, value) in self.variables() {
            key.text(name);
            key.text(value);
        }
        key
    }
}

/// Writes what a run has printed and made into the folder `kept`, which appears at once.
fn keep(run: &Outcome, made: Option<&Path>, kept: &Path) {
    let folder = kept.with_file_name("");
    fs::create_dir_all(&folder).expect("the store is writable");
    let part = tempfile::tempdir_in(&folder).expect("a folder can be made there");
    for (name, text) in [("stdout", &run.stdout), ("stderr", &run.stderr)] {
        fs::write(part.path().join(name), text).expect("there is room");
    }
    if let Some(made) = made {
        fs::copy(made, part.path().join("made")).expect("there is room");
    }
    // Another checkout may have kept the same meanwhile.
    let _ = fs::rename(part.path(), kept);
}

/// The kind and number of the CPUs: ggml chooses by them what it computes with.
fn cpu(key: &mut Key) {
    let text = fs::read_to_string("/proc/cpuinfo").expect("/proc is mounted");
    for name in ["model name", "flags"] {
        key.text(text.lines().find(|line| line.starts_with(name)).unwrap_or_default());
    }
    key.text(text.lines().filter(|line| line.starts_with("processor")).count().to_string());
}

/// A program, the libraries it is linked with, and those beside it, which it may open.
fn code(key: &mut Key, program: &Path) {
    let linked = Command::new("ldd").arg(program).output().expect("ldd can be started");
    let linked = String::from_utf8_lossy(&linked.stdout).into_owned();
    let mut files: Vec<PathBuf> = linked
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .chain(fs::read_dir(program.with_file_name("")).expect("its folder").flatten().map(|entry| entry.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains(".so")))
        .collect();
    files.sort();
    files.dedup();
    key.file(program);
    for file in files {
        key.text(file.file_name().unwrap_or(OsStr::new("")));
        key.file(&file);
    }
}
