//! A root of Debian sid with its llama.cpp: another glibc, and packages as a user gets them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::{Need, Outcome, Program, need, skip, work_dir};

/// A copy of the root, which a test may change.
pub struct Debian {
    dir: TempDir,
}

impl Debian {
    /// `None` where the root could not be made, or this user may not enter it. Then the test is skipped.
    #[must_use]
    pub fn new() -> Option<Self> {
        let made = need(".deps/published/debian-sid", "scripts/setup.sh published");
        if let Ok(words) = fs::read_to_string(made.join("refused")) {
            skip(Need::Debian, format!("debootstrap: {}", words.trim()));
            return None;
        }
        let tried = Command::new("unshare").args(["-m", "chroot", "/", "/bin/true"]).output();
        if !tried.is_ok_and(|output| output.status.success()) {
            skip(Need::Root, "this user may not mount and chroot");
            return None;
        }
        let dir = work_dir();
        let copied = Command::new("cp").arg("-a").arg(made.join("root")).arg(dir.path()).status();
        assert!(copied.expect("cp can be started").success(), "{} cannot be copied", made.display());
        Some(Self { dir })
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// Puts a file, or a folder, into the root as `/t/NAME`, and returns that path.
    #[must_use]
    pub fn file(&self, from: &Path) -> String {
        let name = from.file_name().expect("a file").to_string_lossy().into_owned();
        let folder = self.root().join("t");
        fs::create_dir_all(&folder).expect("the folder is writable");
        let copied = Command::new("cp").arg("-rL").arg(from).arg(&folder).status();
        assert!(copied.expect("cp can be started").success(), "{} cannot be copied", from.display());
        format!("/t/{name}")
    }

    /// A file of the root.
    #[must_use]
    pub fn read(&self, path: &str) -> String {
        let path = self.root().join(path.trim_start_matches('/'));
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// Runs commands of a shell in the root, with /proc and /sys.
    #[must_use]
    pub fn run(&self, script: &str) -> Outcome {
        const ENTER: &str = "mount -t proc proc \"$0/proc\" && mount -t sysfs sysfs \"$0/sys\" && exec chroot \"$0\" /bin/bash -ec \"$1\"";
        Program::new("/usr/bin/unshare")
            .args("--mount --pid --fork --kill-child bash -c")
            .arg(ENTER)
            .arg(self.root())
            .arg(script)
            .run()
    }
}
