//! Programs of llama.cpp that are run in several ways and compared with each other.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::programs::find_program;
use crate::{process, shim};

/// A program of llama.cpp, and how it is asked for a layout of the weights.
pub trait Program: Clone {
    /// Finds it in the folder `bin`, takes `bin` itself, or looks in PATH when there is none; then asks it for its options.
    ///
    /// # Errors
    /// There is none, or what is there is another program.
    fn find(bin: Option<&Path>) -> Result<Self>;

    /// Its file.
    fn path(&self) -> &Path;

    /// The words that ask for repacked weights, or for plain ones; `None` where it has no such option.
    fn repack(&self, on: bool) -> Option<Vec<String>>;
}

/// The file of a program of llama.cpp, and what it prints for `--help`, which must contain `sign`. `purpose` says in an
/// error what the program is.
///
/// # Errors
/// As [`Program::find`].
pub fn find(name: &str, bin: Option<&Path>, purpose: &str, sign: &str) -> Result<(PathBuf, String)> {
    let path = match bin {
        Some(bin) if bin.is_dir() => bin.join(name),
        Some(bin) => bin.to_owned(),
        None => find_program(OsStr::new(name)).with_context(|| {
            format!("no {name} was found in PATH; expected {purpose}: name its folder with --bin DIR, or build the target {name}")
        })?,
    };
    ensure!(
        path.is_file(),
        "there is no {name} at {}; expected a folder with llama.cpp's programs: build the target {name}, or name its folder with --bin",
        path.display()
    );
    // With a slash, so that a bare name is not looked up in PATH; else as given, for the record.
    let path = if path.components().count() == 1 { Path::new(".").join(path) } else { path };
    let mut command = Command::new(&path);
    command.arg("--help");
    shim::without_shim(&mut command);
    let help = process::run(command, Duration::from_secs(60))?;
    let text = format!("{}{}", help.stdout, help.stderr);
    ensure!(
        text.contains(sign),
        "{} --help {} without naming {sign}; expected llama.cpp's {name}. It said:\n{}",
        path.display(),
        help.ending(),
        help.last_words(5)
    );
    Ok((path, text))
}
