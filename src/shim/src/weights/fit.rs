//! Finds out whether a model fits in memory. If it does not, pages are read ahead of the products and released behind
//! them.
//!
//! Before the first graph only the size of the file is known, and not the size of the program's buffers. So a model
//! counts as too large only when it would not fit even if the kernel evicted everything it can.
//!
//! Later, the bytes that the process reads from the disk show it: the kernel reads pages again that it had to evict.
//! Releasing begins only if a lap would then read less than the kernel alone has just read in one lap. Every further
//! lap is compared with that figure, and releasing ends when it reads more. Some file systems (FUSE) do not count these
//! bytes; then the library leaves everything to the kernel.
//!
//! Example: a model of 241 MiB in a memory group of 320 MiB reads 241 MiB from the disk, as without the library
//! (`bench/records/2026-11-30-amd-epyc-memory.md`).

use std::time::Duration;

/// After this many laps in a row that read more than the kernel alone did, releasing ends. The first of them reads the
/// pages that are to stay.
const WORSE_LAPS: u32 = 3;

/// Fewer bytes read again than this share of the model do not count: one part in 32.
const SHARE_OF_NOTE: u64 = 32;

/// The least time between two checks whether the kernel reads pages again, while the model seems to fit.
pub const PERIOD: Duration = Duration::from_millis(20);

/// What is known about the size of the models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Not known yet, or the kernel has begun to read pages again. The next whole lap shows it.
    Unknown,
    /// A lap read no page again.
    Fits,
    /// Pages are read ahead and released. The number is the bytes that the kernel alone read in a lap.
    TooLarge(u64),
    /// Releasing pages did not pay, and is left to the kernel.
    LeftAlone,
}

/// The answer at the end of a lap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing new: go on as before.
    Open,
    /// The lap read this many bytes again. If memory has no room for the model, the model is too large; else something
    /// else was read.
    ReadAgain(u64),
    /// The model fits.
    Fits,
    /// Releasing pages does not pay.
    NoGain,
}

/// What is known about the models of this process, and how much the present lap has read.
#[derive(Debug)]
pub struct Watch {
    pub fit: Fit,
    /// Bytes that the process had read when the lap began; `None` when the lap does not count.
    since: Option<u64>,
    /// Laps in a row that have read more than the kernel alone did.
    worse: u32,
}

impl Watch {
    pub const fn new() -> Self {
        Watch { fit: Fit::Unknown, since: None, worse: 0 }
    }

    /// Sets a new state, and forgets the laps before.
    pub fn set(&mut self, fit: Fit) {
        *self = Watch { fit, ..Self::new() };
    }

    /// Lets the lap that has begun not count, because a model is being loaded.
    pub fn skip_lap(&mut self) {
        self.since = None;
    }

    /// A lap has ended, and the next one begins.
    ///
    /// - `read`: bytes that the process has read since its start.
    /// - `pages`: bytes of weights that a lap uses.
    /// - `counts`: whether the lap that ended used no new pages, and no model was being loaded meanwhile.
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

/// From how many bytes on a difference counts, for this many bytes of a model.
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
