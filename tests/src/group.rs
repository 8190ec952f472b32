//! Control groups with little memory, or with a quota of CPU time.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::{Need, skip};

/// The versions of control groups: the folder of the controller, a file in it that tells that this is
/// one, and the file of the limit.
const VERSIONS: [(&str, &str, &str); 2] = [
    ("/sys/fs/cgroup", "cgroup.controllers", "memory.max"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.limit_in_bytes"),
];

/// A control group with a limit of memory, page cache included; removed with the value, when the
/// processes in it have ended.
pub struct MemoryGroup {
    path: PathBuf,
    /// The name of the file of its limit.
    limit: &'static str,
}

impl MemoryGroup {
    /// A new group below the root. `None` where this process may not make one, as in most containers, or where the memory
    /// controller is not there. Then the test is skipped: nothing else limits the page cache.
    #[must_use]
    pub fn new(bytes: u64) -> Option<Self> {
        let group = Self::try_new(bytes);
        if group.is_none() {
            skip(Need::Cgroup, "no control group that limits memory can be made here");
        }
        group
    }

    /// The same for a program that is no test.
    #[must_use]
    pub fn try_new(bytes: u64) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        VERSIONS.iter().find_map(|&(root, sign, limit)| {
            let root = Path::new(root);
            if !root.join(sign).exists() {
                return None;
            }
            let path = root.join(format!("zen5turbo-test-{}-{number}", std::process::id()));
            // Version 2 wants the controller handed down; in version 1 there is no such file.
            let _ = fs::write(root.join("cgroup.subtree_control"), "+memory");
            fs::create_dir(&path).ok()?;
            let group = Self { path, limit };
            group.set_limit(bytes).ok()?;
            Some(group)
        })
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts a process into it, with all that it allocates from now on.
    pub fn join(&self, pid: u32) -> io::Result<()> {
        fs::write(self.path.join("cgroup.procs"), pid.to_string())
    }

    /// Another limit. An error where so much is in use that cannot be reclaimed.
    pub fn set_limit(&self, bytes: u64) -> io::Result<()> {
        fs::write(self.path.join(self.limit), bytes.to_string())
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Removes the folder of a group whose processes end.
fn remove(group: &Path) {
    // A process that has just ended leaves its group a moment later.
    for _ in 0..100 {
        if fs::remove_dir(group).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    eprintln!("{} could not be removed", group.display());
}

/// Microseconds of a period, in which a group's threads have its quota.
const PERIOD: u64 = 100_000;

/// A control group with a quota of CPU time; removed with the value, when the processes in it have ended.
pub struct CpuGroup(PathBuf);

impl CpuGroup {
    /// A new group below the root, with a quota of so many CPUs. `None` where there can be none, and then the test is skipped.
    #[must_use]
    pub fn new(cpus: u64) -> Option<Self> {
        Self::try_new(cpus).map_err(|why| skip(Need::Cgroup, why)).ok()
    }

    fn try_new(cpus: u64) -> Result<Self, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let second = Path::new("/sys/fs/cgroup");
        let is_second = second.join("cgroup.controllers").exists();
        let root = if is_second { second.to_owned() } else { second.join("cpu") };
        if is_second {
            // Handed down; an error shows when there is no file for the quota.
            let _ = fs::write(root.join("cgroup.subtree_control"), "+cpu");
        }
        let path = root.join(format!("zen5turbo-test-{}-cpu{number}", std::process::id()));
        fs::create_dir(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let group = Self(path);
        group.set_quota(cpus).map_err(|e| format!("{}: {e}", group.0.display()))?;
        Ok(group)
    }

    /// The file by which a process enters it.
    #[must_use]
    pub fn entrance(&self) -> PathBuf {
        self.0.join("cgroup.procs")
    }

    /// Another quota, in whole CPUs.
    pub fn set_quota(&self, cpus: u64) -> io::Result<()> {
        if self.0.join("cpu.max").exists() {
            return fs::write(self.0.join("cpu.max"), format!("{} {PERIOD}", cpus * PERIOD));
        }
        fs::write(self.0.join("cpu.cfs_period_us"), PERIOD.to_string())?;
        fs::write(self.0.join("cpu.cfs_quota_us"), (cpus * PERIOD).to_string())
    }
}

impl Drop for CpuGroup {
    fn drop(&mut self) {
        remove(&self.0);
    }
}
