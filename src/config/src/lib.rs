//! The settings of zen5turbo: environment variables, each declared once, in [`KNOBS`].
//!
//! The library reads them into a [`Config`], the command makes its options from the list, and docs/settings.md is
//! written from it ([`page`]). A new setting is an entry of the list and a field of [`Config`] with its default.

mod complaint;
mod knobs;
mod page;
mod parse;
mod values;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::OnceLock;

use zen5turbo_host::{GateMode, Identity, proc};

pub use complaint::{Complaint, short};
pub use knobs::{Group, KNOBS, Knob, OF_SCRIPTS, Other, TEST_CPU, TEST_KNOBS, TEST_PANIC, find, is_ours};
pub use page::page;
pub use parse::show_pin;
pub use values::{
    Fault, HugePages, KernelChoice, LogLevel, Numa, Ops, Pin, Prefetch, Repack, Threads, Threshold, Tune, Word,
};

/// The configuration of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `ZEN5TURBO`: false is the kill switch.
    pub enabled: bool,
    /// `ZEN5TURBO_GATE`.
    pub gate: GateMode,
    /// `ZEN5TURBO_KERNELS`.
    pub kernels: KernelChoice,
    /// `ZEN5TURBO_ATTENTION`: whether attention is computed here.
    pub attention: bool,
    /// `ZEN5TURBO_OPS`: which operations that are no products are computed here.
    pub ops: Ops,
    /// `ZEN5TURBO_INVARIANT`: whether the bits of a result depend on nothing but what it is computed from.
    pub invariant: bool,
    /// `ZEN5TURBO_F16`: whether products of many columns round F16 weights to BF16.
    pub f16_as_bf16: bool,
    /// `ZEN5TURBO_REPACK`.
    pub repack: Repack,
    /// `ZEN5TURBO_TUNE`.
    pub tune: Tune,
    /// `ZEN5TURBO_BLAS`: the library that `cblas_sgemm` is sent to.
    pub blas: Option<PathBuf>,
    /// `ZEN5TURBO_PREFETCH`.
    pub prefetch: Prefetch,
    /// `ZEN5TURBO_HUGEPAGES`.
    pub huge_pages: HugePages,
    /// `ZEN5TURBO_MALLOC`.
    pub malloc: Threshold,
    /// `ZEN5TURBO_MEMCPY`.
    pub memcpy: Threshold,
    /// `ZEN5TURBO_NUMA`.
    pub numa: Numa,
    /// `ZEN5TURBO_PIN`.
    pub pin: Pin,
    /// `ZEN5TURBO_THREADS`.
    pub threads: Threads,
    /// `ZEN5TURBO_BARRIER`: whether the threads of a graph wait for each other at our barrier.
    pub barrier: bool,
    /// `ZEN5TURBO_LOG`.
    pub log: LogLevel,
    /// `ZEN5TURBO_STATS`: where statistics are written, `%p` not yet replaced.
    pub stats: Option<PathBuf>,
    /// `ZEN5TURBO_LIVE`: whether the counters can be read while the program runs.
    pub live: bool,
    /// [`TEST_CPU`]: in tests, the identity that the gate sees instead of the CPU's own.
    pub test_cpu: Option<Identity>,
    /// [`TEST_PANIC`]: in tests, where the library panics.
    pub test_panic: Option<Fault>,
    /// The user's cache folder: `XDG_CACHE_HOME`, or `.cache` in `HOME`.
    pub cache: Option<PathBuf>,
    /// What is wrong in the environment, to be shown once ggml is in use.
    pub complaints: Vec<Complaint>,
}

impl Default for Config {
    /// The default of every setting.
    fn default() -> Self {
        Self {
            enabled: true,
            gate: GateMode::Strict,
            kernels: KernelChoice::Auto,
            attention: true,
            ops: Ops::Auto,
            invariant: false,
            f16_as_bf16: false,
            repack: Repack::Auto,
            tune: Tune::Default,
            blas: None,
            prefetch: Prefetch::Auto,
            huge_pages: HugePages::Auto,
            malloc: Threshold::Off,
            memcpy: Threshold::Off,
            numa: Numa::Auto,
            pin: Pin::Auto,
            threads: Threads::Auto,
            barrier: true,
            // How much faster it is was not measured; it takes 8 to 12 % of the barriers of a token (2026-11-30, bench/records).
            log: LogLevel::Off,
            stats: None,
            live: true,
            test_cpu: None,
            test_panic: None,
            cache: None,
            complaints: Vec::new(),
        }
    }
}

impl Config {
    /// Reads `ZEN5TURBO`, the variables that begin with `ZEN5TURBO_`, and those that tell the user's
    /// cache folder; others are ignored.
    #[must_use]
    pub fn from_vars(vars: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let mut config = Self::default();
        let (mut cache, mut home) = (None, None);
        for (name, value) in vars {
            match name.as_encoded_bytes() {
                b"XDG_CACHE_HOME" => cache = Some(value),
                b"HOME" => home = Some(value),
                _ if !is_ours(&name) || value.is_empty() => {}
                _ => match find(&name) {
                    Some(knob) if (knob.set)(&mut config, &value) => {}
                    Some(knob) => config.complaints.push(Complaint::of_value(knob, &value)),
                    None => config.complaints.push(Complaint::of_name(&name)),
                },
            }
        }
        if config.kernels == KernelChoice::Exact && config.threads == Threads::Auto {
            config.threads = Threads::Off;
        }
        config.cache = proc::xdg_folder(cache, home, ".cache");
        // The environment has no order of its own.
        config.complaints.sort();
        config
    }
}

static CONFIG: OnceLock<Config> = OnceLock::new();

/// The configuration of this process, read from the environment at the first call: the library's constructor makes it,
/// before the program can change its environment.
pub fn config() -> &'static Config {
    CONFIG.get_or_init(|| {
        // The environment of a set-user-ID program is its caller's: it must not choose files.
        if proc::is_secure_execution() {
            return Config { enabled: false, ..Config::default() };
        }
        Config::from_vars(std::env::vars_os())
    })
}

#[cfg(test)]
mod tests;
