//! What this machine can do at most: the rates that a product is set against (see [`zen5turbo_peaks`]).

use std::io;

use zen5turbo_kernels::kernel::Kernel;
use zen5turbo_kernels::mix::Mix;
use zen5turbo_peaks::memory::uncached_bytes;
use zen5turbo_peaks::rate::{clock_rate, mac_rate};
use zen5turbo_peaks::stream::read_rate;

use crate::memory::{Memory, Pages};

/// Streaming read of one kind of memory by a number of threads at a time.
#[derive(Clone, Copy, Debug)]
pub struct Bandwidth {
    /// The kind of memory.
    pub pages: Pages,
    /// The share of it that really was in huge pages.
    pub huge_share: f64,
    /// Threads reading, each its own part.
    pub threads: usize,
    /// Bytes per second, all threads together.
    pub rate: f64,
}

/// The peaks of this machine, as measured now.
#[derive(Clone, Debug)]
pub struct Peaks {
    /// Clock cycles per second of scalar code. Parts that lower their clock for wide vectors run
    /// those at fewer; nothing without performance counters can tell.
    pub clock: f64,
    /// Multiply-adds per second of one thread, for the mixes this CPU has.
    pub mac: Vec<(Mix, f64)>,
    /// Memory, by kind and number of threads.
    pub bandwidth: Vec<Bandwidth>,
    /// Bytes that the bandwidth was measured over.
    pub bandwidth_bytes: usize,
}

impl Peaks {
    /// Measures for two to three seconds. The numbers of threads are 1, 2, 4, ... and all.
    pub fn measure() -> io::Result<Peaks> {
        let all = std::thread::available_parallelism().map_or(1, usize::from);
        let mut threads: Vec<usize> =
            std::iter::successors(Some(1), |n| Some(n * 2)).take_while(|&n| n < all).collect();
        threads.push(all);

        let bandwidth_bytes = uncached_bytes();
        let mut bandwidth = Vec::new();
        for pages in Pages::ALL {
            let memory = Memory::repeat(&vec![0x5a; 1 << 20], bandwidth_bytes >> 20, pages)?;
            let huge_share = memory.huge_share();
            for &threads in &threads {
                let (rate, _) = read_rate(memory.bytes(), threads);
                bandwidth.push(Bandwidth { pages, huge_share, threads, rate });
            }
        }
        let mac = Mix::ALL.into_iter().filter_map(|mix| Some((mix, mac_rate(mix)?))).collect();
        Ok(Peaks { clock: clock_rate(), mac, bandwidth, bandwidth_bytes })
    }

    /// Multiply-adds per second that one thread could do at most in the inner loop of `kernel`.
    pub fn mac_of(&self, kernel: &Kernel) -> f64 {
        let mix = Mix::of(kernel);
        self.mac.iter().find(|(m, _)| *m == mix).map_or(f64::NAN, |&(_, rate)| rate)
    }

    /// Bytes per second that one thread reads from memory of that kind.
    pub fn read_by_one(&self, pages: Pages) -> f64 {
        self.bandwidth.iter().find(|b| b.pages == pages && b.threads == 1).map_or(f64::NAN, |b| b.rate)
    }
}
