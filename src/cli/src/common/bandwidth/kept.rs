//! The last measurement, kept in the user's cache folder: it disturbs whatever runs, so it is not made unasked.

use std::env;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread;

use serde::{Deserialize, Serialize};
use zen5turbo_host::Cpu;
use zen5turbo_host::proc::xdg_folder;

use super::{Bandwidth, measure};
use crate::record;

/// A measurement, of this machine and set of CPUs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// When, ISO 8601 in UTC.
    pub date: String,
    cpu: String,
    cpus: usize,
    /// Others computed meanwhile: it is what they left, and less than the machine can.
    pub beside_others: bool,
    /// One entry for each number of threads.
    pub rates: Vec<Bandwidth>,
}

impl Kept {
    /// Measures for a quarter of a second, and keeps it, unless a better one is kept: one that was made while nothing
    /// else ran is better than one that was not. `None` where memory is too short.
    pub fn measure() -> Option<Kept> {
        let (cpu, cpus) = here();
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let beside_others = runnable(&load).is_none_or(|threads| threads > 1);
        let kept = Kept { date: record::now(), cpu, cpus, beside_others, rates: measure()? };
        let Some(file) = file() else { return Some(kept) };
        if let Some(last) = Self::read(&file).filter(|last| kept.beside_others && last.is_better_than(&kept)) {
            return Some(last);
        }
        // Without the file, the next one measures anew.
        let _ = kept.write(&file);
        Some(kept)
    }

    fn is_better_than(&self, other: &Kept) -> bool {
        let rate = |kept: &Kept| kept.best().map_or(0.0, |best| best.rate);
        !self.beside_others || rate(self) > rate(other)
    }

    /// The one that was kept, when it was made on this CPU and on as many.
    pub fn last() -> Option<Kept> {
        Self::read(&file()?)
    }

    /// The highest rate, bytes per second, and its threads.
    pub fn best(&self) -> Option<Bandwidth> {
        self.rates.iter().copied().max_by(|a, b| a.rate.total_cmp(&b.rate))
    }

    fn read(file: &Path) -> Option<Kept> {
        let kept: Kept = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
        let valid = kept.rates.iter().all(|b| b.rate.is_finite() && b.rate > 0.0);
        (valid && (kept.cpu.clone(), kept.cpus) == here()).then_some(kept)
    }

    fn write(&self, file: &Path) -> std::io::Result<()> {
        let folder = file.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(folder)?;
        let mut part = tempfile::NamedTempFile::new_in(folder)?;
        part.write_all(&serde_json::to_vec(self)?)?;
        part.persist(file)?;
        Ok(())
    }
}

/// Threads that run or could, this one included, of `/proc/loadavg`.
fn runnable(load: &str) -> Option<u32> {
    load.split_whitespace().nth(3)?.split('/').next()?.parse().ok()
}

fn here() -> (String, usize) {
    (Cpu::detect().brand, thread::available_parallelism().map_or(1, usize::from))
}

fn file() -> Option<PathBuf> {
    let cache = xdg_folder(env::var_os("XDG_CACHE_HOME"), env::var_os("HOME"), ".cache")?;
    Some(cache.join("zen5turbo/bandwidth.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_again_on_the_same_cpus_only() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a/b.json");
        let (cpu, cpus) = here();
        let rate = |threads: usize| Bandwidth { threads, rate: 1e9 * threads as f64, bytes: 8 };
        let kept = Kept {
            date: "2026-11-21T00:00:00Z".into(),
            cpu,
            cpus,
            beside_others: false,
            rates: vec![rate(1), rate(2)],
        };
        kept.write(&file).unwrap();
        assert_eq!(Kept::read(&file), Some(kept.clone()));
        assert_eq!(kept.best().map(|b| b.threads), Some(2));
        let busy = Kept { beside_others: true, rates: vec![rate(3)], ..kept.clone() };
        assert!(kept.is_better_than(&busy) && !busy.is_better_than(&busy.clone()));
        assert_eq!((runnable("0.17 0.80 0.75 2/174 99"), runnable("")), (Some(2), None));
        Kept { cpus: cpus + 1, ..kept }.write(&file).unwrap();
        assert_eq!(Kept::read(&file), None);
        std::fs::write(&file, "{").unwrap();
        assert_eq!(Kept::read(&file), None);
    }
}
