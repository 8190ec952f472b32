//! The configuration, from the environment. Every knob is one entry of [`KNOBS`].

mod knobs;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::OnceLock;

use zen5turbo_host::fault::{Fault, TEST_PANIC, TEST_PANIC_VALUES};
use zen5turbo_host::identity::{TEST_CPU, TEST_CPU_VALUES};
use zen5turbo_host::{GateMode, Identity, proc};

use knobs::{KERNELS, word_of};
pub use knobs::{KNOBS, show_pin};

use crate::log::{LogLevel, short};
use crate::pages::HugePages;
use crate::prefetch::Prefetch;

/// Which kernels may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KernelChoice {
    /// The best this CPU runs.
    #[default]
    Auto,
    /// AVX-512 with VNNI, in 512-bit registers.
    Avx512,
    /// AVX-512 with VNNI, in 256-bit registers.
    Avx512Narrow,
    /// AVX2.
    Avx2,
    /// Portable code.
    Scalar,
    /// None: every operation is left to the original.
    Off,
}

impl KernelChoice {
    /// The value of `ZEN5TURBO_KERNELS` that selects it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        word_of(self, KERNELS)
    }
}

/// What happens to llama.cpp's repacked copies of the weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Repack {
    /// Keep the weights plain when the kernels in use cover the types that would be repacked, and ggml has no BLAS
    /// backend, which would take them first.
    #[default]
    Auto,
    /// Let llama.cpp repack as it does by itself.
    Keep,
    /// Keep the weights plain.
    Off,
}

/// Where the weights are placed on a machine with several memory nodes. On one node, nothing is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Numa {
    /// Interleave, unless somebody else placed memory or threads: a memory policy is set (numactl), or
    /// the process may run on one node only, or the program has pinned its threads (`--numa`).
    #[default]
    Auto,
    /// In turn on every node where something can be computed.
    Interleave,
    /// The rows that the threads of a node compute, on that node; needs pinned threads.
    Shard,
    /// On the node of the thread that starts the graphs.
    Local,
    /// Where the kernel puts them.
    Off,
}

/// Which CPUs the threads of a graph run on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Pin {
    /// As `Cores`, where locality needs it: with `ZEN5TURBO_NUMA=shard`. Otherwise off: it did not pay.
    #[default]
    Auto,
    /// One thread per physical core, spread over memory nodes and last-level caches.
    Cores,
    /// Not touched.
    Off,
    /// Thread `i` on the `i`-th of these.
    List(Vec<usize>),
}

/// How many threads compute a graph.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Threads {
    /// No more than the process has CPUs: online, allowed, and in the quotas of its control groups.
    #[default]
    Auto,
    /// As many as the program asks for.
    Off,
    /// At most so many.
    AtMost(usize),
}

/// Where measured choices of kernels are read from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Tune {
    /// `zen5turbo/tune.txt` in the user's cache folder, when there is one.
    #[default]
    Default,
    /// Nowhere.
    Off,
    /// This file.
    File(PathBuf),
}

/// From which size on a function of the C library does more than the original.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Threshold {
    /// Never.
    #[default]
    Off,
    /// From a size that this library knows or measures.
    Auto,
    /// From so many bytes on.
    Bytes(usize),
}

/// The configuration of this process.
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
    /// `ZEN5TURBO_F16`: whether products of many columns round F16 weights to BF16.
    pub f16_as_bf16: bool,
    /// `ZEN5TURBO_REPACK`.
    pub repack: Repack,
    /// `ZEN5TURBO_PREFETCH`.
    pub prefetch: Prefetch,
    /// `ZEN5TURBO_NUMA`.
    pub numa: Numa,
    /// `ZEN5TURBO_PIN`.
    pub pin: Pin,
    /// `ZEN5TURBO_THREADS`.
    pub threads: Threads,
    /// `ZEN5TURBO_BARRIER`: whether the threads of a graph wait for each other at our barrier.
    pub barrier: bool,
    /// `ZEN5TURBO_HUGEPAGES`.
    pub huge_pages: HugePages,
    /// `ZEN5TURBO_MALLOC`.
    pub malloc: Threshold,
    /// `ZEN5TURBO_MEMCPY`.
    pub memcpy: Threshold,
    /// `ZEN5TURBO_LOG`.
    pub log: LogLevel,
    /// `ZEN5TURBO_STATS`: where statistics are written, `%p` not yet replaced.
    pub stats: Option<PathBuf>,
    /// `ZEN5TURBO_LIVE`: whether the counters can be read while the program runs.
    pub live: bool,
    /// `ZEN5TURBO_TUNE`.
    pub tune: Tune,
    /// `ZEN5TURBO_BLAS`: the library that `cblas_sgemm` is sent to.
    pub blas: Option<PathBuf>,
    /// [`TEST_CPU`]: in tests, the identity that the gate sees instead of the CPU's own.
    pub test_cpu: Option<Identity>,
    /// [`TEST_PANIC`]: in tests, where the shim panics.
    pub test_panic: Option<Fault>,
    /// The user's cache folder: `XDG_CACHE_HOME`, or `.cache` in `HOME`.
    pub cache: Option<PathBuf>,
    /// What is wrong in the environment, one line each, to be shown once ggml is in use.
    pub complaints: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: true,
            gate: GateMode::default(),
            kernels: KernelChoice::default(),
            attention: true,
            f16_as_bf16: false,
            repack: Repack::default(),
            prefetch: Prefetch::default(),
            numa: Numa::default(),
            pin: Pin::default(),
            threads: Threads::default(),
            barrier: true,
            huge_pages: HugePages::default(),
            malloc: Threshold::Off,
            memcpy: Threshold::Off,
            log: LogLevel::default(),
            stats: None,
            live: true,
            tune: Tune::default(),
            blas: None,
            test_cpu: None,
            test_panic: None,
            cache: None,
            complaints: Vec::new(),
        }
    }
}

/// One environment variable.
pub struct Knob {
    /// The variable.
    pub name: &'static str,
    /// The value that stands for the default; empty means "not set".
    pub default: &'static str,
    /// What is allowed, as said to the user.
    pub allowed: &'static str,
    /// What it does, in one line.
    pub help: &'static str,
    /// Stores the value; false when it is not allowed, and then nothing has changed.
    set: fn(&mut Config, &OsStr) -> bool,
    /// The value in force, in the words of the variable.
    get: fn(&Config) -> String,
}

impl Knob {
    /// The value in force in `config`, as one would write it in the environment.
    #[must_use]
    pub fn value(&self, config: &Config) -> String {
        (self.get)(config)
    }
}

/// The variable of scripts/setup.sh, which a program may inherit.
const OF_SCRIPTS: &str = "ZEN5TURBO_DEPS";

impl Config {
    /// Reads `ZEN5TURBO`, the variables that begin with `ZEN5TURBO_`, and those that tell the user's
    /// cache folder; others are ignored.
    #[must_use]
    pub fn from_vars(vars: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let mut config = Self::default();
        let (mut cache, mut home) = (None, None);
        for (name, value) in vars {
            match name.as_encoded_bytes() {
                b"XDG_CACHE_HOME" => cache = Some(value.clone()),
                b"HOME" => home = Some(value.clone()),
                _ => {}
            }
            let ours = name == "ZEN5TURBO" || name.as_encoded_bytes().starts_with(b"ZEN5TURBO_");
            if !ours || value.is_empty() || name == OF_SCRIPTS {
                continue;
            }
            if name == TEST_CPU {
                config.test_cpu = value.to_str().and_then(Identity::parse);
                if config.test_cpu.is_none() {
                    config.complaints.push(format!(
                        "{TEST_CPU}={} is not allowed: it must be {TEST_CPU_VALUES}; using the CPU's own identity",
                        short(&value)
                    ));
                }
                continue;
            }
            if name == TEST_PANIC {
                config.test_panic = value.to_str().and_then(Fault::parse);
                if config.test_panic.is_none() {
                    config.complaints.push(format!(
                        "{TEST_PANIC}={} is not allowed: it must be {TEST_PANIC_VALUES}; none is made",
                        short(&value)
                    ));
                }
                continue;
            }
            match KNOBS.iter().find(|knob| name == knob.name) {
                Some(knob) => {
                    if !(knob.set)(&mut config, &value) {
                        config.complaints.push(format!(
                            "{}={} is not allowed: it must be {}; using the default, {}",
                            knob.name,
                            short(&value),
                            knob.allowed,
                            knob.default
                        ));
                    }
                }
                None => {
                    let known: Vec<&str> = KNOBS.iter().map(|knob| knob.name).collect();
                    config.complaints.push(format!(
                        "{} is not a variable of zen5turbo and is ignored (they are: {})",
                        short(&name),
                        known.join(", ")
                    ));
                }
            }
        }
        config.cache = proc::xdg_folder(cache, home, ".cache");
        // The environment has no order of its own.
        config.complaints.sort();
        config
    }
}

static CONFIG: OnceLock<Config> = OnceLock::new();

/// The configuration, read from the environment at the first call: the constructor's, before the
/// program can change its environment.
pub fn config() -> &'static Config {
    CONFIG.get_or_init(|| {
        // SAFETY: getauxval reads the auxiliary vector, which the kernel always supplies.
        if unsafe { libc::getauxval(libc::AT_SECURE) } != 0 {
            // The environment of a set-user-ID program is its caller's: it must not choose files.
            return Config { enabled: false, ..Config::default() };
        }
        Config::from_vars(std::env::vars_os())
    })
}

#[cfg(test)]
mod tests;
