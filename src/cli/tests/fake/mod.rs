//! What the tests of `zen5turbo ab` share: a folder with fake programs of llama.cpp, and how the command is run over it.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A folder with fake programs and a file that begins as a model does.
pub struct Folder(TempDir);

impl Folder {
    /// With these programs of `tests/ab`.
    pub fn new(programs: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ab");
        for program in programs {
            fs::copy(ours.join(program), dir.path().join(program)).unwrap();
        }
        fs::write(dir.path().join("m.gguf"), "GGUF\x03\0\0\0 and weights").unwrap();
        Folder(dir)
    }

    pub fn dir(&self) -> &Path {
        self.0.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    pub fn set(&self, name: &str, value: &str) {
        fs::write(self.path(name), value).unwrap();
    }
}

pub fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

pub fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

pub fn stdout(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Sends Ctrl-C to `child` as soon as the file `hangs` is there, which a fake program writes when it hangs.
pub fn interrupt(child: Child, hangs: &Path, limit: Duration) -> Output {
    let begin = Instant::now();
    while !hangs.exists() {
        assert!(begin.elapsed() < limit, "the fake program never hung");
        std::thread::sleep(Duration::from_millis(20));
    }
    // SAFETY: kill has no memory effects; the child is not waited for yet.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGINT) }, 0);
    let out = child.wait_with_output().unwrap();
    assert_eq!((out.status.code(), out.status.signal()), (Some(130), None), "{}", stderr(&out));
    out
}

/// Whether no process of this number computes: one that nobody has reaped yet is gone as well.
pub fn is_gone(pid: &str) -> bool {
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    state.is_empty() || state.contains(") Z ") || state.contains(") X ")
}
