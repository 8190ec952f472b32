//! How fast this machine reads memory: what the weights read per second are compared with.

mod kept;

use std::path::Path;
use std::thread;

use serde::{Deserialize, Serialize};
use zen5turbo_host::memory::Budget;
use zen5turbo_peaks::memory::{Buffer, uncached_bytes};
use zen5turbo_peaks::stream::read_rate;

pub use kept::Kept;

/// A measurement.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// Threads, each reading its own part.
    pub threads: usize,
    /// Bytes per second, all together.
    pub rate: f64,
    /// Bytes that were read in a pass.
    pub bytes: usize,
}

/// Streams through anonymous memory, huge pages where there are any, with one thread and with as many
/// as this process may run at once. A quarter of a second. `None` where memory is too short for it.
pub fn measure() -> Option<Vec<Bandwidth>> {
    let bytes = uncached_bytes();
    if Budget::below(Path::new("/")).spare().is_none_or(|spare| spare < bytes as u64) {
        return None;
    }
    let memory = Buffer::new(bytes).ok()?;
    let all = thread::available_parallelism().map_or(1, usize::from);
    let counts = if all > 1 { vec![1, all] } else { vec![1] };
    let measured = |threads| {
        let (rate, bytes) = read_rate(memory.bytes(), threads);
        Bandwidth { threads, rate, bytes }
    };
    Some(counts.into_iter().map(measured).collect())
}
