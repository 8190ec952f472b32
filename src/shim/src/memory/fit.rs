//! Whether a model fits in memory, as far as is known: it decides whether pages are read ahead and released.
//!
//! Before the first graph only the file's size is known, not what buffers the program will have, so a model counts as
//! too large there only when nothing that the kernel can evict would make room for it. Later the kernel itself tells: it reads again
//! what it had to evict. Then pages are released only if so a lap reads less than the kernel alone has just read in one, and that
//! is compared again in every lap: what does not read less is given up. A kernel that does not count what a process reads
//! (FUSE) leaves all as it is.
//!
//! A model of 241 MiB with 77 MiB of buffers, 16 tokens, MiB read from the disk, 2026-11-30: in a memory group of 320 MiB
//! 241, as without the library; before, when room was what copies might take, 1411.

use std::time::Duration;

/// Laps in a row that may read more than the kernel alone did. The first one fetches what shall stay.
const WORSE_LAPS: u32 = 3;

/// Re-reading of less than this share of the model is no news.
const SHARE_OF_NOTE: u64 = 32;

/// How often is looked at most whether the kernel reads again, while the model seems to fit.
pub const PERIOD: Duration = Duration::from_millis(20);

/// What is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Nothing yet, or that the kernel has begun to read again: the next whole lap tells.
    Unknown,
    /// A lap read nothing again.
    Fits,
    /// Pages are read ahead and released. The kernel alone read so many bytes in a lap.
    TooLarge(u64),
    /// Releasing pages did not pay: they are the kernel's business.
    LeftAlone,
}

/// What is to be done at the beginning of a lap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Open,
    /// The lap read so many bytes again: with enough room it was something else, without it the model is too large.
    ReadAgain(u64),
    /// It fits.
    Fits,
    /// Releasing pages does not pay.
    NoGain,
}

/// What is known of the models of this process, and what the present lap has read.
#[derive(Debug)]
pub struct Watch {
    pub fit: Fit,
    /// Bytes read when the lap began; `None` when it does not count, since the model was being loaded.
    since: Option<u64>,
    worse: u32,
}

impl Watch {
    pub const fn new() -> Self {
        Watch { fit: Fit::Unknown, since: None, worse: 0 }
    }

    /// Something else is known from now on.
    pub fn set(&mut self, fit: Fit) {
        *self = Watch { fit, ..Self::new() };
    }

    /// The lap that has begun does not count: a model is being loaded.
    pub fn skip_lap(&mut self) {
        self.since = None;
    }

    /// A lap has ended, and another one begins. `read`: bytes read since the start; `pages`: bytes that a lap uses;
    /// `counts`: whether the lap that ended was a whole one that had been used before, and nothing was being loaded.
    pub fn lap_ended(&mut self, read: u64, pages: u64, counts: bool) -> Verdict {
        let spent = self.since.replace(read).filter(|_| counts).map(|since| read.saturating_sub(since));
        let Some(spent) = spent else { return Verdict::Open };
        match self.fit {
            Fit::Unknown if spent < is_of_note(pages) => Verdict::Fits,
            Fit::Unknown => Verdict::ReadAgain(spent),
            Fit::TooLarge(alone) => {
                self.worse = if spent > alone + is_of_note(alone) { self.worse + 1 } else { 0 };
                if self.worse == WORSE_LAPS { Verdict::NoGain } else { Verdict::Open }
            }
            Fit::Fits | Fit::LeftAlone => Verdict::Open,
        }
    }
}

/// So many bytes of a model are worth a look.
pub fn is_of_note(bytes: u64) -> u64 {
    (bytes / SHARE_OF_NOTE).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_lap_that_reads_nothing_again_says_that_the_model_fits() {
        let mut watch = Watch::new();
        assert_eq!(watch.lap_ended(100 * MIB, 100 * MIB, false), Verdict::Open, "loaded meanwhile");
        assert_eq!(watch.lap_ended(200 * MIB, 100 * MIB, false), Verdict::Open, "the first lap");
        assert_eq!(watch.lap_ended(201 * MIB, 100 * MIB, true), Verdict::Fits);
        assert_eq!(watch.lap_ended(205 * MIB, 100 * MIB, true), Verdict::ReadAgain(4 * MIB));
    }

    #[test]
    fn what_reads_more_than_the_kernel_alone_is_given_up() {
        let mut watch = Watch::new();
        watch.set(Fit::TooLarge(32 * MIB));
        let mut read = 0;
        let mut lap = |spent: u64| {
            read += spent * MIB;
            watch.lap_ended(read, 100 * MIB, true)
        };
        let laps = [0, 90, 90, 30, 34, 34].map(&mut lap);
        assert_eq!(laps, [Verdict::Open; 6]);
        assert_eq!(lap(34), Verdict::NoGain);
    }
}
