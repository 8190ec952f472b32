//! A process to which the kernel refuses some system calls, as in a container.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::{Fixture, MemoryGroup, work_dir};

/// What Docker's default seccomp profile refuses without CAP_SYS_NICE and CAP_PERFMON, and always.
pub const CONTAINER: [&str; 5] = ["mbind", "set_mempolicy", "get_mempolicy", "move_pages", "perf_event_open"];

/// User and group `nobody`.
const NOBODY: &str = "65534";

/// The wrapper `fixtures/refuse.c`, whose head describes the rules, and its arguments. To be given to
/// [`crate::Program::inside`].
pub struct Refusal {
    /// Holds the compiled wrapper.
    _dir: TempDir,
    pub(crate) wrapper: PathBuf,
    pub(crate) args: Vec<OsString>,
}

impl Refusal {
    /// Compiles the wrapper; refuses nothing yet.
    #[must_use]
    pub fn new() -> Self {
        let dir = work_dir();
        let wrapper = Fixture::new("refuse").build(&dir, "refuse");
        Self { _dir: dir, wrapper, args: Vec::new() }
    }

    /// Refuses a system call: `SYSCALL[:ERRNO][:CONDITION]...`, e.g. `mremap:ENOMEM:arg3&2:from=3`.
    #[must_use]
    pub fn call(mut self, rule: &str) -> Self {
        self.args.push(rule.into());
        self
    }

    /// Refuses several, or with `KILL` for an error ends the process at them.
    #[must_use]
    pub fn calls(self, rules: &[&str]) -> Self {
        rules.iter().fold(self, |refusal, rule| refusal.call(rule))
    }

    /// Sets a resource limit: `memlock`, `as` or `data`, in bytes.
    #[must_use]
    pub fn limit(mut self, name: &str, bytes: u64) -> Self {
        self.args.extend(["--limit".into(), format!("{name}={bytes}").into()]);
        self
    }

    /// No transparent huge pages: `PR_SET_THP_DISABLE`, which needs no rights and outlives an exec.
    #[must_use]
    pub fn without_thp(mut self) -> Self {
        self.args.push("--thp-off".into());
        self
    }

    /// A command that starts this program inside, for whoever wants to talk to it while it runs.
    #[must_use]
    pub fn around(&self, program: &Path) -> Command {
        let mut command = Command::new(&self.wrapper);
        command.args(&self.args).arg("--").arg(program);
        command
    }

    /// Runs in this control group.
    #[must_use]
    pub fn in_group(mut self, group: &MemoryGroup) -> Self {
        self.args.extend(["--cgroup".into(), group.path().into()]);
        self
    }

    /// Not as root: as nobody when the test is root, which keeps only the right to read files; else as
    /// the user who runs the test.
    #[must_use]
    pub fn unprivileged(mut self) -> Self {
        // SAFETY: geteuid has no preconditions.
        if unsafe { libc::geteuid() } == 0 {
            self.args.extend(["--user".into(), NOBODY.into()]);
        }
        self
    }
}

impl Default for Refusal {
    fn default() -> Self {
        Self::new()
    }
}
