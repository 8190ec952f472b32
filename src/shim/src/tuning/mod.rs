//! Decides which products are left to ggml because its kernel was measured to be faster.
//!
//! The answer for a kernel tier, a weight type and a number of columns comes from the table in [`defaults`]. A
//! calibration file replaces answers of the table, if it was made on this CPU, with this build of ggml, and for the
//! tier in use. `zen5turbo tune` writes this file (crate `zen5turbo-calibration`).
//!
//! The file is read when the shim starts. The build of ggml is known at the first graph, where [`resolve`] combines
//! table and file. After that the choices do not change, so a look-up takes no lock and no memory.
//!
//! Weights are not repacked, so the choice is between the kernels of this library and ggml's kernels for plain weights.
//! ggml's kernels for repacked weights may be faster than both, but cannot be used for single products. `zen5turbo
//! tune` reports this case, and the user can set `ZEN5TURBO_REPACK=keep`.

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
use zen5turbo_kernels::kernel::{Blocking, Kernel};
use zen5turbo_kernels::prefetch::GemvPrefetch;
use zen5turbo_kernels::registry;

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
    /// The choices of the built-in table.
    fn defaults(here: Circumstances) -> Self {
        Self(Isa::ALL.map(|isa| {
            WeightType::ALL.map(|weight| Regime::ALL.map(|regime| defaults::decision(isa, weight, regime, here)))
        }))
    }

    /// Replaces the choices that `calibration` has measured. Returns how many of them changed.
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

/// The calibration file after it was read.
struct Loaded {
    /// The path of the file, whether it exists or not. `None` with `ZEN5TURBO_TUNE=off`, and when there is no cache
    /// folder.
    path: Option<PathBuf>,
    contents: Contents,
}

enum Contents {
    /// There is no file.
    None,
    /// The file cannot be read, or not be parsed.
    Unusable(Reason),
    /// The file was parsed, and one of its calibrations may fit.
    File(TuneFile),
}

/// The choices of this process, and the status of the calibration file.
struct Resolved {
    choices: Choices,
    blocking: Blocking,
    /// The most threads for graphs of one column.
    threads: usize,
    status: &'static str,
}

static LOADED: OnceLock<Loaded> = OnceLock::new();
static RESOLVED: OnceLock<Resolved> = OnceLock::new();

/// The status when `resolve` has found no calibration file.
const NO_FILE: &str = "no_file";
/// The status when the calibration file is used.
const USED: &str = "used";
/// The status before the first graph.
const PENDING: &str = "pending";

/// Reads the calibration file once, as a step of start-up. Errors in it are reported here.
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

/// The path of the calibration file.
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
    // Not by the standard library, which makes system calls for which a seccomp filter may kill the program.
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

/// Whether the file does not exist. A component of its path may also be no directory.
fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

/// Resolves the choices of this process; only the first call has an effect. Called before a graph is planned, with the
/// tier in use and a function that finds symbols of the ggml that computes the graph.
///
/// In a process with several builds of ggml, the first build that computes a graph decides whether the file fits. The
/// choices may be slow for the other builds, but never wrong.
pub fn resolve(isa: Isa, find: impl Fn(&CStr) -> Option<*mut c_void>) {
    RESOLVED.get_or_init(|| {
        // SAFETY: `find` finds the functions of one ggml, whose libraries are never closed (see `loader::libraries`).
        let ggml = unsafe { identity(find) };
        if ggml.starts_with('-') {
            stats::event(Reason::GgmlVersionUnknown);
        }
        combine(loaded(), &Machine { cpu: &state::cpu().brand, ggml: &ggml, isa }, Circumstances::here())
    });
}

/// The built-in table, with the choices of the file if it fits `machine`.
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

/// How products are cut into panels. After [`resolve`], these are the values that were measured to be fastest.
#[must_use]
pub fn blocking() -> Blocking {
    let blocking = RESOLVED.get().map_or_else(|| Blocking::of(state::data_path()), |resolved| resolved.blocking);
    if config().invariant { blocking.in_one_piece() } else { blocking }
}

/// The most threads for a graph of one column: more threads were measured not to be faster. `usize::MAX` if unmeasured.
#[must_use]
pub fn threads_of_one_column() -> usize {
    RESOLVED.get().map_or(usize::MAX, |resolved| resolved.threads)
}

/// The width of AVX-512 registers that was measured to be faster on the CPU `brand`.
pub fn measured_width(brand: &str) -> Option<Width> {
    match &loaded().contents {
        Contents::File(file) => file.width(brand),
        _ => None,
    }
}

/// The gain of copies of weights on huge pages in generation, in hundredths: the last measurement on this CPU, with any
/// ggml. `None` if unmeasured. Known before the first graph.
fn gain_of_copies(contents: &Contents, brand: &str) -> Option<u32> {
    match contents {
        Contents::File(file) => file.copies(brand),
        _ => None,
    }
}

/// Whether copies of weights on huge pages pay with one NUMA node. True only if this was measured on this CPU.
#[must_use]
pub fn copies_pay() -> bool {
    gain_of_copies(&loaded().contents, &state::cpu().brand).is_some_and(|gain| gain >= COPIES_PAY)
}

/// The measured gain for the statistics. It reads no file, so it is `None` before [`load`].
#[must_use]
pub fn reported_gain_of_copies() -> Option<u32> {
    gain_of_copies(&LOADED.get()?.contents, &state::cpu().brand)
}

/// The reason why a product of `columns` columns, with weights of type `weight`, is left to ggml although the kernels
/// of `isa` could compute it: [`Reason::StockIsFaster`], [`Reason::NotFaster`] or [`Reason::Unmeasured`]. `None` when
/// it is computed here.
///
/// Before [`resolve`] the built-in table answers. After it the answer does not change.
#[must_use]
pub fn decline(isa: Isa, weight: WeightType, columns: usize) -> Option<Reason> {
    if config().invariant {
        return None; // ggml adds in another order: of a type, it computes all products or none
    }
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

/// The kernel for products of `columns` columns of `k` elements, the fastest one or, with `ZEN5TURBO_INVARIANT=1`, the
/// fastest of those whose bits do not depend on the number of columns.
#[must_use]
pub fn kernel(weight: WeightType, k: usize, columns: usize) -> Option<&'static Kernel> {
    let choose = if config().invariant { registry::in_one_order } else { registry::kernel_on };
    choose(state::data_path(), state::isa(), weight, (k, columns))
}

/// The path of the calibration file (empty for none) and its status, for the statistics. The status is `pending` before
/// the first graph, `no_file`, `used`, or the name of the [`Reason`] why the file is not used.
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
