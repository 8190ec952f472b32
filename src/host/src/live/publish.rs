//! Making the shared memory, in the process that counts.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::sync::atomic::fence;

use libc::{c_int, c_uint};

use super::layout::{MAGIC, NAME, Segment, TEXT_BYTES, VERSION};
use crate::memory::map::{FileId, mmap};
use crate::proc::{FIRST_FD, may_write};
use crate::seccomp;

/// `MFD_NOEXEC_SEAL` of Linux 6.3; with `vm.memfd_noexec=2` others are refused.
const MFD_NOEXEC_SEAL: c_uint = 8;

/// `F_SEAL_FUTURE_WRITE` of Linux 5.1: nobody else can write.
const F_SEAL_FUTURE_WRITE: c_int = 0x10;

/// A published segment. Stays until the process ends or executes another program.
pub struct Published {
    /// The shared memory.
    segment: &'static Segment<AtomicU64>,
    fd: c_int,
    file: FileId,
}

fn check(result: c_int) -> io::Result<c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

impl Published {
    /// Makes and publishes a segment of zeros for this process.
    ///
    /// # Errors
    /// Whatever the kernel refuses: a filter, no memory, no descriptor, a limit of file sizes. Nothing is left of it.
    pub fn new() -> io::Result<Self> {
        let bytes = size_of::<Segment<AtomicU64>>();
        may_write(bytes)?;
        let filtered = seccomp::is_filtered();
        // Memory that is missing is an error in both; at the first touch it would be a signal.
        let file = if filtered { nameless_file(bytes)? } else { anonymous_file(bytes)? };
        let id = FileId::of(file.as_raw_fd())?;
        let segment = map(&file, bytes)?;
        if !filtered {
            // Nobody else writes to it, where the kernel can forbid that.
            let _ = seal(&file, F_SEAL_FUTURE_WRITE);
            let _ = seal(&file, libc::F_SEAL_SEAL);
        }
        segment.version.store(VERSION, Relaxed);
        segment.bytes.store(bytes as u64, Relaxed);
        segment.pid.store(u64::from(std::process::id()), Relaxed);
        // From here on it is one.
        segment.magic.store(MAGIC, Release);
        // Stays open: others find the memory through it.
        Ok(Self { segment, fd: file.into_raw_fd(), file: id })
    }

    /// The shared memory.
    #[must_use]
    pub fn segment(&self) -> &'static Segment<AtomicU64> {
        self.segment
    }

    /// In a forked child: it is the parent's and no longer found in this process. The descriptor may have become another
    /// file's meanwhile, and is then left alone. Only system calls.
    pub fn leave_to_parent(&self) {
        if FileId::of(self.fd).is_ok_and(|file| file == self.file) {
            // SAFETY: ours, and nobody uses it.
            unsafe { libc::close(self.fd) };
        }
    }
}

impl Segment<AtomicU64> {
    /// Replaces the text; false when it is too long, and then there is none. One thread at a time.
    pub fn write_text(&self, text: &str) -> bool {
        let fits = text.len() <= TEXT_BYTES;
        let bytes = if fits { text.as_bytes() } else { &[] };
        let turn = self.turn.load(Relaxed) | 1;
        self.turn.store(turn, Relaxed);
        fence(Release);
        for (word, bytes) in self.text.iter().zip(bytes.chunks(8)) {
            let mut padded = [0; 8];
            padded[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_le_bytes(padded), Relaxed);
        }
        self.text_len.store(bytes.len() as u64, Relaxed);
        self.turn.store(turn + 1, Release);
        fits
    }
}

/// A new memfd of so many zeros with a high number, closed in programs that this one executes. Nobody can cut it under a
/// mapping, which would be a signal.
fn anonymous_file(bytes: usize) -> io::Result<OwnedFd> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    let create = |flags: c_uint| {
        // SAFETY: a C string; glibc has the function from 2.27 on, the call is older.
        let fd = check(unsafe { libc::syscall(libc::SYS_memfd_create, NAME.as_ptr(), flags) as c_int })?;
        // SAFETY: a new descriptor that nobody else knows.
        Ok::<_, io::Error>(unsafe { OwnedFd::from_raw_fd(fd) })
    };
    let low = match create(flags | MFD_NOEXEC_SEAL) {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => create(flags)?,
        other => other?,
    };
    // SAFETY: no memory is accessed.
    let high = check(unsafe { libc::fcntl(low.as_raw_fd(), libc::F_DUPFD_CLOEXEC, FIRST_FD) })?;
    // SAFETY: a new descriptor that nobody else knows.
    let file = unsafe { OwnedFd::from_raw_fd(high) };
    // SAFETY: no memory is accessed.
    check(unsafe { libc::fchmod(high, 0o600) })?;
    // SAFETY: no memory is accessed.
    check(unsafe { libc::fallocate(high, 0, 0, bytes as libc::off_t) })?;
    seal(&file, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW)?;
    Ok(file)
}

/// Where files are memory.
const MEMORY: &CStr = c"/dev/shm";

/// The same by calls that every program makes, for a process whose filter may kill at others: a file in memory without a name,
/// which shows as `/dev/shm/#NUMBER (deleted)`. Its descriptor has a low number, and only its mode keeps other users off.
pub(super) fn nameless_file(bytes: usize) -> io::Result<OwnedFd> {
    let flags = libc::O_TMPFILE | libc::O_EXCL | libc::O_RDWR | libc::O_CLOEXEC;
    // SAFETY: a C string.
    let fd = check(unsafe { libc::open(MEMORY.as_ptr(), flags, 0o600) })?;
    // SAFETY: a new descriptor that nobody else knows.
    let file = unsafe { OwnedFd::from_raw_fd(fd) };
    if fd <= libc::STDERR_FILENO {
        return Err(io::Error::other("a standard stream is closed, and the file would be taken for it"));
    }
    // Writing makes the memory: nothing else gives a file its length with calls of every day.
    let (zeros, mut left) = ([0_u8; 16 << 10], bytes);
    while left > 0 {
        // SAFETY: no more than the buffer has.
        match unsafe { libc::write(fd, zeros.as_ptr().cast(), left.min(zeros.len())) } {
            n @ 1.. => left -= n as usize,
            0 => return Err(io::ErrorKind::WriteZero.into()),
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(file)
}

fn map(file: &OwnedFd, bytes: usize) -> io::Result<&'static Segment<AtomicU64>> {
    let (access, fd) = (libc::PROT_READ | libc::PROT_WRITE, file.as_raw_fd());
    // SAFETY: a new mapping at a place of the kernel's choice.
    let at = unsafe { mmap(0, bytes, access, libc::MAP_SHARED, fd, 0)? };
    // SAFETY: as long as the structure, aligned to a page, zeros, which are valid, and never unmapped or cut.
    Ok(unsafe { &*(at as *const Segment<AtomicU64>) })
}

fn seal(file: &OwnedFd, seals: c_int) -> io::Result<()> {
    // SAFETY: no memory is accessed.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) }).map(drop)
}

#[cfg(test)]
pub(super) fn descriptor(published: &Published) -> c_int {
    published.fd
}
