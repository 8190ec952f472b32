//! Running a program in the emulated machine with two NUMA nodes (`scripts/vm/run`).

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::outcome::{Outcome, Stats};
use crate::pages::Snapshot;
use crate::program::Program;
use crate::{need, root, shim, work_dir};

/// When a guest counts as deadlocked. Emulation is slow: 300 s are for one that works but waits for CPUs.
const TIME_LIMIT: Duration = Duration::from_secs(300);

/// A program to be run in a guest of its own. Files lie there where they lie here.
pub struct Guest {
    program: OsString,
    args: Vec<OsString>,
    before: String,
    watch_mib: Option<usize>,
    options: Vec<OsString>,
}

impl Guest {
    /// A program of this machine, or an applet of busybox.
    #[must_use]
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let program = program.as_ref().to_owned();
        Self { program, args: Vec::new(), before: String::new(), watch_mib: None, options: Vec::new() }
    }

    /// A shell script; the shell is busybox's, with all its applets.
    #[must_use]
    pub fn shell(script: &str) -> Self {
        Self::new("sh").arg("-c").arg(script)
    }

    /// A program with the shim and its AVX2 kernels, writing statistics.
    #[must_use]
    pub fn engaged(program: impl AsRef<OsStr>) -> Self {
        Self::new(program)
            .var("LD_PRELOAD", shim())
            .knob("GATE", "off")
            .knob("KERNELS", "avx2")
            .knob("STATS", "/out/stats.json")
    }

    fn option(mut self, option: &str, value: impl AsRef<OsStr>) -> Self {
        self.options.push(option.into());
        self.options.push(value.as_ref().to_owned());
        self
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

    /// Brings a file or a folder along, with the libraries that it needs.
    #[must_use]
    pub fn file(self, path: impl AsRef<Path>) -> Self {
        self.option("--file", path.as_ref())
    }

    /// Adds an argument that is a file, and brings it along.
    #[must_use]
    pub fn file_arg(self, path: impl AsRef<Path>) -> Self {
        self.file(&path).arg(path.as_ref())
    }

    /// Sets an environment variable; there are no others.
    #[must_use]
    pub fn var(self, name: &str, value: impl AsRef<OsStr>) -> Self {
        let mut setting = OsString::from(name);
        setting.push("=");
        setting.push(value);
        self.option("--env", setting)
    }

    /// Sets `ZEN5TURBO_NAME`.
    #[must_use]
    pub fn knob(self, name: &str, value: &str) -> Self {
        self.var(&format!("ZEN5TURBO_{name}"), value)
    }

    /// Shell commands to be run before the program, in the same guest, by the same user.
    #[must_use]
    pub fn before(mut self, script: &str) -> Self {
        self.before += script;
        self.before += "\n";
        self
    }

    /// Records where the pages of the program's mappings of at least this many MiB are, twice a second.
    #[must_use]
    pub fn watch(mut self, min_mib: usize) -> Self {
        self.watch_mib = Some(min_mib);
        self
    }

    /// Memory of each node in MiB; 2304 by default.
    #[must_use]
    pub fn memory(self, mib_per_node: usize) -> Self {
        self.option("--memory", mib_per_node.to_string())
    }

    /// Reserves hugetlb pages of a size, `2M` or `1G`: how many on each node. One of 1G fits into each
    /// node's memory, two with `memory(5120)`; where it does not, the kernel takes it from the other node.
    #[must_use]
    pub fn pages(self, size: &str, per_node: [usize; 2]) -> Self {
        self.option("--pages", format!("{size}={},{}", per_node[0], per_node[1]))
    }

    /// Sets a limit of the program's cgroup, e.g. `hugetlb.2MB.max` or `memory.max`.
    #[must_use]
    pub fn cgroup(self, file: &str, value: &str) -> Self {
        self.option("--cgroup", format!("{file}={value}"))
    }

    /// Runs everything as this user instead of root.
    #[must_use]
    pub fn user(self, uid: u32) -> Self {
        self.option("--user", uid.to_string())
    }

    /// CPUs of each node; one by default.
    #[must_use]
    pub fn cpus(self, per_node: usize) -> Self {
        self.option("--cpus", per_node.to_string())
    }

    /// Words for the kernel's command line, e.g. `transparent_hugepage=never`.
    #[must_use]
    pub fn kernel(self, text: &str) -> Self {
        self.option("--append", text)
    }

    /// Boots, runs, powers off. Panics when the time limit is reached; a guest that fails is an exit
    /// status of 125 with its console on stderr.
    #[must_use]
    pub fn run(self) -> GuestOutcome {
        let out = work_dir();
        let run = need("scripts/vm/run", "git checkout scripts/vm/run");
        let _ = need(".deps/vm/vmlinuz", "scripts/setup.sh vm");
        let limit = TIME_LIMIT.as_secs().to_string();
        // Its own temporary files lie below `out` too, so that they go with it even if it is killed.
        let mut command = Program::new(run).var("TMPDIR", out.path()).limit(TIME_LIMIT + Duration::from_secs(30));
        for word in self.command_line(&out, &limit) {
            command = command.arg(word);
        }
        let program = command.run();
        let stats = std::fs::read_to_string(out.path().join("stats.json")).ok();
        let program = program.with_stats(stats.map(|text| Stats::parse(&text)));
        let snapshots = match self.watch_mib {
            Some(_) => Snapshot::read_all(&out.path().join("pages.jsonl")),
            None => Vec::new(),
        };
        GuestOutcome { program, snapshots, out }
    }

    /// The arguments of `scripts/vm/run`.
    fn command_line(&self, out: &TempDir, limit: &str) -> Vec<OsString> {
        let mut words = self.options.clone();
        words.extend(["--limit".into(), limit.into(), "--out".into(), out.path().into()]);
        let mut inner = vec![self.program.clone()];
        inner.extend(self.args.iter().cloned());
        if self.program.as_encoded_bytes().contains(&b'/') {
            words.extend(["--file".into(), self.program.clone()]);
        }
        if let Some(mib) = self.watch_mib {
            words.extend(["--file".into(), page_nodes().into()]);
            inner.splice(0..0, [page_nodes().into(), "/out/pages.jsonl".into(), mib.to_string().into()]);
        }
        if !self.before.is_empty() {
            let script = format!("{}exec \"$@\"", self.before);
            inner.splice(0..0, ["sh".into(), "-c".into(), script.into(), "sh".into()]);
        }
        words.push("--".into());
        words.extend(inner);
        words
    }
}

/// The program that [`Guest::watch`] uses, for scripts: `page-nodes FILE MIN_MIB PROGRAM ARGS...`.
#[must_use]
pub fn page_nodes() -> PathBuf {
    let test = std::env::current_exe().expect("the test program has a path");
    // TARGET/PROFILE/deps/TEST; cargo builds a package's programs with its tests.
    let program = test.ancestors().nth(2).expect("the test program lies in a target folder").join("page-nodes");
    assert!(program.exists(), "{} is missing below {}", program.display(), root().display());
    program
}

/// What a program in a guest did.
pub struct GuestOutcome {
    /// Its output, exit status (128 + N for signal N) and statistics.
    pub program: Outcome,
    /// With [`Guest::watch`]: the changes of its pages' places, in order.
    pub snapshots: Vec<Snapshot>,
    /// What it left in `/out`.
    pub out: TempDir,
}
