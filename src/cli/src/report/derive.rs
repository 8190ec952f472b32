//! Figures of two measurements: speed for each GB/s and each watt, and what tokens cost.

use super::contents::{At, Contents, Memory, Power, Speed};

/// Tokens.
const MILLION: f64 = 1e6;

/// Seconds of the hour that is paid for.
const HOUR: f64 = 3600.0;

/// What a million tokens cost at a price per hour.
pub fn cost(per_hour: f64, tokens_per_s: f64) -> f64 {
    per_hour / (tokens_per_s * HOUR) * MILLION
}

/// The rate at which as many threads streamed from memory: of the same file, else of the same CPU and day; the fastest kind
/// of pages.
pub fn memory_under<'a>(speed: &Speed, contents: &'a Contents) -> Option<&'a Memory> {
    let same = |memory: &&Memory| memory.threads == speed.threads && near(&memory.at, &speed.at);
    let in_file = |memory: &&Memory| memory.at.file == speed.at.file;
    let fastest = |a: &&Memory, b: &&Memory| a.rate.median.total_cmp(&b.rate.median);
    let all = || contents.memory.iter().filter(same);
    all().filter(in_file).max_by(fastest).or_else(|| all().max_by(fastest))
}

/// The power of all packages while all cores computed, in a record of the same CPU and day.
pub fn power_under<'a>(speed: &Speed, contents: &'a Contents) -> Option<(f64, &'a Power)> {
    let near: Vec<&Power> = contents.power.iter().filter(|power| near(&power.at, &speed.at)).collect();
    let last = near.iter().max_by(|a, b| a.at.date.cmp(&b.at.date))?;
    let packages = near.iter().filter(|power| power.at == last.at);
    Some((packages.map(|power| power.watts.median).sum(), last))
}

/// Whether two measurements are of the same CPU and day, as far as both say so.
fn near(a: &At, b: &At) -> bool {
    a.cpu == b.cpu && !a.cpu.brand.is_empty() && a.date.len() >= 10 && a.day() == b.day()
}
