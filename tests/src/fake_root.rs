//! Files of the kernel that tell something else, for one process: other files are mounted over them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::{Need, Program, skip, work_dir};

/// Files and folders of a process's own, in the place of those of `/proc` and `/sys`.
pub struct FakeRoot {
    dir: TempDir,
    mounts: Vec<(PathBuf, String)>,
}

impl FakeRoot {
    /// Nothing is replaced yet. `None` where this user may not mount, and then the test is skipped.
    #[must_use]
    pub fn new() -> Option<Self> {
        let tried = Command::new("unshare").args(["-m", "sh", "-c", "mount -t tmpfs none /mnt"]).output();
        if !tried.is_ok_and(|output| output.status.success()) {
            skip(Need::Mount, "this user may not mount (CAP_SYS_ADMIN)");
            return None;
        }
        Some(Self { dir: work_dir(), mounts: Vec::new() })
    }

    /// Another text in the place of a file; of `/proc/self` it is the program's. What is not there is left out.
    #[must_use]
    pub fn file(mut self, path: &str, text: impl AsRef<[u8]>) -> Self {
        let own = self.dir.path().join(self.mounts.len().to_string());
        fs::write(&own, text).expect("the folder is writable");
        self.mounts.push((own, path.to_owned()));
        self
    }

    /// An empty folder in the place of a folder.
    #[must_use]
    pub fn empty_folder(mut self, path: &str) -> Self {
        let own = self.dir.path().join(self.mounts.len().to_string());
        fs::create_dir(&own).expect("the folder is writable");
        self.mounts.push((own, path.to_owned()));
        self
    }

    /// The program, which sees these files.
    #[must_use]
    pub fn around(&self, program: Program) -> Program {
        let mut script = String::from("set -e\n");
        for (own, path) in self.mounts.iter().filter(|(_, path)| Path::new(path).exists()) {
            // The shell becomes the program, and keeps its number.
            let path = path.replace("/proc/self/", "/proc/$$/");
            script += &format!("mount --bind '{}' \"{path}\"\n", own.display());
        }
        script += "exec \"$@\"";
        program.started_by("unshare", ["-m", "sh", "-c", &script, "sh"].map(Into::into).to_vec())
    }
}
