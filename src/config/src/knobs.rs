//! The list of settings: each variable with its values, what it does, and how it is read and shown.

use std::ffi::OsStr;

use crate::Config;
use crate::parse::*;
use crate::values::*;

/// One setting, which is one environment variable.
pub struct Knob {
    /// The variable.
    pub name: &'static str,
    /// What it is about.
    pub group: Group,
    /// What it decides, in one line that other text may follow.
    pub help: &'static str,
    /// Whole sentences that docs/settings.md adds; may be empty.
    pub details: &'static str,
    /// Values that are words.
    pub words: &'static [Word],
    /// Values that are not words.
    pub other: Option<Other>,
    /// What holds while the variable is not set, where no value of it says that; mostly empty.
    pub unset: &'static str,
    /// Stores the value; false when it is not allowed, and then nothing has changed.
    pub(crate) set: fn(&mut Config, &OsStr) -> bool,
    /// The value in force, in the words of the variable.
    get: fn(&Config) -> String,
}

/// Values of a setting that are not words.
#[derive(Clone, Copy, Debug)]
pub struct Other {
    /// Which ones, as a part of a sentence.
    pub text: &'static str,
    /// What such a value does; empty where the setting says it.
    pub help: &'static str,
    /// What stands for the value in the help of a command.
    pub placeholder: &'static str,
}

/// Settings that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Whether anything is done.
    Engaging,
    /// What computes.
    Kernels,
    /// Where data lies.
    Memory,
    /// Who computes.
    Threads,
    /// What is told.
    Reporting,
    /// Only for this project's own tests.
    Tests,
}

impl Group {
    /// Its heading in docs/settings.md.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Engaging => "On and off",
            Self::Kernels => "Kernels",
            Self::Memory => "Memory",
            Self::Threads => "Threads",
            Self::Reporting => "Messages and statistics",
            Self::Tests => "For this project's own tests",
        }
    }
}

impl Knob {
    /// The value in force in `config`, as one would write it in the environment; empty means "not set".
    #[must_use]
    pub fn value(&self, config: &Config) -> String {
        (self.get)(config)
    }

    /// The value that stands for the default; empty means "not set".
    #[must_use]
    pub fn default(&self) -> String {
        self.value(&Config::default())
    }

    /// Whether a value is allowed.
    #[must_use]
    pub fn allows(&self, value: &OsStr) -> bool {
        (self.set)(&mut Config::default(), value)
    }

    /// What is allowed, as said to the user: `auto, off or a number`.
    #[must_use]
    pub fn allowed(&self) -> String {
        let words = self.words.iter().map(|word| word.word);
        let all: Vec<&str> = words.chain(self.other.map(|other| other.text)).collect();
        match all.split_last() {
            Some((last, [])) => (*last).to_owned(),
            Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
            None => String::new(),
        }
    }
}

/// Every setting, those of a group one after the other. An empty value counts as "not set", as with most programs.
pub static KNOBS: &[Knob] = &[
    Knob {
        name: "ZEN5TURBO",
        group: Group::Engaging,
        help: "The kill switch",
        details: "",
        words: &words(&SWITCH),
        other: None,
        unset: "",
        set: |c, v| choose(&mut c.enabled, v, &SWITCH),
        get: |c| word_of(&c.enabled, &SWITCH).to_owned(),
    },
    Knob {
        name: "ZEN5TURBO_GATE",
        group: Group::Engaging,
        help: "On which CPUs zen5turbo does its work",
        details: "",
        words: &words(&GATES),
        other: None,
        unset: "",
        set: |c, v| choose(&mut c.gate, v, &GATES),
        get: |c| word_of(&c.gate, &GATES).to_owned(),
    },
    Knob {
        name: "ZEN5TURBO_KERNELS",
        group: Group::Kernels,
        help: "Which kernels compute",
        details: "`auto` takes the register width that `zen5turbo tune` found to be the faster one, or measures it in 0.1 ms. \
                  Where the CPU cannot run what was asked for, one line on stderr says so, and the best that it runs is used. \
                  With `exact` products and attention are ggml's, because sums added in another order have other last bits. \
                  Operations whose results are rounded once, and functions that a comparison at their first use finds to \
                  give the same bits, stay on. So do memory and barriers. `ZEN5TURBO_THREADS` then is `off` unless it is \
                  set, because ggml's attention depends on the number of threads.",
        words: &words(&KERNELS),
        other: None,
        unset: "",
        set: |c, v| choose(&mut c.kernels, v, &KERNELS),
        get: |c| word_of(&c.kernels, &KERNELS).to_owned(),
    },
    Knob {
        name: "ZEN5TURBO_ATTENTION",
        group: Group::Kernels,
        help: "Who computes flash attention",
        details: "",
        words: &words(&ATTENTION),
        other: None,
        unset: "",
        set: |c, v| choose(&mut c.attention, v, &ATTENTION),
        get: |c| word_of(&c.attention, &ATTENTION).to_owned(),
    },
    Knob {
        name: "ZEN5TURBO_OPS",
        group: Group::Kernels,
        help: "Which operations that are no products zen5turbo computes",
        details: "The operations are add, sub, mul, div, glu, unary, rms_norm, l2_norm, concat, ssm_conv, \
                  gated_delta_net, soft_max, argsort, ssm_scan and rope. zen5turbo covers the layouts and functions in which it measured faster, and leaves the others to ggml. GELU \
                  is exact, where ggml rounds it to F16.",
        words: &words(&OPS),
        other: Some(Other { text: "a list of operations such as mul,glu", help: "only these", placeholder: "LIST" }),
        unset: "",
        set: |c, v| set_ops(&mut c.ops, v),
        get: |c| show_ops(&c.ops),
    },
    Knob {
        name: "ZEN5TURBO_INVARIANT",
        group: Group::Kernels,
        help: "Whether answers depend on what else is computed at the same time",
        details: "With `1` the result of a token has the same bits whatever else is in the batch, whichever slot it has, \
                  however many threads compute, and wherever the prompt was cut, as long as the keys of a sequence lie in \
                  the cache in the order of its tokens. What is left to ggml although its order may differ is counted as \
                  `order_not_kept`. [How it works](how-it-works.md#answers) has the conditions.",
        words: &words(&INVARIANT),
        other: None,
        unset: "",
        set: |c, v| choose(&mut c.invariant, v, &INVARIANT),
        get: |c| word_of(&c.invariant, &INVARIANT).to_owned(),
    },
    Knob {
        name: "ZEN5TURBO_F16",
        group: Group::Kernels,
        help: "How F16 weights are multiplied in products of more than 32 columns, such as those of a prompt",
        details: "With `bf16` answers change: `ZEN5TURBO_F16=bf16 scripts/kld.sh MODEL` measures by how much.",
        words: &words(&F16),
        other: None,
        unset: "",
        set: |c, v| choose(&mut c.f16_as_bf16, v, &F16),
        get: |c| word_of(&c.f16_as_bf16, &F16).to_owned(),
    },
    Knob {
        name: "ZEN5TURBO_REPACK",
        group: Group::Kernels,
        help: "When llama.cpp may repack weights (its buffer type CPU_REPACK)",
        details: "",
        words: &words(&REPACKS),
        other: None,
        unset: "",
        set: |c, v| choose(&mut c.repack, v, &REPACKS),
        get: |c| word_of(&c.repack, &REPACKS).to_owned(),
    },
    Knob {
        name: "ZEN5TURBO_TUNE",
        group: Group::Kernels,
        help: "Measurements that decide between our kernels and ggml's, made by `zen5turbo tune`",
        details: "",
        words: &words(&TUNES),
        other: Some(Other { text: "the path of a file", help: "", placeholder: "FILE|off" }),
        unset: "~/.cache/zen5turbo/tune.txt",
        set: |c, v| set_tune(&mut c.tune, v),
        get: |c| show_tune(&c.tune),
    },
    Knob {
        name: "ZEN5TURBO_BLAS",
        group: Group::Kernels,
        help: "A BLIS library, such as AMD's AOCL-BLIS, that computes what a ggml built with `GGML_BLAS` gives to `cblas_sgemm`",
        details: "",
        words: &[],
        other: Some(Other { text: "the path of a library", help: "", placeholder: "FILE" }),
        unset: "",
        set: |c, v| set_path(&mut c.blas, v),
        get: |c| show_path(c.blas.as_deref()),
    },
    Knob {
        name: "ZEN5TURBO_PREFETCH",
        group: Group::Memory,
        help: "What is read before it is needed",
        details: "At a cold start the model file is read while the program goes on. A model larger than memory is read ahead \
                  layer by layer.",
        words: &words(&PREFETCHES),
        other: None,
        unset: "",
        set: |c, v| choose(&mut c.prefetch, v, &PREFETCHES),
        get: |c| word_of(&c.prefetch, &PREFETCHES).to_owned(),
    },
    Knob {
        name: "ZEN5TURBO_HUGEPAGES",
        group: Group::Memory,
        help: "Which pages large buffers and copies of weights lie on",
        details: "",
        words: &words(&HUGE_PAGES),
        other: None,
        unset: "",
        set: |c, v| choose(&mut c.huge_pages, v, &HUGE_PAGES),
        get: |c| word_of(&c.huge_pages, &HUGE_PAGES).to_owned(),
    },
    Knob {
        name: "ZEN5TURBO_MALLOC",
        group: Group::Memory,
        help: "Which blocks of the heap are advised to lie on huge pages",
        details: "",
        words: &words(&MALLOCS),
        other: Some(BYTES),
        unset: "",
        set: |c, v| set_threshold(&mut c.malloc, v, &MALLOCS),
        get: |c| show_threshold(c.malloc, &MALLOCS),
    },
    Knob {
        name: "ZEN5TURBO_MEMCPY",
        group: Group::Memory,
        help: "Which copies are streamed past the caches",
        details: "",
        words: &words(&MEMCPYS),
        other: Some(BYTES),
        unset: "",
        set: |c, v| set_threshold(&mut c.memcpy, v, &MEMCPYS),
        get: |c| show_threshold(c.memcpy, &MEMCPYS),
    },
    Knob {
        name: "ZEN5TURBO_NUMA",
        group: Group::Memory,
        help: "Where buffers and copies of weights lie on a machine with several NUMA nodes",
        details: "On one node nothing is done.",
        words: &words(&NUMAS),
        other: None,
        unset: "",
        set: |c, v| choose(&mut c.numa, v, &NUMAS),
        get: |c| word_of(&c.numa, &NUMAS).to_owned(),
    },
    Knob {
        name: "ZEN5TURBO_PIN",
        group: Group::Threads,
        help: "Which CPUs the threads of a graph run on",
        details: "A program that places its threads itself, or runs graphs at the same time, is left alone.",
        words: &words(&PINS),
        other: Some(Other {
            text: "a list of different CPUs such as 0-7,16",
            help: "a CPU for each thread, in this order",
            placeholder: "CPUS",
        }),
        unset: "",
        set: |c, v| set_pin(&mut c.pin, v),
        get: |c| show_pin(&c.pin),
    },
    Knob {
        name: "ZEN5TURBO_THREADS",
        group: Group::Threads,
        help: "How many threads compute a graph",
        details: "",
        words: &words(&THREADS),
        other: Some(Other { text: "a number from 1 to 512", help: "no more than this number", placeholder: "N" }),
        unset: "",
        set: |c, v| set_threads(&mut c.threads, v),
        get: |c| show_threads(c.threads),
    },
    Knob {
        name: "ZEN5TURBO_BARRIER",
        group: Group::Threads,
        help: "How the threads of a graph wait for each other",
        details: "",
        words: &words(&BARRIERS),
        other: None,
        unset: "",
        set: |c, v| choose(&mut c.barrier, v, &BARRIERS),
        get: |c| word_of(&c.barrier, &BARRIERS).to_owned(),
    },
    Knob {
        name: "ZEN5TURBO_LOG",
        group: Group::Reporting,
        help: "What is written to stderr",
        details: "",
        words: &words(&LEVELS),
        other: None,
        unset: "",
        set: |c, v| choose(&mut c.log, v, &LEVELS),
        get: |c| word_of(&c.log, &LEVELS).to_owned(),
    },
    Knob {
        name: "ZEN5TURBO_STATS",
        group: Group::Reporting,
        help: "Where statistics are written as JSON",
        details: "They are written after the first graph, every two seconds at most while graphs are computed, and at exit: a \
                  program that is killed leaves counts up to its last two seconds. `\"computed\": false` means that no graph was \
                  computed. Pipes and devices are written to at exit only.",
        words: &[],
        other: Some(Other { text: "the path of a file (%p becomes the process id)", help: "", placeholder: "FILE" }),
        unset: "",
        set: |c, v| set_path(&mut c.stats, v),
        get: |c| show_path(c.stats.as_deref()),
    },
    Knob {
        name: "ZEN5TURBO_LIVE",
        group: Group::Reporting,
        help: "Whether `zen5turbo top` can read the counters of the running program",
        details: "",
        words: &words(&LIVE),
        other: None,
        unset: "",
        set: |c, v| choose(&mut c.live, v, &LIVE),
        get: |c| word_of(&c.live, &LIVE).to_owned(),
    },
];

const BYTES: Other = Other { text: "a number of bytes from 65536 on", help: "from this size on", placeholder: "BYTES" };

/// The variable that gives the CPU another identity in tests.
pub const TEST_CPU: &str = "ZEN5TURBO_TEST_CPU";

/// The variable that makes the library panic in tests.
pub const TEST_PANIC: &str = "ZEN5TURBO_TEST_PANIC";

/// Settings that users are not told of, except in docs/settings.md.
pub static TEST_KNOBS: &[Knob] = &[
    Knob {
        name: TEST_CPU,
        group: Group::Tests,
        help: "Which CPU the gate sees instead of the one that is there",
        details: "The kernels are those that the CPU can run.",
        words: &[],
        other: Some(Other {
            text: "VENDOR:FAMILY:MODEL with hexadecimal numbers, such as AuthenticAMD:1A:02",
            help: "",
            placeholder: "CPU",
        }),
        unset: "",
        set: |c, v| set_identity(&mut c.test_cpu, v),
        get: |c| show_identity(c.test_cpu.as_ref()),
    },
    Knob {
        name: TEST_PANIC,
        group: Group::Tests,
        help: "Where the library panics on purpose",
        details: "",
        words: &words(&FAULTS),
        other: None,
        unset: "",
        set: |c, v| set_fault(&mut c.test_panic, v),
        get: |c| c.test_panic.map_or_else(String::new, |fault| word_of(&fault, &FAULTS).to_owned()),
    },
];

/// The setting of a variable, of users or of tests.
#[must_use]
pub fn find(name: &OsStr) -> Option<&'static Knob> {
    KNOBS.iter().chain(TEST_KNOBS).find(|knob| name == knob.name)
}

/// Variables of scripts and of test programs, which a program may inherit. They are no settings, and nobody is told of them.
pub const OF_SCRIPTS: [&str; 5] =
    ["ZEN5TURBO_DEPS", "ZEN5TURBO_REQUIRE", "ZEN5TURBO_SHIPPED", "ZEN5TURBO_SKIPPED", "ZEN5TURBO_TEST_CASES"];

/// Whether a variable is, or is meant to be, a setting: its name begins like one, and it is not of a script.
#[must_use]
pub fn is_ours(name: &OsStr) -> bool {
    (name == "ZEN5TURBO" || name.as_encoded_bytes().starts_with(b"ZEN5TURBO_"))
        && !OF_SCRIPTS.iter().any(|other| name == *other)
}
