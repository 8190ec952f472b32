//! Where the original's kernel is the faster one, measured: products that are left to it.
//!
//! The answer for a (kernel tier, weight type, number of columns) comes from the table in
//! [`defaults`], and from a calibration file (the crate `zen5turbo-calibration`, written by `zen5turbo tune`)
//! where there is one that was made on this CPU, with this build of ggml, for the tier in use. The file is read
//! when the shim engages; which ggml it must fit is known at the first graph, where [`resolve`] puts both
//! together. From then on the choices do not change, so that looking one up takes no lock and no memory.
//!
//! Weights lie plain for the whole process, so the choice is between our kernels and ggml's plain ones. Where ggml's
//! repacked kernels are faster than both, a single product cannot have them; `zen5turbo tune` says so, and
//! `ZEN5TURBO_REPACK=keep` is the user's to set.

mod decision;
mod defaults;

use std::ffi::{CStr, c_void};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use zen5turbo_calibration::{self as file, COPIES_PAY, Calibration, Differs, Machine, TuneFile};
pub use zen5turbo_calibration::{Regime, Width};
use zen5turbo_host::proc::read_regular;
use zen5turbo_kernels::formats::WeightType;
use zen5turbo_kernels::isa::Isa;
use zen5turbo_kernels::kernel::Blocking;
use zen5turbo_kernels::prefetch::GemvPrefetch;

use decision::{Circumstances, Decision};

use crate::config::{Config, Tune, config};
use crate::gate::state;
use crate::ggml::build::identity;
use crate::log::{self, log};
use crate::reason::Reason;
use crate::stats;

const TYPES: usize = WeightType::ALL.len();

/// The decision for every tier, weight type and regime.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Choices([[[Decision; Regime::ALL.len()]; TYPES]; Isa::ALL.len()]);

impl Choices {
    /// Those of the table.
    fn defaults(here: Circumstances) -> Self {
        Self(Isa::ALL.map(|isa| {
            WeightType::ALL.map(|weight| Regime::ALL.map(|regime| defaults::decision(isa, weight, regime, here)))
        }))
    }

    /// Replaces those that `calibration` has measured; returns how many came out differently.
    fn apply(&mut self, calibration: &Calibration) -> usize {
        let mut changed = 0;
        for measured in &calibration.measured {
            let choice = &mut self.0[calibration.isa as usize][measured.weight as usize][measured.regime as usize];
            let decision = measured.choice.into();
            changed += usize::from(*choice != decision);
            *choice = decision;
        }
        changed
    }

    fn get(&self, isa: Isa, weight: WeightType, regime: Regime) -> Decision {
        self.0[isa as usize][weight as usize][regime as usize]
    }
}

// `Choices` is indexed by the numbers of types and tiers.
const _: () = {
    let mut i = 0;
    while i < TYPES {
        assert!(WeightType::ALL[i] as usize == i, "WeightType::ALL is not in the order of the variants");
        i += 1;
    }
    let mut i = 0;
    while i < Isa::ALL.len() {
        assert!(Isa::ALL[i] as usize == i, "Isa::ALL is not in the order of the variants");
        i += 1;
    }
};

/// What became of the calibration file.
struct Loaded {
    /// The file that was looked for; `None` when there is no place to look, or `ZEN5TURBO_TUNE=off`.
    path: Option<PathBuf>,
    contents: Contents,
}

enum Contents {
    /// There is no file.
    None,
    /// It was not understood.
    Unusable(Reason),
    /// One of its calibrations may fit.
    File(TuneFile),
}

/// The choices of this process and where they come from.
struct Resolved {
    choices: Choices,
    blocking: Blocking,
    /// Of graphs of one column.
    threads: usize,
    status: &'static str,
}

static LOADED: OnceLock<Loaded> = OnceLock::new();
static RESOLVED: OnceLock<Resolved> = OnceLock::new();

/// `resolve` found no calibration file.
const NO_FILE: &str = "no_file";
/// The calibration file is in use.
const USED: &str = "used";
/// No graph was computed yet.
const PENDING: &str = "pending";

/// Reads the calibration file, once: a step of the start-up. What is wrong with it is said here.
pub fn load() {
    loaded();
}

fn loaded() -> &'static Loaded {
    LOADED.get_or_init(|| {
        let config = config();
        let path = place(config);
        let contents = match &path {
            Some(path) => read(path, matches!(config.tune, Tune::File(_))),
            None => Contents::None,
        };
        Loaded { path, contents }
    })
}

/// Where the calibration file is looked for.
fn place(config: &Config) -> Option<PathBuf> {
    match &config.tune {
        Tune::Off => None,
        Tune::File(path) => Some(path.clone()),
        Tune::Default => config.cache.as_ref().map(|cache| cache.join(file::PLACE)),
    }
}

/// Reads and parses `path`. A file that the user `named` must be there.
fn read(path: &Path, named: bool) -> Contents {
    let shown = log::short(path.as_os_str());
    // Not by the standard library, which makes calls that a seccomp filter may kill.
    let text = match read_regular(path, file::MAX_BYTES as usize) {
        Ok(text) => text,
        Err(error) if !named && is_absent(&error) => return Contents::None,
        Err(error) => {
            stats::event(Reason::TuneUnreadable);
            if named {
                log::line(format_args!("ZEN5TURBO_TUNE={shown} cannot be read: {error}; using the built-in table"));
            } else {
                log!(info, "{shown} cannot be read: {error}; using the built-in table");
            }
            return Contents::Unusable(Reason::TuneUnreadable);
        }
    };
    match file::parse(&text) {
        Ok(file) => Contents::File(file),
        Err(bad) => {
            stats::event(Reason::TuneBadFile);
            log::line(format_args!("{shown}, {bad}; the file is ignored, using the built-in table"));
            Contents::Unusable(Reason::TuneBadFile)
        }
    }
}

/// Nothing there, or nothing of ours: a component of the path that is not a directory.
fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

/// Resolves the choices of this process; only the first call does anything. To be called before a
/// graph is planned, with the tier in use and a function that finds symbols of the ggml that computes
/// it. In a process with several builds of ggml the first one to compute a graph decides whether the
/// file fits: choices may then be slower than need be for the others, never wrong.
pub fn resolve(isa: Isa, find: impl Fn(&CStr) -> Option<*mut c_void>) {
    RESOLVED.get_or_init(|| {
        // SAFETY: functions of a ggml, whose libraries are never closed (see `loader::libraries`).
        let ggml = unsafe { identity(find) };
        if ggml.starts_with('-') {
            stats::event(Reason::GgmlVersionUnknown);
        }
        combine(loaded(), &Machine { cpu: &state::cpu().brand, ggml: &ggml, isa }, Circumstances::here())
    });
}

/// The table, with the file's choices where it fits `machine`.
fn combine(loaded: &Loaded, machine: &Machine<'_>, here: Circumstances) -> Resolved {
    let mut choices = Choices::defaults(here);
    let (blocking, threads) = (Blocking::of(state::data_path()), usize::MAX);
    let file = match &loaded.contents {
        Contents::None => return Resolved { choices, blocking, threads, status: NO_FILE },
        Contents::Unusable(reason) => return Resolved { choices, blocking, threads, status: reason.as_str() },
        Contents::File(file) => file,
    };
    let path = loaded.path.as_deref().unwrap_or(Path::new("")).display();
    let calibration = match file.fitting(machine) {
        Ok(calibration) => calibration,
        Err(misfit) => {
            let reason = match misfit.differs {
                Differs::Cpu => Reason::TuneOtherCpu,
                Differs::Tier => Reason::TuneOtherTier,
                Differs::Ggml => Reason::TuneOtherGgml,
            };
            stats::event(reason);
            log!(info, "{path} is not used: {misfit}; using the built-in table");
            return Resolved { choices, blocking, threads, status: reason.as_str() };
        }
    };
    let changed = choices.apply(calibration);
    log!(info, "{path}: {} choices, {changed} of them not as in the built-in table", calibration.measured.len());
    let blocking = Blocking {
        panel_bytes: calibration.cut.panel.unwrap_or(blocking.panel_bytes),
        prefetch_bytes: calibration.cut.prefetch.unwrap_or(blocking.prefetch_bytes),
        rows: GemvPrefetch { ahead: calibration.cut.ahead.map_or(blocking.rows.ahead, |n| n as u32), ..blocking.rows },
        ..blocking
    };
    let threads = calibration.threads.unwrap_or(threads);
    Resolved { choices, blocking, threads, status: USED }
}

/// How products of many columns are cut: as it was measured to be fastest, once [`resolve`] knows.
#[must_use]
pub fn blocking() -> Blocking {
    RESOLVED.get().map_or_else(|| Blocking::of(state::data_path()), |resolved| resolved.blocking)
}

/// The most threads that make a graph of one column faster, as far as that was measured.
#[must_use]
pub fn threads_of_one_column() -> usize {
    RESOLVED.get().map_or(usize::MAX, |resolved| resolved.threads)
}

/// The width of AVX-512 registers that was measured to be the faster one on the CPU `brand`.
pub fn measured_width(brand: &str) -> Option<Width> {
    match &loaded().contents {
        Contents::File(file) => file.width(brand),
        _ => None,
    }
}

/// What copies of weights on huge pages gain in generation, in hundredths, as it was measured last on this CPU with any
/// ggml; `None` where it was not. Known before the first graph.
fn gain_of_copies(contents: &Contents, brand: &str) -> Option<u32> {
    match contents {
        Contents::File(file) => file.copies(brand),
        _ => None,
    }
}

/// Whether weights are worth a copy on huge pages on one NUMA node: only where that was measured on this CPU.
#[must_use]
pub fn copies_pay() -> bool {
    gain_of_copies(&loaded().contents, &state::cpu().brand).is_some_and(|gain| gain >= COPIES_PAY)
}

/// The measured gain for the statistics, which read no file: `None` also before [`load`].
#[must_use]
pub fn reported_gain_of_copies() -> Option<u32> {
    gain_of_copies(&LOADED.get()?.contents, &state::cpu().brand)
}

/// Why a product of `columns` columns with weights of type `weight` is left to the original where the kernels of `isa`
/// could compute it: [`Reason::StockIsFaster`], [`Reason::NotFaster`] or [`Reason::Unmeasured`]. `None`: it is taken.
///
/// The answer is that of the table until [`resolve`], and does not change after it.
#[must_use]
pub fn decline(isa: Isa, weight: WeightType, columns: usize) -> Option<Reason> {
    let regime = Regime::of(columns);
    let decision = match RESOLVED.get() {
        Some(resolved) => resolved.choices.get(isa, weight, regime),
        None => defaults::decision(isa, weight, regime, Circumstances::here()),
    };
    match decision {
        Decision::Ours => None,
        Decision::Stock => Some(Reason::StockIsFaster),
        Decision::Even => Some(Reason::NotFaster),
        Decision::Unmeasured => Some(Reason::Unmeasured),
    }
}

/// The file that was looked for (empty: none) and what became of it, for the statistics: `pending`
/// before the first graph, `no_file`, `used`, or the name of the [`Reason`] for which it is not used.
#[must_use]
pub fn report() -> (String, &'static str) {
    let path = LOADED.get().and_then(|loaded| loaded.path.as_ref());
    (
        path.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default(),
        RESOLVED.get().map_or(PENDING, |resolved| resolved.status),
    )
}

#[cfg(test)]
mod tests;
