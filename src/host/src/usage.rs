//! What this process, or a thread of it, has used since its start: CPU time, bytes read from disks, page faults.

use std::mem::MaybeUninit;
use std::time::Duration;

use libc::c_int;

use crate::syscall::keep_errno;

/// The kernel's count for all threads of this process, those that have ended too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// In user mode and in the kernel.
    pub cpu: Duration,
    /// Bytes read from disks, also by page faults and by reading ahead.
    pub read: u64,
    /// Page faults that waited for a disk.
    pub slow_faults: u64,
}

impl Usage {
    /// Asks the kernel, with one call; zeroes if it does not answer. Keeps `errno`.
    #[must_use]
    pub fn of_this_process() -> Self {
        let usage = counts(libc::RUSAGE_SELF);
        let time = |t: libc::timeval| Duration::new(t.tv_sec.unsigned_abs(), t.tv_usec.unsigned_abs() as u32 * 1000);
        Self {
            cpu: time(usage.ru_utime) + time(usage.ru_stime),
            read: usage.ru_inblock.unsigned_abs() * BLOCK,
            slow_faults: usage.ru_majflt.unsigned_abs(),
        }
    }
}

/// Page faults of the calling thread since its start that waited for no disk. Keeps `errno`.
#[must_use]
pub fn thread_faults() -> i64 {
    counts(libc::RUSAGE_THREAD).ru_minflt
}

/// The kernel's counts for `who`, a `RUSAGE_*`; zeroes if it does not answer. Keeps `errno`.
fn counts(who: c_int) -> libc::rusage {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: getrusage fills the record; zeroes are valid for all its fields, should it fail.
    keep_errno(|| unsafe {
        libc::getrusage(who, usage.as_mut_ptr());
        usage.assume_init()
    })
}

/// Bytes of a block in which the kernel counts, whatever the disk has.
const BLOCK: u64 = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::page_cache::{is_cached, release_cache};
    use std::os::fd::AsFd;

    #[test]
    fn cpu_time_and_bytes_read_are_counted() {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &vec![1; 4 << 20]).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        file.sync_all().unwrap();
        release_cache(file.as_fd(), 0, 0);
        let cached = is_cached(file.as_fd(), 0..4 << 20, 4096);
        let before = Usage::of_this_process();
        assert!(before.cpu > Duration::ZERO);
        std::io::copy(&mut file, &mut std::io::sink()).unwrap();
        let read = Usage::of_this_process().read - before.read;
        // A file system in memory keeps its pages.
        assert!(cached != Some(false) || read >= 4 << 19, "{read}");
    }
}
