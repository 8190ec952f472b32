//! What the kernel keeps of a file in memory.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Asks the kernel to drop the file's pages from memory: those that are on the disk and in no mapping.
pub fn forget(file: &File) -> io::Result<()> {
    // SAFETY: the call has no memory effects; the descriptor is open.
    match unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}
