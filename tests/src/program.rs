//! Running a program.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::outcome::{Outcome, Stats};
use crate::{Refusal, shim, work_dir};

/// When a program counts as deadlocked. Nothing that works comes near it.
pub const TIME_LIMIT: Duration = Duration::from_secs(300);

/// A program to be run.
pub struct Program {
    path: PathBuf,
    args: Vec<OsString>,
    vars: Vec<(OsString, OsString)>,
    stats: bool,
    limit: Duration,
}

impl Program {
    /// A program without the shim.
    #[must_use]
    pub fn new(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().to_owned();
        Self { path, args: Vec::new(), vars: Vec::new(), stats: false, limit: TIME_LIMIT }
    }

    /// A program with the shim preloaded as it is by default: strict gate, nothing else set.
    #[must_use]
    pub fn preloaded(path: impl AsRef<Path>) -> Self {
        Self::new(path).var("LD_PRELOAD", shim())
    }

    /// A program with the shim, on whatever CPU this is, writing statistics.
    #[must_use]
    pub fn engaged(path: impl AsRef<Path>) -> Self {
        Self::preloaded(path).knob("GATE", "off").with_stats()
    }

    /// The same with another build of the library.
    #[must_use]
    pub fn with_library(self, library: impl AsRef<Path>) -> Self {
        self.var("LD_PRELOAD", library.as_ref())
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments, separated by blanks in `text`.
    #[must_use]
    pub fn args(mut self, text: &str) -> Self {
        self.args.extend(text.split_whitespace().map(OsString::from));
        self
    }

    /// Sets an environment variable; the last value of a name counts.
    #[must_use]
    pub fn var(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.vars.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// The same with a name of any bytes.
    #[must_use]
    pub fn var_os(mut self, name: &OsStr, value: &str) -> Self {
        self.vars.push((name.to_owned(), value.into()));
        self
    }

    /// Sets `ZEN5TURBO_NAME`.
    #[must_use]
    pub fn knob(self, name: &str, value: &str) -> Self {
        self.var(&format!("ZEN5TURBO_{name}"), value)
    }

    /// Has the gate see this CPU instead of the machine's: [`crate::ZEN5`] or [`crate::MILAN`]. What computes is still
    /// what this machine can run.
    #[must_use]
    pub fn on(self, cpu: &str) -> Self {
        self.knob("TEST_CPU", cpu)
    }

    /// Asks the shim for statistics, which [`Outcome::stats`] then returns.
    #[must_use]
    pub fn with_stats(mut self) -> Self {
        self.stats = true;
        self
    }

    /// Runs it inside a refusal: the kernel refuses it what that names.
    #[must_use]
    pub fn inside(self, refusal: &Refusal) -> Self {
        let mut args = refusal.args.clone();
        args.push("--".into());
        self.started_by(&refusal.wrapper, args)
    }

    /// Starts it by another program, whose arguments end before its path.
    #[must_use]
    pub fn started_by(mut self, wrapper: impl AsRef<Path>, mut args: Vec<OsString>) -> Self {
        let program = std::mem::replace(&mut self.path, wrapper.as_ref().to_owned());
        args.push(program.into_os_string());
        args.append(&mut self.args);
        self.args = args;
        self
    }

    /// Another time limit than [`TIME_LIMIT`], for a program that computes for minutes.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The file that is started.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn arguments(&self) -> &[OsString] {
        &self.args
    }

    pub(crate) fn variables(&self) -> &[(OsString, OsString)] {
        &self.vars
    }

    /// Runs it to its end. Panics when it cannot be started or reaches its time limit.
    #[must_use]
    #[expect(clippy::zombie_processes, reason = "`wait` calls wait4, for the resources used")]
    pub fn run(self) -> Outcome {
        let dir = work_dir();
        let stats_file = dir.path().join("stats.json");
        // Inside a refusal it may be another user who writes there.
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).expect("the folder is ours");
        let mut command = Command::new(&self.path);
        command.args(&self.args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        clean_environment(&mut command);
        if self.stats {
            command.env("ZEN5TURBO_STATS", &stats_file);
        }
        command.envs(self.vars.iter().map(|(n, v)| (n, v)));
        // A group of its own, so that what the program starts can be ended with it.
        command.process_group(0);
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{} cannot be started: {e}", self.path.display()));
        let stdout = drain(child.stdout.take().expect("stdout is piped"));
        let stderr = drain(child.stderr.take().expect("stderr is piped"));
        let (status, usage) = wait(child.id(), self.limit);
        kill_group(child.id());
        let (stdout, stderr) = (stdout.join().expect("the reader ends"), stderr.join().expect("the reader ends"));
        let what = format!("{:?}", command).chars().filter(|c| *c != '"').collect();
        let Some(status) = status else {
            panic!(
                "{what}\nwas killed after {} s without an end: a deadlock?\nstdout: {}\nstderr: {}",
                self.limit.as_secs(),
                String::from_utf8_lossy(&stdout),
                String::from_utf8_lossy(&stderr)
            );
        };
        let stats = std::fs::read_to_string(&stats_file).ok().map(|text| Stats::parse(&text));
        // Blocks of 512 bytes, whatever the disk has.
        let bytes_read = usage.ru_inblock.unsigned_abs() * 512;
        Outcome::new(what, status, stdout, stderr, stats, usage.ru_maxrss, bytes_read)
    }
}

/// Takes what the shim, ggml, llama.cpp, the loader and OpenMP read out of the environment of a command.
pub fn clean_environment(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["ZEN5TURBO", "GGML_", "LLAMA_", "LD_", "OMP_", "GOMP_"].iter().any(|p| text.starts_with(p)) {
            command.env_remove(&name);
        }
    }
}

fn drain(mut pipe: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).expect("a pipe can be read");
        bytes
    })
}

/// Waits for a child; `None` and a killed group when the limit is reached. Also the resources that it used.
fn wait(pid: u32, limit: Duration) -> (Option<ExitStatus>, libc::rusage) {
    let deadline = Instant::now() + limit;
    let mut late = false;
    loop {
        let mut status = 0;
        // SAFETY: zeroes are a valid rusage.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        let options = if late { 0 } else { libc::WNOHANG };
        // SAFETY: `pid` is a child that nobody else waits for; both pointers are to locals.
        let got = unsafe { libc::wait4(pid as libc::pid_t, &raw mut status, options, &raw mut usage) };
        assert!(got >= 0, "wait4: {}", std::io::Error::last_os_error());
        if got > 0 {
            return ((!late).then(|| ExitStatus::from_raw(status)), usage);
        }
        if Instant::now() > deadline {
            kill_group(pid);
            late = true;
            continue;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn kill_group(pid: u32) {
    // SAFETY: the group was made for this child; a group that is gone is only an error code.
    unsafe { libc::kill(-(pid as libc::pid_t), libc::SIGKILL) };
}
