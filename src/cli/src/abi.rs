//! Does a copy of ggml have the structures that the shim was compiled for? Asked of the library itself,
//! in a process of its own: another release, or a damaged one, may do anything.
//!
//! The same questions that the shim asks when it meets the copy: those of `zen5turbo_ggml::layout`.

use std::env;
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use zen5turbo_ggml::layout::{CoreFunctions, NEEDED, Places, Sizes};

use crate::library::Library;
use crate::{process, shim};

/// How long a library may take to answer: it is loaded and asked a few numbers.
const LIMIT: Duration = Duration::from_secs(20);

/// What a copy of ggml says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answers {
    /// Functions that it does not have.
    pub missing: Vec<String>,
    /// `ggml_tensor_overhead()`.
    pub overhead: usize,
    /// `ggml_type_name(0)` and `ggml_type_size(0)`.
    pub type_zero: (String, usize),
    /// Bytes of a tensor's name.
    pub name_bytes: usize,
    /// Where `ggml_get_data` and `ggml_get_name` find them in a tensor.
    pub data: usize,
    pub name: usize,
}

impl Answers {
    /// What is not as the shim knows it.
    pub fn differences(&self) -> Vec<String> {
        let mut found: Vec<String> = self.missing.iter().map(|name| format!("{name} is missing")).collect();
        if !found.is_empty() {
            return found;
        }
        let (known, places) = (Sizes::KNOWN, Places::KNOWN);
        let told = Sizes { tensor_overhead: self.overhead, name_bytes: self.name_bytes, ..known };
        if told.longer_names().is_none() {
            found.push(format!("ggml_tensor_overhead() is {}, not {}", self.overhead, known.tensor_overhead));
        }
        let (name, bytes) = (known.type_zero.unwrap_or_default(), known.type_zero_bytes);
        if (self.type_zero.0.as_str(), self.type_zero.1) != (name, bytes) {
            let (is, of) = &self.type_zero;
            found.push(format!("type 0 is {is} of {of} bytes, not {name} of {bytes}"));
        }
        // Not asked of a tensor of another size.
        if found.is_empty() && (Places { data: self.data, name: self.name }) != places {
            let (data, name) = (places.data, places.name);
            found.push(format!("data and name lie at {} and {}, not {data} and {name}", self.data, self.name));
        }
        found
    }
}

/// The command that [`ask`] starts.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The library with the CPU backend
    file: PathBuf,
}

/// Loads the library, asks, prints the answers as JSON.
pub fn run(args: &Args) -> Result<ExitCode> {
    // SAFETY: this process exists to load this library; whatever its initialisers do ends with the process.
    let library = unsafe { Library::open(&args.file) }?;
    println!("{}", serde_json::to_string(&answers(&library))?);
    Ok(ExitCode::SUCCESS)
}

/// The answers of a ggml.
fn answers(library: &Library) -> Answers {
    let there = |name: &str| CString::new(name).is_ok_and(|name| library.find(&name).is_some());
    let missing: Vec<String> = NEEDED.into_iter().filter(|name| !there(name)).map(str::to_owned).collect();
    if !missing.is_empty() {
        return Answers { missing, ..Answers::default() };
    }
    // SAFETY: the library has the hook of ggml's CPU backend, so its functions are ggml's. It is open until the answers are
    // there.
    let Some(functions) = (unsafe { CoreFunctions::find(&|name| library.find(name)) }) else {
        return Answers::default();
    };
    let (sizes, places) = (functions.sizes(), functions.places().unwrap_or(Places { data: 0, name: 0 }));
    let name = sizes.type_zero.unwrap_or("without a name").to_owned();
    Answers {
        missing,
        overhead: sizes.tensor_overhead,
        type_zero: (name, sizes.type_zero_bytes),
        name_bytes: sizes.name_bytes,
        data: places.data,
        name: places.name,
    }
}

/// Asks a copy of ggml, in a process of its own.
pub fn ask(file: &Path) -> Result<Answers> {
    let mut command = Command::new(env::current_exe().context("cannot find this command's own file")?);
    shim::without_shim(&mut command);
    command.arg("abi").arg(file);
    let finished = process::run(command, LIMIT)?;
    ensure!(finished.status.success(), "asking it {}: {}", finished.ending(), finished.last_words(1));
    let line = finished.stdout.lines().last().unwrap_or_default();
    serde_json::from_str(line).with_context(|| format!("asking it gave {line:?} instead of its sizes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_named() {
        let good = Answers {
            missing: vec![],
            overhead: 368,
            type_zero: ("f32".into(), 4),
            name_bytes: 64,
            data: 248,
            name: 256,
        };
        assert_eq!(good.differences(), [""; 0]);
        let longer = Answers { overhead: 384, name_bytes: 80, ..good.clone() };
        assert_eq!(longer.differences(), [""; 0]);
        let larger = Answers { overhead: 384, ..good.clone() };
        assert_eq!(larger.differences(), ["ggml_tensor_overhead() is 384, not 368"]);
        let other = Answers { overhead: 352, ..good.clone() };
        assert_eq!(other.differences(), ["ggml_tensor_overhead() is 352, not 368"]);
        let other = Answers { data: 320, ..good.clone() };
        assert_eq!(other.differences(), ["data and name lie at 320 and 256, not 248 and 256"]);
        let other = Answers { missing: vec!["ggml_graph_node".into()], overhead: 0, ..good };
        assert_eq!(other.differences(), ["ggml_graph_node is missing"]);
    }
}
