//! Does a copy of ggml have the structures that the shim was compiled for? Asked of the library itself,
//! in a process of its own: another release, or a damaged one, may do anything.
//!
//! The same questions that the shim asks when it meets the copy (`src/shim/src/ggml/probe.rs`).

use std::ffi::{c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;
use std::{env, mem};

use anyhow::{Context, Result, ensure};
use libloading::Library;
use serde::{Deserialize, Serialize};

use crate::{process, shim};

/// `struct ggml_tensor` as in ggml 0.26, and what `ggml_tensor_overhead` adds: a `struct ggml_object`.
const TENSOR: usize = 336;
const OVERHEAD: usize = 32 + TENSOR;
/// `offsetof(struct ggml_tensor, data)` and `name`.
const DATA: usize = 248;
const NAME: usize = 256;

/// The functions that the shim calls.
const FUNCTIONS: [&str; 11] = [
    "ggml_tensor_overhead",
    "ggml_op_name",
    "ggml_type_name",
    "ggml_type_size",
    "ggml_blck_size",
    "ggml_get_data",
    "ggml_get_name",
    "ggml_graph_n_nodes",
    "ggml_graph_node",
    "ggml_barrier",
    "ggml_cpu_extra_compute_forward",
];

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
        if self.overhead != OVERHEAD {
            found.push(format!("ggml_tensor_overhead() is {}, not {OVERHEAD}", self.overhead));
        }
        if (self.type_zero.0.as_str(), self.type_zero.1) != ("f32", 4) {
            found.push(format!("type 0 is {} of {} bytes, not f32 of 4", self.type_zero.0, self.type_zero.1));
        }
        // Not asked of a tensor of another size.
        if found.is_empty() && (self.data, self.name) != (DATA, NAME) {
            found.push(format!("data and name lie at {} and {}, not {DATA} and {NAME}", self.data, self.name));
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
    // SAFETY: this process exists to load this library; whatever it does ends with the process.
    let library = unsafe { Library::new(&args.file) }
        .with_context(|| format!("the loader cannot open {}", args.file.display()))?;
    // SAFETY: the functions are ggml's, whose signatures `answers` uses.
    let answers = unsafe { answers(&library) };
    println!("{}", serde_json::to_string(&answers)?);
    Ok(ExitCode::SUCCESS)
}

/// # Safety
/// The library is a ggml.
unsafe fn answers(library: &Library) -> Answers {
    // SAFETY: only the address is looked up.
    let find = |name: &str| unsafe { library.get::<*mut c_void>(name.as_bytes()) }.ok().map(|s| *s);
    let missing: Vec<String> =
        FUNCTIONS.iter().filter(|name| find(name).is_none()).map(|name| (*name).to_owned()).collect();
    let mut answers = Answers { missing, ..Answers::default() };
    if !answers.missing.is_empty() {
        return answers;
    }
    let address = |name: &str| find(name).unwrap_or(std::ptr::null_mut());
    // SAFETY: all were found; these are their signatures in every release that has the hook. A tensor
    // of the size that ggml names is memory of ours, filled with its own offsets.
    unsafe {
        let overhead: unsafe extern "C" fn() -> usize = mem::transmute(address("ggml_tensor_overhead"));
        let type_name: unsafe extern "C" fn(c_int) -> *const c_char = mem::transmute(address("ggml_type_name"));
        let type_size: unsafe extern "C" fn(c_int) -> usize = mem::transmute(address("ggml_type_size"));
        answers.overhead = overhead();
        let name = zen5turbo_calibration::ggml_name(type_name(0)).unwrap_or("without a name");
        answers.type_zero = (name.to_owned(), type_size(0));
        if answers.overhead == OVERHEAD {
            let get_data: unsafe extern "C" fn(*const c_void) -> usize = mem::transmute(address("ggml_get_data"));
            let get_name: unsafe extern "C" fn(*const c_void) -> usize = mem::transmute(address("ggml_get_name"));
            let tensor: Vec<usize> = (0..TENSOR / 8).map(|word| word * 8).collect();
            answers.data = get_data(tensor.as_ptr().cast());
            answers.name = get_name(tensor.as_ptr().cast()).wrapping_sub(tensor.as_ptr() as usize);
        }
    }
    answers
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
        let good =
            Answers { missing: vec![], overhead: OVERHEAD, type_zero: ("f32".into(), 4), data: DATA, name: NAME };
        assert_eq!(good.differences(), [""; 0]);
        let other = Answers { overhead: 352, ..good.clone() };
        assert_eq!(other.differences(), ["ggml_tensor_overhead() is 352, not 368"]);
        let other = Answers { data: 320, ..good.clone() };
        assert_eq!(other.differences(), ["data and name lie at 320 and 256, not 248 and 256"]);
        let other = Answers { missing: vec!["ggml_graph_node".into()], overhead: 0, ..good };
        assert_eq!(other.differences(), ["ggml_graph_node is missing"]);
    }

    /// The layout that the shim is compiled with.
    #[test]
    fn the_numbers_are_those_of_the_shim() {
        let source = include_str!("../../shim/src/ggml/abi.rs");
        assert!(source.contains(&format!("size_of::<Tensor>() == {TENSOR}")));
        assert!(source.contains("pub const OBJECT_SIZE: usize = 32;"));
        let probe = include_str!("../../shim/src/ggml/probe.rs");
        for function in FUNCTIONS {
            assert!(probe.contains(&format!("c\"{function}\"")) || function.ends_with("compute_forward"), "{function}");
        }
    }
}
