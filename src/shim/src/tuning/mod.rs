//! Where the original's kernel is the faster one, measured: products that are left to it.
//!
//! The answer for a (kernel tier, weight type, number of columns) comes from the table in
//! [`defaults`], and from a calibration file ([`mod@file`]) where there is one that was made on this CPU,
//! with this ggml, for the tier in use. The file is read when the shim engages; which ggml it must
//! fit is known at the first graph, where [`settle`] puts both together. From then on the choices do
//! not change, so that looking one up takes no lock and no memory.

mod defaults;
mod file;

use std::ffi::{CStr, c_char, c_void};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use zen5turbo_kernels::formats::WeightType;
use zen5turbo_kernels::isa::Isa;

use crate::config::{Config, KernelChoice, Tune, config};
use crate::ggml::copies::c_str;
use crate::log::{self, log};
use crate::reason::Reason;
use crate::startup;
use crate::stats;
use file::{Calibration, Machine};

/// How many columns a product has: each regime has a way of computing of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Regime {
    /// One: generating a token.
    One = 0,
    /// 2 to 16: parallel slots, speculative decoding.
    Few = 1,
    /// More: reading a prompt.
    Many = 2,
}

impl Regime {
    /// Every regime, in the order of its number.
    pub const ALL: [Self; 3] = [Self::One, Self::Few, Self::Many];

    /// The regime of a product with `columns` columns.
    #[must_use]
    pub const fn of(columns: usize) -> Self {
        match columns {
            0 | 1 => Self::One,
            2..=16 => Self::Few,
            _ => Self::Many,
        }
    }

    /// The name in files and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::One => "1",
            Self::Few => "2-16",
            Self::Many => "many",
        }
    }
}

/// Who computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The kernels of this library.
    Ours,
    /// The original.
    Stock,
}

const TYPES: usize = WeightType::ALL.len();

/// The choice for every tier, weight type and regime.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Choices([[[Choice; Regime::ALL.len()]; TYPES]; Isa::ALL.len()]);

impl Choices {
    /// Those of the table; `forced`: the user asked for the portable kernels.
    fn defaults(forced: bool) -> Self {
        Self(Isa::ALL.map(|isa| {
            WeightType::ALL.map(|weight| Regime::ALL.map(|regime| defaults::choice(isa, weight, regime, forced)))
        }))
    }

    /// Replaces those that `calibration` has measured; returns how many came out differently.
    fn apply(&mut self, calibration: &Calibration) -> usize {
        let mut changed = 0;
        for measured in &calibration.measured {
            // A type in the format, but without kernels in this build, is never asked about.
            let Some(weight) = WeightType::ALL.iter().position(|w| w.ggml_name() == measured.weight) else { continue };
            let choice = &mut self.0[calibration.tier as usize][weight][measured.regime as usize];
            changed += usize::from(*choice != measured.choice());
            *choice = measured.choice();
        }
        changed
    }

    fn get(&self, isa: Isa, weight: WeightType, regime: Regime) -> Choice {
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
    /// It may fit.
    Calibration(Calibration),
}

/// The choices of this process and where they come from.
struct Settled {
    choices: Choices,
    status: &'static str,
}

static LOADED: OnceLock<Loaded> = OnceLock::new();
static SETTLED: OnceLock<Settled> = OnceLock::new();

/// `settle` found no calibration file.
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
        Tune::Default => config.cache.as_ref().map(|cache| cache.join("zen5turbo/tune.txt")),
    }
}

/// Reads and parses `path`. A file that the user `named` must be there.
fn read(path: &Path, named: bool) -> Contents {
    let shown = path.display();
    let text = match file::read(path) {
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
        Ok(calibration) => Contents::Calibration(calibration),
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

/// Settles the choices for this process; only the first call does anything. To be called before a
/// graph is planned, with the tier in use and a function that finds symbols of the ggml that computes
/// it. In a process with several builds of ggml the first one to compute a graph decides whether the
/// file fits: choices may then be slower than need be for the others, never wrong.
pub fn settle(isa: Isa, find: impl Fn(&CStr) -> Option<*mut c_void>) {
    SETTLED.get_or_init(|| {
        let machine = Machine { cpu: &startup::cpu().brand, ggml: ggml_version(find), tier: isa };
        combine(loaded(), &machine, is_forced())
    });
}

/// The table, with the file's choices where it fits `machine`.
fn combine(loaded: &Loaded, machine: &Machine<'_>, forced: bool) -> Settled {
    let mut choices = Choices::defaults(forced);
    let calibration = match &loaded.contents {
        Contents::None => return Settled { choices, status: NO_FILE },
        Contents::Unusable(reason) => return Settled { choices, status: reason.as_str() },
        Contents::Calibration(calibration) => calibration,
    };
    let path = loaded.path.as_deref().unwrap_or(Path::new("")).display();
    if let Some(misfit) = calibration.misfit(machine) {
        stats::event(misfit.reason);
        log!(info, "{path} is not used: {misfit}; using the built-in table");
        return Settled { choices, status: misfit.reason.as_str() };
    }
    let changed = choices.apply(calibration);
    log!(info, "{path}: {} choices, {changed} of them not as in the built-in table", calibration.measured.len());
    Settled { choices, status: USED }
}

/// `const char * ggml_version(void)`, which older releases do not have; empty then.
fn ggml_version(find: impl Fn(&CStr) -> Option<*mut c_void>) -> &'static str {
    let Some(version) = find(c"ggml_version") else { return "" };
    // SAFETY: ggml's function with its signature; it returns a string constant of a library that is
    // never closed (see `ggml::copies`).
    let version: &'static CStr = unsafe {
        let version: unsafe extern "C" fn() -> *const c_char = std::mem::transmute(version);
        c_str(version())
    };
    version.to_str().unwrap_or("")
}

/// Whether the user asked for the portable kernels, which are otherwise the last resort.
fn is_forced() -> bool {
    config().kernels == KernelChoice::Scalar
}

/// Whether the original computes a product of `columns` columns with weights of type `weight` faster
/// than the kernels of `isa`: then it is declined with [`Reason::StockIsFaster`].
///
/// The answer is that of the table until [`settle`], and does not change after it.
#[must_use]
pub fn stock_is_faster(isa: Isa, weight: WeightType, columns: usize) -> bool {
    let regime = Regime::of(columns);
    let choice = match SETTLED.get() {
        Some(settled) => settled.choices.get(isa, weight, regime),
        None => defaults::choice(isa, weight, regime, is_forced()),
    };
    choice == Choice::Stock
}

/// The file that was looked for (empty: none) and what became of it, for the statistics: `pending`
/// before the first graph, `no_file`, `used`, or the name of the [`Reason`] for which it is not used.
#[must_use]
pub fn report() -> (String, &'static str) {
    let path = LOADED.get().and_then(|loaded| loaded.path.as_ref());
    (
        path.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default(),
        SETTLED.get().map_or(PENDING, |settled| settled.status),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: Machine<'_> = Machine { cpu: "A CPU", ggml: "0.9.4", tier: Isa::Avx2 };

    fn calibrated(lines: &str) -> Loaded {
        let text = format!("zen5turbo-tune 1\ncpu A CPU\nggml 0.9.4\ntier avx2\n{lines}");
        Loaded { path: None, contents: Contents::Calibration(file::parse(&text).unwrap()) }
    }

    /// A file in a folder of this test's own; removed when dropped.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("zen5turbo-tune-{name}-{}", std::process::id()));
            std::fs::create_dir(&dir).unwrap();
            Self(dir)
        }

        fn write(&self, bytes: &[u8]) -> PathBuf {
            let path = self.0.join("tune.txt");
            std::fs::write(&path, bytes).unwrap();
            path
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn regimes_meet_without_a_gap() {
        let names: Vec<_> = [0, 1, 2, 16, 17, usize::MAX].map(|n| Regime::of(n).name()).into();
        assert_eq!(names, ["1", "1", "2-16", "2-16", "many", "many"]);
        for (i, regime) in Regime::ALL.into_iter().enumerate() {
            assert_eq!(regime as usize, i);
        }
    }

    #[test]
    fn every_type_tier_and_regime_has_an_answer_before_and_after_settling() {
        for forced in [false, true] {
            let choices = Choices::defaults(forced);
            for isa in Isa::ALL {
                for weight in WeightType::ALL {
                    for regime in Regime::ALL {
                        assert_eq!(choices.get(isa, weight, regime), defaults::choice(isa, weight, regime, forced));
                    }
                }
            }
        }
        // Tests run with any environment; nothing settles the choices here.
        assert!(!stock_is_faster(Isa::Avx2, WeightType::Q4K, 1));
        assert_eq!(stock_is_faster(Isa::Scalar, WeightType::Q4K, 1), !is_forced());
        assert_eq!(report().1, PENDING);
    }

    #[test]
    fn a_fitting_file_overrides_the_table_where_it_has_measured() {
        let loaded = calibrated("q4_K many 103 100\nq4_K 1 100 103\nf32 1 1 2\n");
        let settled = combine(&loaded, &MACHINE, false);
        assert_eq!(settled.status, USED);
        let get = |isa, regime| settled.choices.get(isa, WeightType::Q4K, regime);
        assert_eq!(get(Isa::Avx2, Regime::Many), Choice::Stock);
        assert_eq!(get(Isa::Avx2, Regime::One), Choice::Ours);
        assert_eq!(get(Isa::Avx2, Regime::Few), Choice::Ours, "not measured: the table's");
        assert_eq!(get(Isa::Avx512, Regime::Many), Choice::Ours, "another tier");
        assert_eq!(settled.choices.get(Isa::Avx2, WeightType::Q6K, Regime::Many), Choice::Ours, "another type");
    }

    #[test]
    fn a_file_can_turn_a_declined_default_round() {
        let text = "zen5turbo-tune 1\ncpu A CPU\nggml 0.9.4\ntier scalar\nq8_0 2-16 5 6\n";
        let loaded = Loaded { path: None, contents: Contents::Calibration(file::parse(text).unwrap()) };
        let settled = combine(&loaded, &Machine { tier: Isa::Scalar, ..MACHINE }, false);
        let choices = Regime::ALL.map(|regime| settled.choices.get(Isa::Scalar, WeightType::Q8_0, regime));
        assert_eq!(choices, [Choice::Stock, Choice::Ours, Choice::Stock]);
    }

    #[test]
    fn without_a_usable_file_the_table_holds_and_the_status_says_why() {
        let defaults = Choices::defaults(false);
        let missing = Loaded { path: None, contents: Contents::None };
        let bad = Loaded { path: None, contents: Contents::Unusable(Reason::TuneBadFile) };
        let good = calibrated("q4_K many 103 100\n");
        for (loaded, machine, status) in [
            (&missing, MACHINE, "no_file"),
            (&bad, MACHINE, "tune_bad_file"),
            (&good, Machine { cpu: "B CPU", ..MACHINE }, "tune_other_cpu"),
            (&good, Machine { ggml: "0.9.5", ..MACHINE }, "tune_other_ggml"),
            (&good, Machine { tier: Isa::Avx512, ..MACHINE }, "tune_other_tier"),
        ] {
            let settled = combine(loaded, &machine, false);
            assert_eq!(settled.status, status);
            assert_eq!(settled.choices, defaults, "{status}");
        }
    }

    #[test]
    fn the_file_is_looked_for_where_the_configuration_says() {
        let mut config = Config { cache: Some("/home/u/.cache".into()), ..Config::default() };
        assert_eq!(place(&config), Some("/home/u/.cache/zen5turbo/tune.txt".into()));
        config.tune = Tune::File("/a/b".into());
        assert_eq!(place(&config), Some("/a/b".into()));
        config.tune = Tune::Off;
        assert_eq!(place(&config), None);
        assert_eq!(place(&Config::default()), None);
    }

    #[test]
    fn only_a_named_file_has_to_be_there() {
        let dir = Scratch::new("absent");
        let path = dir.0.join("tune.txt");
        assert!(matches!(read(&path, false), Contents::None));
        assert!(matches!(read(&path, true), Contents::Unusable(Reason::TuneUnreadable)));
        let below = dir.write(b"").join("zen5turbo/tune.txt");
        assert!(matches!(read(&below, false), Contents::None));
    }

    #[test]
    fn a_file_is_read_or_refused_whole() {
        let dir = Scratch::new("contents");
        let good = b"zen5turbo-tune 1\ncpu A\nggml -\ntier avx2\nq4_0 1 1 1\n";
        assert!(matches!(read(&dir.write(good), true), Contents::Calibration(c) if c.measured.len() == 1));
        for bad in [&b"zen5turbo-tune 1\ncpu A\nggml -\ntier avx2\nq4_0 1 1 \xff\n"[..], b""] {
            assert!(matches!(read(&dir.write(bad), false), Contents::Unusable(Reason::TuneBadFile)));
        }
        for unreadable in [&dir.0, Path::new("/dev/zero")] {
            assert!(matches!(read(unreadable, true), Contents::Unusable(Reason::TuneUnreadable)));
        }
    }

    #[test]
    fn a_ggml_without_a_version_is_known_as_empty() {
        extern "C" fn version() -> *const c_char {
            c"0.9.4".as_ptr()
        }
        assert_eq!(ggml_version(|_| None), "");
        let find = |name: &CStr| (name == c"ggml_version").then_some(version as *mut c_void);
        assert_eq!(ggml_version(find), "0.9.4");
    }
}
