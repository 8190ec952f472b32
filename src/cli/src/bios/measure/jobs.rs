//! What is measured.

use std::io;

use zen5turbo_host::Caches;
use zen5turbo_host::cpuset::{CpuSet, set_affinity};
use zen5turbo_host::memory::Budget;
use zen5turbo_host::memory::map::HUGE_PAGE;
use zen5turbo_kernels::mix::Mix;
use zen5turbo_peaks::chase::Chase;
use zen5turbo_peaks::memory::uncached_bytes;
use zen5turbo_peaks::{pair, rate, stream};

use super::cores::Places;
use super::{Measured, Sample};
use crate::bios::record::{CorePair, Group, Unmeasured};
use crate::bios::settings::Energy;
use crate::root::Root;
use crate::statistics::median;
use crate::text;

type Run<'a> = Box<dyn FnMut(&mut Vec<CorePair>) -> Result<Vec<Sample>, String> + 'a>;

/// A measurement that every round makes once.
pub struct Job<'a> {
    /// For the progress, and for who reads why it failed.
    pub what: String,
    pub run: Run<'a>,
}

impl<'a> Job<'a> {
    fn new(what: &str, run: impl FnMut(&mut Vec<CorePair>) -> Result<Vec<Sample>, String> + 'a) -> Job<'a> {
        Job { what: what.to_owned(), run: Box::new(run) }
    }
}

fn words(error: io::Error) -> String {
    error.to_string()
}

/// `1 thread`, `2 threads`.
fn threads(n: usize) -> String {
    format!("{n} thread{}", if n == 1 { "" } else { "s" })
}

/// All measurements of this machine. What cannot be measured at all goes to `measured`, and what the reader
/// has to know.
pub fn all<'a>(root: &'a Root, places: &'a Places, measured: &mut Measured) -> Vec<Job<'a>> {
    let mut jobs = Vec::new();
    for n in places.counts() {
        streams(&mut jobs, places, (Group::Read, Group::Copy), threads(n), n, places.first(n));
    }
    let caches = places.caches();
    if caches.len() > 1 {
        for (i, cpus) in caches.into_iter().enumerate() {
            let name = format!("CCD {i} ({})", threads(cpus.len()));
            streams(&mut jobs, places, (Group::ReadCcd, Group::CopyCcd), name, i, cpus);
        }
    }
    latency(&mut jobs, places.first(1)[0]);
    pairs(&mut jobs, places, measured);
    rates(&mut jobs, root, places, measured);
    measured
        .notes
        .push("A sample is the best of several repetitions within a second; a round takes one of each.".into());
    jobs
}

/// Reading and copying by one thread on each of `cpus`.
fn streams<'a>(
    jobs: &mut Vec<Job<'a>>,
    places: &Places,
    groups: (Group, Group),
    name: String,
    x: usize,
    cpus: Vec<CpuSet>,
) {
    // Twice what the caches at these cores hold, all threads together.
    let all = uncached_bytes().max(places.caches_of(&cpus) * 2 * Caches::detect().l3);
    let each = (all / cpus.len()).next_multiple_of(HUGE_PAGE);
    let other = cpus.clone();
    let mut add = |group: Group, word: &str, needed: usize, run: Box<dyn Fn() -> io::Result<f64> + 'a>| {
        let name = format!("{word}, {name}");
        let what = name.clone();
        jobs.push(Job::new(&what, move |_| {
            let spare = Budget::of_this_process().spare().unwrap_or(0);
            if spare < needed as u64 {
                let (needed, spare) = (text::bytes(needed as u64), text::bytes(spare));
                return Err(format!("it takes {needed} of memory, and {spare} can be spared"));
            }
            let value = run().map_err(words)? / 1e9;
            Ok(vec![Sample { group, name: name.clone(), x: x as f64, unit: "GB/s", value }])
        }));
    };
    let n = cpus.len();
    add(groups.0, "read", n * each, Box::new(move || stream::read_rate_at(&cpus, each)));
    // Half from, half to.
    let half = (each / 2).next_multiple_of(HUGE_PAGE);
    add(groups.1, "copy", 2 * n * half, Box::new(move || stream::copy_rate_at(&other, half)));
}

/// The smallest ring, and the largest: four times the last-level cache within these bounds.
const SMALLEST: usize = 16 << 10;
const LARGEST: (usize, usize) = (128 << 20, 256 << 20);

/// Load-to-use latency of one core, over sizes that double.
fn latency(jobs: &mut Vec<Job<'_>>, place: CpuSet) {
    let largest = (4 * Caches::detect().l3).next_power_of_two().clamp(LARGEST.0, LARGEST.1);
    jobs.push(Job::new("latency", move |_| {
        let spare = Budget::of_this_process().spare().unwrap_or(0);
        if spare < 2 * largest as u64 {
            return Err(format!("it takes {} of memory", text::bytes(2 * largest as u64)));
        }
        // In a thread of its own, which is bound to the core: memory and caches are those near it.
        let measured = std::thread::scope(|scope| {
            scope
                .spawn(|| -> io::Result<Vec<(usize, f64)>> {
                    set_affinity(&place)?;
                    let mut chase = Chase::new(largest)?;
                    let mut random = fastrand::Rng::new();
                    let sizes = std::iter::successors(Some(SMALLEST), |n| Some(n * 2)).take_while(|&n| n <= largest);
                    Ok(sizes.map(|bytes| (bytes, chase.latency(bytes, &mut random))).collect())
                })
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the measuring thread panicked")))
        });
        let sample = |(bytes, value): (usize, f64)| {
            let name = format!("latency, {}", text::bytes(bytes as u64).replace(".0 ", " "));
            Sample { group: Group::Latency, name, x: bytes as f64, unit: "ns", value }
        };
        Ok(measured.map_err(words)?.into_iter().map(sample).collect())
    }));
}

/// Core-to-core latency: every pair, and its median over the pairs that are as far apart.
fn pairs<'a>(jobs: &mut Vec<Job<'a>>, places: &Places, measured: &mut Measured) {
    const WHAT: &str = "core to core";
    let (pairs, cores) = places.pairs();
    if pairs.is_empty() {
        return measured.unmeasured.push(Unmeasured { name: WHAT.into(), why: "one core only may be used".into() });
    }
    if cores < places.len() {
        let note = format!("Core to core: {cores} of {} cores, as many of each L3.", places.len());
        measured.notes.push(note);
    }
    jobs.push(Job::new(WHAT, move |all| {
        let mut by_distance = std::collections::BTreeMap::<_, Vec<f64>>::new();
        for (a, b, distance) in &pairs {
            let ns = pair::latency([a, b]).map_err(words)?;
            by_distance.entry(*distance).or_default().push(ns);
            let cpus = [a, b].map(|place| place.iter().next().unwrap_or_default());
            let ns = (ns * 100.0).round() / 100.0;
            match all.iter_mut().find(|pair| pair.cpus == cpus) {
                Some(pair) => pair.samples.push(ns),
                None => all.push(CorePair { cpus, samples: vec![ns] }),
            }
        }
        let sample = |(i, (distance, values)): (usize, (super::cores::Distance, Vec<f64>))| {
            let name = format!("core to core, {}", distance.words());
            Some(Sample { group: Group::CoreToCore, name, x: i as f64, unit: "ns", value: median(&values)? })
        };
        Ok(by_distance.into_iter().enumerate().filter_map(sample).collect())
    }));
}

/// Clock and multiply-adds of one core and of all at once, and the power that the latter take.
fn rates<'a>(jobs: &mut Vec<Job<'a>>, root: &'a Root, places: &Places, measured: &mut Measured) {
    let mix = Mix::ALL.into_iter().rev().find(|mix| mix.isa().available()).unwrap_or(Mix::Sse2);
    let energy = Energy::of(root);
    if let Err(why) = &energy {
        measured.unmeasured.push(Unmeasured { name: "power".into(), why: why.clone() });
    }
    let energy = std::rc::Rc::new(energy.ok());
    let mut counts = vec![1, places.len()];
    counts.dedup();
    for n in counts {
        let (busy, cpus) = (format!("clock, {n} core{} busy", if n == 1 { "" } else { "s" }), places.first(n));
        jobs.push(Job::new(&busy.clone(), move |_| {
            let value = rate::clock_rate_at(&cpus).map_err(words)? / 1e9;
            Ok(vec![Sample { group: Group::Clock, name: busy.clone(), x: n as f64, unit: "GHz", value }])
        }));
        let (name, cpus) = (format!("int8 ({}), {}", mix.name(), threads(n)), places.first(n));
        let energy = (n == places.len()).then(|| energy.clone());
        jobs.push(Job::new(&name.clone(), move |_| {
            let work = || rate::mac_rate_at(&cpus, mix);
            let (rate, powers) = match energy.as_deref() {
                Some(Some(energy)) => energy.during(root, work),
                _ => (work(), Vec::new()),
            };
            let value = rate.map_err(words)? / 1e9;
            let mut samples =
                vec![Sample { group: Group::Int8, name: name.clone(), x: n as f64, unit: "GMAC/s", value }];
            samples.extend(powers.into_iter().enumerate().map(|(i, (zone, value))| {
                let name = format!("power of {zone} at int8, {}", threads(n));
                Sample { group: Group::Power, name, x: i as f64, unit: "W", value }
            }));
            Ok(samples)
        }));
    }
}
