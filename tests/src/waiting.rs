//! Programs that have computed and still run.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A program that has computed and waits for the end of its input, which comes with the end of the value.
pub struct Waiting(Child);

impl Waiting {
    /// Starts it, and returns when it has computed.
    ///
    /// # Panics
    /// When it cannot be started, or its first line does not say that it has computed.
    #[must_use]
    pub fn start(program: &Path, args: &[PathBuf], vars: &[(&str, &str)]) -> Self {
        let mut command = Command::new(program);
        command.args(args).env("WAIT", "1").envs(vars.iter().copied());
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program can be started");
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("stdout is piped");
        let _ = BufReader::new(stdout).read_line(&mut line).expect("a pipe can be read");
        assert!(line.contains("computed"), "{line:?}");
        Self(child)
    }

    /// The number of the process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
