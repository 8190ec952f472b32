//! Whether the machine had other work to do.

use std::fs;
use std::time::Instant;

/// Ticks per second of the counters in procfs: `USER_HZ`, which is 100 on x86 whatever the kernel's own is.
const TICKS: f64 = 100.0;

/// The counters at a time.
pub struct Busy {
    /// Ticks of all CPUs that were not idle, and those of this process and its children.
    ticks: Option<(u64, u64)>,
    at: Instant,
}

impl Busy {
    /// The counters now.
    pub fn now() -> Busy {
        let all = fs::read_to_string("/proc/stat").ok().and_then(|text| busy(&text));
        let own = fs::read_to_string("/proc/self/stat").ok().and_then(|text| own(&text));
        Busy { ticks: all.zip(own), at: Instant::now() }
    }

    /// How many CPUs others kept busy since then, on average.
    pub fn others_since(&self) -> Option<f64> {
        let now = Busy::now();
        let ((all, own), (all_then, own_then)) = (now.ticks?, self.ticks?);
        let others = all.saturating_sub(all_then).saturating_sub(own.saturating_sub(own_then));
        let cpus = others as f64 / TICKS / (now.at - self.at).as_secs_f64();
        Some((cpus * 1000.0).round() / 1000.0)
    }
}

/// Of `/proc/stat`, proc(5): user, nice, system, idle, iowait, irq, softirq, steal (what other guests had of
/// this one's CPUs); the guest times after them are part of user and nice.
fn busy(text: &str) -> Option<u64> {
    let numbers: Vec<u64> =
        text.lines().next()?.strip_prefix("cpu ")?.split_whitespace().flat_map(str::parse).collect();
    let at = |i: usize| numbers.get(i).copied();
    Some(at(0)? + at(1)? + at(2)? + at(5)? + at(6)? + at(7).unwrap_or(0))
}

/// Of `/proc/self/stat`: user and system time of the process and of the children it waited for.
fn own(text: &str) -> Option<u64> {
    // After the name, which may hold anything, in parentheses.
    let (_, rest) = text.rsplit_once(')')?;
    let mut numbers = rest.split_whitespace().skip(11).map(|word| word.parse::<u64>().ok());
    Some(numbers.next()?? + numbers.next()?? + numbers.next()?? + numbers.next()??)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counters_are_read_by_their_place() {
        assert_eq!(busy("cpu  1 2 4 1000 1000 8 16 32 64 128\ncpu0 1"), Some(63));
        assert_eq!(busy("cpu  1 2 4 1000 1000 8 16"), Some(31), "before Linux 2.6.11 nothing was stolen");
        assert_eq!(busy("intr 5"), None);
        assert_eq!(own("7 (a) b) R 1 1 1 0 -1 0 0 0 0 0 100 20 3 4 20 0"), Some(127));
        assert_eq!(own("7 (a)"), None);
    }

    #[test]
    fn this_machine_tells() {
        let busy = Busy::now();
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(busy.others_since().is_some_and(|cpus| cpus >= 0.0));
    }
}
