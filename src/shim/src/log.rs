//! Lines on stderr: messages that a user must see, and messages that `ZEN5TURBO_LOG` asks for.
//!
//! A line is built in a buffer on the stack and written by one `write(2)`, so that lines of
//! different threads do not mix. Nothing here allocates, panics or changes `errno`.

use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU8, Ordering};

pub use crate::config::{LogLevel, short};

static LEVEL: AtomicU8 = AtomicU8::new(LogLevel::Off as u8);

/// Sets the level that [`enabled`] compares with.
pub fn set_level(level: LogLevel) {
    LEVEL.store(level as u8, Ordering::Relaxed);
}

/// Whether lines of `level` are written.
#[inline]
#[must_use]
pub fn enabled(level: LogLevel) -> bool {
    level as u8 <= LEVEL.load(Ordering::Relaxed)
}

/// `log!(info, "format", ...)` and `log!(debug, "format", ...)`: one line on stderr when
/// `ZEN5TURBO_LOG` asks for that level. The arguments are not evaluated otherwise.
macro_rules! log {
    (info, $($arg:tt)+) => { $crate::log::log!(@ Info, $($arg)+) };
    (debug, $($arg:tt)+) => { $crate::log::log!(@ Debug, $($arg)+) };
    (@ $level:ident, $($arg:tt)+) => {
        if $crate::log::enabled($crate::log::LogLevel::$level) {
            $crate::log::line(format_args!($($arg)+));
        }
    };
}
pub(crate) use log;

/// Writes `zen5turbo: MESSAGE` and a newline to stderr, whatever the level. A failure to write is
/// ignored: there is nowhere to report it.
pub fn line(message: fmt::Arguments<'_>) {
    let mut line = Line::new();
    let _ = line.write_str(PREFIX);
    let _ = line.write_fmt(message);
    let bytes = line.finish();
    // SAFETY: __errno_location always returns the calling thread's errno.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: `errno` points to this thread's variable, which is there as long as the thread.
    let saved = unsafe { *errno };
    let mut rest = bytes;
    while !rest.is_empty() {
        // SAFETY: pointer and length describe `rest`. Not libc's `write`: that may end a thread that was cancelled, where the
        // hooked function would not.
        let n = unsafe { libc::syscall(libc::SYS_write, libc::STDERR_FILENO, rest.as_ptr(), rest.len()) };
        // SAFETY: `errno` points to this thread's variable, which is there as long as the thread.
        if n < 0 && unsafe { *errno } == libc::EINTR {
            continue;
        }
        let Some(next) = usize::try_from(n).ok().filter(|&n| n > 0).and_then(|n| rest.get(n..)) else {
            break;
        };
        rest = next;
    }
    // SAFETY: `errno` points to this thread's variable, and nobody holds a reference to it.
    unsafe { *errno = saved };
}

const PREFIX: &str = "zen5turbo: ";

/// The longest line. It has room for a message with one long path. A longer message is cut and ends with `...`.
const CAPACITY: usize = 2048;
const CUT: &[u8] = b"...\n";

struct Line {
    bytes: [u8; CAPACITY],
    len: usize,
    cut: bool,
}

impl Line {
    fn new() -> Self {
        Self { bytes: [0; CAPACITY], len: 0, cut: false }
    }

    /// The line with its newline.
    fn finish(&mut self) -> &[u8] {
        let end: &[u8] = if self.cut { CUT } else { b"\n" };
        self.bytes[self.len..self.len + end.len()].copy_from_slice(end);
        &self.bytes[..self.len + end.len()]
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            // A value from the environment must not break the line or steer the terminal.
            let c = if c.is_control() { '?' } else { c };
            if self.len + c.len_utf8() > CAPACITY - CUT.len() {
                self.cut = true;
                return Err(fmt::Error);
            }
            self.len += c.encode_utf8(&mut self.bytes[self.len..]).len();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_no_control_characters_but_its_newline() {
        let mut line = Line::new();
        line.write_str("a\nb\x1b[31mé").unwrap();
        assert_eq!(line.finish(), "a?b?[31mé\n".as_bytes());
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        let mut line = Line::new();
        assert!(line.write_str(&"é".repeat(CAPACITY)).is_err());
        let bytes = line.finish();
        assert!(bytes.len() <= CAPACITY);
        let text = std::str::from_utf8(bytes).unwrap();
        assert!(text.ends_with("é...\n"));
    }

    #[test]
    fn levels_are_ordered() {
        set_level(LogLevel::Info);
        assert!(enabled(LogLevel::Info) && !enabled(LogLevel::Debug));
        set_level(LogLevel::Off);
        assert!(!enabled(LogLevel::Info));
    }
}
