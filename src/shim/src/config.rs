//! The configuration, from the environment. Every knob is one entry of [`KNOBS`].

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::OnceLock;

use zen5turbo_host::GateMode;
use zen5turbo_host::cpuset::{CpuSet, parse_list};

use crate::log::LogLevel;
use crate::pages::HugePages;

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
    /// Keep the weights plain when the kernels in use cover the types that would be repacked.
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

/// The configuration of this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `ZEN5TURBO`: false is the kill switch.
    pub enabled: bool,
    /// `ZEN5TURBO_GATE`.
    pub gate: GateMode,
    /// `ZEN5TURBO_KERNELS`.
    pub kernels: KernelChoice,
    /// `ZEN5TURBO_REPACK`.
    pub repack: Repack,
    /// `ZEN5TURBO_NUMA`.
    pub numa: Numa,
    /// `ZEN5TURBO_PIN`.
    pub pin: Pin,
    /// `ZEN5TURBO_HUGEPAGES`.
    pub huge_pages: HugePages,
    /// `ZEN5TURBO_LOG`.
    pub log: LogLevel,
    /// `ZEN5TURBO_STATS`: where statistics are written at exit, `%p` not yet replaced.
    pub stats: Option<PathBuf>,
    /// `ZEN5TURBO_TUNE`.
    pub tune: Tune,
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
            repack: Repack::default(),
            numa: Numa::default(),
            pin: Pin::default(),
            huge_pages: HugePages::default(),
            log: LogLevel::default(),
            stats: None,
            tune: Tune::default(),
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

/// Every knob. An empty value counts as "not set", as with most programs.
pub const KNOBS: &[Knob] = &[
    Knob {
        name: "ZEN5TURBO",
        default: "1",
        allowed: "0 or 1",
        help: "0 is the kill switch: nothing is changed and nothing is printed",
        set: |c, v| choose(&mut c.enabled, v, SWITCH),
        get: |c| word_of(c.enabled, SWITCH).to_owned(),
    },
    Knob {
        name: "ZEN5TURBO_GATE",
        default: "strict",
        allowed: "strict, passthrough or off",
        help: "on a CPU that is not a Zen 5: exit with status 78, leave all to ggml, or run anyway",
        set: |c, v| choose(&mut c.gate, v, GATES),
        get: |c| word_of(c.gate, GATES).to_owned(),
    },
    Knob {
        name: "ZEN5TURBO_KERNELS",
        default: "auto",
        allowed: "auto, avx512, avx512-256, avx2, scalar or off",
        help: "which kernels compute: the best for this CPU, one family, or none",
        set: |c, v| choose(&mut c.kernels, v, KERNELS),
        get: |c| word_of(c.kernels, KERNELS).to_owned(),
    },
    Knob {
        name: "ZEN5TURBO_REPACK",
        default: "auto",
        allowed: "auto, keep or off",
        help: "llama.cpp's repacked weights: avoided where our kernels cover them, kept, or avoided",
        set: |c, v| choose(&mut c.repack, v, REPACKS),
        get: |c| word_of(c.repack, REPACKS).to_owned(),
    },
    Knob {
        name: "ZEN5TURBO_NUMA",
        default: "auto",
        allowed: "auto, interleave, shard, local or off",
        help: "with several memory nodes, where weights lie: auto interleaves unless the program is bound or pinned",
        set: |c, v| choose(&mut c.numa, v, NUMAS),
        get: |c| word_of(c.numa, NUMAS).to_owned(),
    },
    Knob {
        name: "ZEN5TURBO_PIN",
        default: "auto",
        allowed: "auto, cores, off or a list of different CPUs such as 0-7,16",
        help: "which CPUs the threads of a graph run on; auto pins them only for ZEN5TURBO_NUMA=shard",
        set: |c, v| set_pin(&mut c.pin, v),
        get: |c| show_pin(&c.pin),
    },
    Knob {
        name: "ZEN5TURBO_HUGEPAGES",
        default: "auto",
        allowed: "auto, thp, 2m, 1g or off",
        help: "pages under weights and large buffers: transparent huge pages, reserved ones of 2 MiB or 1 GiB, or none",
        set: |c, v| choose(&mut c.huge_pages, v, HUGE_PAGES),
        get: |c| word_of(c.huge_pages, HUGE_PAGES).to_owned(),
    },
    Knob {
        name: "ZEN5TURBO_LOG",
        default: "off",
        allowed: "off, info or debug",
        help: "lines on stderr about what was found and what engaged",
        set: |c, v| choose(&mut c.log, v, LEVELS),
        get: |c| word_of(c.log, LEVELS).to_owned(),
    },
    Knob {
        name: "ZEN5TURBO_STATS",
        default: "",
        allowed: "the path of a file (%p becomes the process id)",
        help: "write statistics there as JSON when the program exits",
        set: |c, v| set_path(&mut c.stats, v),
        get: |c| show_path(c.stats.as_ref()),
    },
    Knob {
        name: "ZEN5TURBO_TUNE",
        default: "",
        allowed: "the path of a file, or off",
        help: "measured choices of kernels, by default from ~/.cache/zen5turbo/tune.txt; off: the built-in ones",
        set: |c, v| set_tune(&mut c.tune, v),
        get: |c| match &c.tune {
            Tune::Default => String::new(),
            Tune::Off => "off".to_owned(),
            Tune::File(path) => show_path(Some(path)),
        },
    },
];

/// The words of a knob and what each one means.
type Choices<T> = &'static [(&'static str, T)];

const SWITCH: Choices<bool> = &[("0", false), ("1", true)];
const GATES: Choices<GateMode> =
    &[("strict", GateMode::Strict), ("passthrough", GateMode::Passthrough), ("off", GateMode::Off)];
const KERNELS: Choices<KernelChoice> = &[
    ("auto", KernelChoice::Auto),
    ("avx512", KernelChoice::Avx512),
    ("avx512-256", KernelChoice::Avx512Narrow),
    ("avx2", KernelChoice::Avx2),
    ("scalar", KernelChoice::Scalar),
    ("off", KernelChoice::Off),
];
const REPACKS: Choices<Repack> = &[("auto", Repack::Auto), ("keep", Repack::Keep), ("off", Repack::Off)];
const NUMAS: Choices<Numa> = &[
    ("auto", Numa::Auto),
    ("interleave", Numa::Interleave),
    ("shard", Numa::Shard),
    ("local", Numa::Local),
    ("off", Numa::Off),
];
const PINS: Choices<Pin> = &[("auto", Pin::Auto), ("cores", Pin::Cores), ("off", Pin::Off)];
const HUGE_PAGES: Choices<HugePages> = &[
    ("auto", HugePages::Auto),
    ("thp", HugePages::Thp),
    ("2m", HugePages::Two),
    ("1g", HugePages::One),
    ("off", HugePages::Off),
];
const LEVELS: Choices<LogLevel> = &[("off", LogLevel::Off), ("info", LogLevel::Info), ("debug", LogLevel::Debug)];

fn choose<T: Clone>(field: &mut T, value: &OsStr, choices: Choices<T>) -> bool {
    match choices.iter().find(|(word, _)| value == *word) {
        Some((_, meaning)) => {
            *field = meaning.clone();
            true
        }
        None => false,
    }
}

fn word_of<T: PartialEq>(value: T, choices: Choices<T>) -> &'static str {
    choices.iter().find(|(_, meaning)| *meaning == value).map_or("", |(word, _)| word)
}

/// A relative path is taken from the directory the program was started in, where the user wrote it.
fn absolute(value: &OsStr) -> PathBuf {
    std::path::absolute(value).unwrap_or_else(|_| PathBuf::from(value))
}

fn set_path(field: &mut Option<PathBuf>, value: &OsStr) -> bool {
    *field = Some(absolute(value));
    true
}

fn set_tune(field: &mut Tune, value: &OsStr) -> bool {
    *field = if value == "off" { Tune::Off } else { Tune::File(absolute(value)) };
    true
}

/// A word, or CPUs of which none may be there twice: two threads on one CPU wait for each other.
fn set_pin(field: &mut Pin, value: &OsStr) -> bool {
    if choose(field, value, PINS) {
        return true;
    }
    let Some(cpus) = value.to_str().and_then(parse_list) else { return false };
    if cpus.is_empty() || cpus.iter().copied().collect::<CpuSet>().len() < cpus.len() {
        return false;
    }
    *field = Pin::List(cpus);
    true
}

/// As one would write it in the environment.
pub fn show_pin(pin: &Pin) -> String {
    match pin {
        Pin::List(cpus) => cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(","),
        word => PINS.iter().find(|(_, pin)| pin == word).map_or("", |(word, _)| word).to_owned(),
    }
}

fn show_path(path: Option<&PathBuf>) -> String {
    path.map(|p| p.to_string_lossy().into_owned()).unwrap_or_default()
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
                b"XDG_CACHE_HOME" => cache = Some(PathBuf::from(&value)),
                b"HOME" => home = Some(PathBuf::from(&value)),
                _ => {}
            }
            let ours = name == "ZEN5TURBO" || name.as_encoded_bytes().starts_with(b"ZEN5TURBO_");
            if !ours || value.is_empty() || name == OF_SCRIPTS {
                continue;
            }
            match KNOBS.iter().find(|knob| name == knob.name) {
                Some(knob) => {
                    if !(knob.set)(&mut config, &value) {
                        config.complaints.push(format!(
                            "{}={} is not allowed: it must be {}; using the default, {}",
                            knob.name,
                            value.to_string_lossy(),
                            knob.allowed,
                            knob.default
                        ));
                    }
                }
                None => {
                    let known: Vec<&str> = KNOBS.iter().map(|knob| knob.name).collect();
                    config.complaints.push(format!(
                        "{} is not a variable of zen5turbo and is ignored (they are: {})",
                        name.to_string_lossy(),
                        known.join(", ")
                    ));
                }
            }
        }
        // The XDG base directory specification has a relative path ignored.
        config.cache =
            [cache, home.map(|home| home.join(".cache"))].into_iter().flatten().find(|path| path.is_absolute());
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
mod tests {
    use super::*;

    fn parse(vars: &[(&str, &str)]) -> Config {
        Config::from_vars(vars.iter().map(|&(n, v)| (n.into(), v.into())))
    }

    #[test]
    fn nothing_set_is_the_default() {
        assert_eq!(parse(&[("PATH", "/bin"), ("ZEN5", "1")]), Config::default());
        for knob in KNOBS {
            assert_eq!(knob.value(&Config::default()), knob.default, "{}", knob.name);
            assert!(!knob.help.is_empty() && !knob.help.contains('\n'));
        }
    }

    #[test]
    fn every_word_is_understood_and_said_back() {
        for (name, words) in [
            ("ZEN5TURBO", "0 1"),
            ("ZEN5TURBO_GATE", "strict passthrough off"),
            ("ZEN5TURBO_KERNELS", "auto avx512 avx2 scalar off"),
            ("ZEN5TURBO_REPACK", "auto keep off"),
            ("ZEN5TURBO_NUMA", "auto interleave shard local off"),
            ("ZEN5TURBO_PIN", "auto cores off"),
            ("ZEN5TURBO_HUGEPAGES", "auto thp 2m 1g off"),
            ("ZEN5TURBO_LOG", "off info debug"),
        ] {
            let knob = KNOBS.iter().find(|k| k.name == name).unwrap();
            for word in words.split(' ') {
                let config = parse(&[(name, word)]);
                assert_eq!(knob.value(&config), word);
                assert!(config.complaints.is_empty());
                assert!(knob.allowed.contains(word), "{name}: {word}");
            }
        }
        assert!(!parse(&[("ZEN5TURBO", "0")]).enabled);
    }

    #[test]
    fn a_bad_value_is_one_line_and_the_default() {
        let config = parse(&[("ZEN5TURBO_GATE", "Strict"), ("ZEN5TURBO_KERNELS", "avx2")]);
        assert_eq!(config.gate, GateMode::Strict);
        assert_eq!(config.kernels, KernelChoice::Avx2);
        assert_eq!(
            config.complaints,
            ["ZEN5TURBO_GATE=Strict is not allowed: it must be strict, passthrough or off; \
              using the default, strict"]
        );
    }

    #[test]
    fn a_list_of_cpus_keeps_its_order_and_names_each_once() {
        let config = parse(&[("ZEN5TURBO_PIN", "8,0-2")]);
        assert_eq!(config.pin, Pin::List(vec![8, 0, 1, 2]));
        let knob = KNOBS.iter().find(|k| k.name == "ZEN5TURBO_PIN").unwrap();
        assert_eq!(knob.value(&config), "8,0,1,2");
        for bad in ["0,0", "3-1", "first", "0-", "-1", " ", "9999"] {
            let config = parse(&[("ZEN5TURBO_PIN", bad)]);
            assert_eq!((config.pin, config.complaints.len()), (Pin::Auto, 1), "{bad}");
        }
    }

    #[test]
    fn an_unknown_variable_is_named() {
        let config = parse(&[("ZEN5TURBO_KERNEL", "avx2"), ("ZEN5TURBOX", "1")]);
        assert_eq!(config.complaints.len(), 1);
        assert!(config.complaints[0].starts_with("ZEN5TURBO_KERNEL is not a variable"));
    }

    #[test]
    fn an_empty_value_is_not_set() {
        let names: Vec<_> = KNOBS.iter().map(|k| (k.name, "")).collect();
        assert_eq!(parse(&names), Config::default());
    }

    #[test]
    fn a_relative_path_is_fixed_at_the_start() {
        let config = parse(&[("ZEN5TURBO_STATS", "out.json")]);
        assert_eq!(config.stats, Some(std::env::current_dir().unwrap().join("out.json")));
        let config = parse(&[("ZEN5TURBO_STATS", "/tmp/s.%p.json")]);
        assert_eq!(config.stats, Some("/tmp/s.%p.json".into()));
        let config = parse(&[("ZEN5TURBO_TUNE", "tune.txt")]);
        assert_eq!(config.tune, Tune::File(std::env::current_dir().unwrap().join("tune.txt")));
    }

    #[test]
    fn the_calibration_file_can_be_named_or_switched_off() {
        let knob = KNOBS.iter().find(|k| k.name == "ZEN5TURBO_TUNE").unwrap();
        for (value, tune) in [("", Tune::Default), ("off", Tune::Off), ("/a/off", Tune::File("/a/off".into()))] {
            let config = parse(&[("ZEN5TURBO_TUNE", value)]);
            assert_eq!(config.tune, tune);
            assert_eq!(knob.value(&config), value);
        }
    }

    #[test]
    fn the_cache_folder_is_the_one_of_the_environment() {
        let cache = |vars: &[(&str, &str)]| parse(vars).cache;
        assert_eq!(cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), Some("/x".into()));
        for xdg in ["", "relative"] {
            assert_eq!(cache(&[("XDG_CACHE_HOME", xdg), ("HOME", "/h")]), Some("/h/.cache".into()));
        }
        assert_eq!(cache(&[("HOME", "")]), None);
        assert_eq!(cache(&[]), None);
    }
}
