//! The configuration, from the environment. Every knob is one entry of [`KNOBS`].

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::OnceLock;

use zen5turbo_host::GateMode;

use crate::log::LogLevel;
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
    /// Keep the weights plain when the kernels in use cover the types that would be repacked.
    #[default]
    Auto,
    /// Let llama.cpp repack as it does by itself.
    Keep,
    /// Keep the weights plain.
    Off,
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
    /// `ZEN5TURBO_REPACK`.
    pub repack: Repack,
    /// `ZEN5TURBO_PREFETCH`.
    pub prefetch: Prefetch,
    /// `ZEN5TURBO_HUGEPAGES`.
    pub huge_pages: HugePages,
    /// `ZEN5TURBO_MALLOC`.
    pub malloc: Threshold,
    /// `ZEN5TURBO_MEMCPY`.
    pub memcpy: Threshold,
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
            prefetch: Prefetch::default(),
            huge_pages: HugePages::default(),
            malloc: Threshold::Off,
            memcpy: Threshold::Off,
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
        name: "ZEN5TURBO_PREFETCH",
        default: "auto",
        allowed: "auto, off, pages, cache or cache:BYTES (at most 4194304)",
        help: "read ahead: what pays, nothing, pages of the model file, or a thread's next weights into its cache",
        set: |c, v| set_prefetch(&mut c.prefetch, v),
        get: |c| match c.prefetch {
            Prefetch::Cache(bytes) if bytes != Prefetch::CACHE_BYTES => format!("cache:{bytes}"),
            word => word_of(word, PREFETCHES).to_owned(),
        },
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
        name: "ZEN5TURBO_MALLOC",
        default: "off",
        allowed: THRESHOLDS,
        help: "blocks of the heap that are advised to lie on huge pages: none, from 8 MiB or so many bytes on",
        set: |c, v| set_threshold(&mut c.malloc, v),
        get: |c| show_threshold(c.malloc),
    },
    Knob {
        name: "ZEN5TURBO_MEMCPY",
        default: "off",
        allowed: THRESHOLDS,
        help: "copies that are streamed past the caches: none, large ones where that measures faster, or from so many bytes on",
        set: |c, v| set_threshold(&mut c.memcpy, v),
        get: |c| show_threshold(c.memcpy),
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
const PREFETCHES: Choices<Prefetch> = &[
    ("auto", Prefetch::Auto),
    ("off", Prefetch::Off),
    ("pages", Prefetch::Pages),
    ("cache", Prefetch::Cache(Prefetch::CACHE_BYTES)),
];
const HUGE_PAGES: Choices<HugePages> = &[
    ("auto", HugePages::Auto),
    ("thp", HugePages::Thp),
    ("2m", HugePages::Two),
    ("1g", HugePages::One),
    ("off", HugePages::Off),
];
const LEVELS: Choices<LogLevel> = &[("off", LogLevel::Off), ("info", LogLevel::Info), ("debug", LogLevel::Debug)];

fn choose<T: Copy>(field: &mut T, value: &OsStr, choices: Choices<T>) -> bool {
    match choices.iter().find(|(word, _)| value == *word) {
        Some(&(_, meaning)) => {
            *field = meaning;
            true
        }
        None => false,
    }
}

fn set_prefetch(field: &mut Prefetch, value: &OsStr) -> bool {
    let Some(size) = value.to_str().and_then(|text| text.strip_prefix("cache:")) else {
        return choose(field, value, PREFETCHES);
    };
    match size.parse() {
        Ok(bytes @ 1..=Prefetch::MOST_CACHE_BYTES) => {
            *field = Prefetch::Cache(bytes);
            true
        }
        _ => false,
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

const THRESHOLDS: &str = "auto, off or a number of bytes from 65536 on";

fn set_threshold(field: &mut Threshold, value: &OsStr) -> bool {
    *field = match value.to_str() {
        Some("off") => Threshold::Off,
        Some("auto") => Threshold::Auto,
        Some(text) => match text.parse() {
            Ok(bytes) if bytes >= 1 << 16 => Threshold::Bytes(bytes),
            _ => return false,
        },
        None => return false,
    };
    true
}

fn show_threshold(threshold: Threshold) -> String {
    match threshold {
        Threshold::Off => "off".to_owned(),
        Threshold::Auto => "auto".to_owned(),
        Threshold::Bytes(bytes) => bytes.to_string(),
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
            ("ZEN5TURBO_PREFETCH", "auto off pages cache"),
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
    fn the_size_of_the_cache_prefetch_can_be_chosen() {
        let knob = KNOBS.iter().find(|k| k.name == "ZEN5TURBO_PREFETCH").unwrap();
        let config = parse(&[("ZEN5TURBO_PREFETCH", "cache:65536")]);
        assert_eq!(config.prefetch.cache_bytes(), 65536);
        assert_eq!(knob.value(&config), "cache:65536");
        for bad in ["cache:", "cache:0", "cache:-1", "cache:4194305", "cache:64K", "pages:1"] {
            let config = parse(&[("ZEN5TURBO_PREFETCH", bad)]);
            assert_eq!(config.prefetch, Prefetch::Auto, "{bad}");
            assert_eq!(config.complaints.len(), 1, "{bad}");
        }
    }

    #[test]
    fn a_threshold_is_a_word_or_a_number_of_bytes() {
        for (name, field) in
            [("ZEN5TURBO_MALLOC", (|c| c.malloc) as fn(&Config) -> Threshold), ("ZEN5TURBO_MEMCPY", |c| c.memcpy)]
        {
            let knob = KNOBS.iter().find(|k| k.name == name).unwrap();
            for (value, meaning) in
                [("off", Threshold::Off), ("auto", Threshold::Auto), ("65536", Threshold::Bytes(65536))]
            {
                let config = parse(&[(name, value)]);
                assert_eq!((field(&config), knob.value(&config)), (meaning, value.to_owned()));
            }
            for bad in ["65535", "1M", "-1", "99999999999999999999"] {
                assert_eq!(parse(&[(name, bad)]).complaints.len(), 1, "{bad}");
            }
        }
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
