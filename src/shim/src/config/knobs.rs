//! The table of knobs: how each variable is read and shown.

use std::ffi::OsStr;
use std::path::PathBuf;

use zen5turbo_host::GateMode;
use zen5turbo_host::cpuset::{CpuSet, parse_list};

use super::{KernelChoice, Knob, Numa, Pin, Repack, Threads, Threshold, Tune};
use crate::log::LogLevel;
use crate::pages::HugePages;
use crate::prefetch::Prefetch;

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
        help: "strict: run on a Zen 5, exit with status 78 elsewhere; passthrough: leave all to ggml; off: run on every CPU",
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
        name: "ZEN5TURBO_ATTENTION",
        default: "auto",
        allowed: "auto or off",
        help: "flash attention: computed here where the kernels cover it, or left to ggml",
        set: |c, v| choose(&mut c.attention, v, AUTO_OFF),
        get: |c| word_of(c.attention, AUTO_OFF).to_owned(),
    },
    Knob {
        name: "ZEN5TURBO_F16",
        default: "exact",
        allowed: "exact or bf16",
        help: "F16 weights in prompts: computed as they are, or rounded to BF16 with the activations, which is faster and less exact",
        set: |c, v| choose(&mut c.f16_as_bf16, v, F16),
        get: |c| word_of(c.f16_as_bf16, F16).to_owned(),
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
        name: "ZEN5TURBO_THREADS",
        default: "auto",
        allowed: "auto, off or a number from 1 to 512",
        help: "threads of a graph: no more than the process has CPUs, as many as the program asks for, or at most so many",
        set: |c, v| set_threads(&mut c.threads, v),
        get: |c| match c.threads {
            Threads::Auto => "auto".to_owned(),
            Threads::Off => "off".to_owned(),
            Threads::AtMost(n) => n.to_string(),
        },
    },
    Knob {
        name: "ZEN5TURBO_BARRIER",
        default: "auto",
        allowed: "auto or off",
        help: "how the threads of a graph wait for each other: asleep where others need their CPUs, or as ggml does",
        set: |c, v| choose(&mut c.barrier, v, AUTO_OFF),
        get: |c| word_of(c.barrier, AUTO_OFF).to_owned(),
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
        help: "write statistics there as JSON while graphs are computed, every two seconds at most, and at exit",
        set: |c, v| set_path(&mut c.stats, v),
        get: |c| show_path(c.stats.as_ref()),
    },
    Knob {
        name: "ZEN5TURBO_LIVE",
        default: "on",
        allowed: "on or off",
        help: "whether zen5turbo top can read the counters of the running program",
        set: |c, v| choose(&mut c.live, v, ON_OFF),
        get: |c| word_of(c.live, ON_OFF).to_owned(),
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
    Knob {
        name: "ZEN5TURBO_BLAS",
        default: "",
        allowed: "the path of a library",
        help: "a BLIS library, such as AMD's, that computes what a ggml built with GGML_BLAS gives to cblas_sgemm",
        set: |c, v| set_path(&mut c.blas, v),
        get: |c| show_path(c.blas.as_ref()),
    },
];

/// The words of a knob and what each one means.
type Choices<T> = &'static [(&'static str, T)];

const SWITCH: Choices<bool> = &[("0", false), ("1", true)];
const ON_OFF: Choices<bool> = &[("off", false), ("on", true)];
const F16: Choices<bool> = &[("exact", false), ("bf16", true)];
const AUTO_OFF: Choices<bool> = &[("off", false), ("auto", true)];
const GATES: Choices<GateMode> =
    &[("strict", GateMode::Strict), ("passthrough", GateMode::Passthrough), ("off", GateMode::Off)];
pub(super) const KERNELS: Choices<KernelChoice> = &[
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

pub(super) fn word_of<T: PartialEq>(value: T, choices: Choices<T>) -> &'static str {
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

/// `GGML_MAX_N_THREADS`.
const MOST_THREADS: usize = 512;

fn set_threads(field: &mut Threads, value: &OsStr) -> bool {
    *field = match value.to_str() {
        Some("auto") => Threads::Auto,
        Some("off") => Threads::Off,
        Some(text) => match text.parse() {
            Ok(n @ 1..=MOST_THREADS) => Threads::AtMost(n),
            _ => return false,
        },
        None => return false,
    };
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
