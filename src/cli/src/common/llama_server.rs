//! The user's own llama-server: where it is, and how it is started.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::llama_program::{self, Program};

/// A llama-server executable and what it can do.
#[derive(Clone, Debug)]
pub struct LlamaServer {
    path: PathBuf,
    /// It has `--repack` beside `--no-repack`.
    repack: bool,
    /// It has `--no-repack`.
    no_repack: bool,
}

impl Program for LlamaServer {
    fn find(bin: Option<&Path>) -> Result<LlamaServer> {
        let (path, text) = llama_program::find("llama-server", bin, "llama.cpp's own server", "--parallel")?;
        let has = |option: &str| text.split([' ', ',', '\n']).any(|word| word == option);
        Ok(LlamaServer { path, repack: has("--repack"), no_repack: has("--no-repack") })
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn repack(&self, on: bool) -> Option<Vec<String>> {
        // Where there is no option to switch it on, it is on.
        let word = match (on, self.repack) {
            (true, true) => vec!["--repack".to_owned()],
            (true, false) => Vec::new(),
            (false, _) => vec!["--no-repack".to_owned()],
        };
        self.no_repack.then_some(word)
    }
}

impl LlamaServer {
    /// The command that serves `model` on this port of this machine, with so many slots of `context` tokens each.
    pub fn command(&self, model: &Path, port: u16, threads: u32, slots: u32, context: u64) -> Command {
        let mut command = Command::new(&self.path);
        command.arg("-m").arg(model).args(["--host", "127.0.0.1", "--port", &port.to_string()]);
        command.args(["-t", &threads.to_string(), "-np", &slots.to_string()]);
        command.args(["-c", &(u64::from(slots) * context).to_string()]);
        command
    }
}
