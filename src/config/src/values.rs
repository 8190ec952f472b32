//! The values of the settings: the words that a user writes, what they mean, and the types that the code sees.

use std::path::PathBuf;

use zen5turbo_host::GateMode;
use zen5turbo_kernels::ops::Operation;

/// A word that is a value of a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// As it is written in the environment.
    pub word: &'static str,
    /// What it does, as a part of a sentence.
    pub help: &'static str,
}

const fn word(word: &'static str, help: &'static str) -> Word {
    Word { word, help }
}

/// The words of a setting and what each one means to the code.
pub(crate) type Choices<T, const N: usize> = [(T, Word); N];

/// The words alone.
pub(crate) const fn words<T, const N: usize>(choices: &Choices<T, N>) -> [Word; N] {
    let mut words = [word("", ""); N];
    let mut i = 0;
    while i < N {
        words[i] = choices[i].1;
        i += 1;
    }
    words
}

/// Declares a type each of whose values is a word: the words are its documentation and its [`Choices`].
macro_rules! choice {
    ($(#[$attribute:meta])* $name:ident, $choices:ident: $($variant:ident = $word:literal, $help:literal;)+) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $(#[doc = concat!("`", $word, "`: ", $help, ".")] $variant,)+
        }

        pub(crate) static $choices: Choices<$name, { [$($word),+].len() }> =
            [$(($name::$variant, word($word, $help))),+];
    };
}

pub(crate) static SWITCH: Choices<bool, 2> =
    [(false, word("0", "nothing is changed and nothing is printed")), (true, word("1", "the library does its work"))];

pub(crate) static GATES: Choices<GateMode, 3> = [
    (GateMode::Strict, word(GateMode::Strict.as_str(), "on a Zen 5; on other CPUs it ends the program with status 78")),
    (GateMode::Passthrough, word(GateMode::Passthrough.as_str(), "on none: everything is left to ggml")),
    (GateMode::Off, word(GateMode::Off.as_str(), "on every x86-64 CPU, with the best kernels it has")),
];

choice! {
    /// Which kernels compute.
    KernelChoice, KERNELS:
    Auto = "auto", "the best that this CPU runs";
    Avx512 = "avx512", "AVX-512 with VNNI, in 512-bit registers";
    Avx512Narrow = "avx512-256", "AVX-512 with VNNI, in 256-bit registers";
    Avx2 = "avx2", "AVX2";
    Scalar = "scalar", "portable code without vectors";
    Exact = "exact", "only those that give the bits of ggml's own";
    Off = "off", "none: every operation is left to ggml";
}

impl KernelChoice {
    /// The value of `ZEN5TURBO_KERNELS` that selects it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        word_of(&self, &KERNELS)
    }
}

pub(crate) static ATTENTION: Choices<bool, 2> =
    [(true, word("auto", "zen5turbo, where its kernels cover it")), (false, word("off", "ggml"))];

/// Which operations that are no products are computed here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ops {
    /// All that the kernels cover, but for [`Operation::Rope`]: it is about 1 % of the speed, and its last bits move answers
    /// further from stock's (mean KL divergence of Gemma 3 270M 0.0067 with it, 0.0066 without; Zen 4, 2026-11-30).
    Auto,
    /// All that the kernels cover.
    All,
    /// None.
    Off,
    /// These.
    List(Vec<Operation>),
}

impl Ops {
    /// Whether an operation is computed here, if the kernels cover it.
    #[must_use]
    pub fn have(&self, operation: Operation) -> bool {
        match self {
            Self::Auto => operation != Operation::Rope,
            Self::All => true,
            Self::Off => false,
            Self::List(list) => list.contains(&operation),
        }
    }
}

pub(crate) static OPS: Choices<Ops, 3> = [
    (Ops::Auto, word("auto", "all that zen5turbo's kernels cover, but for rope")),
    (Ops::All, word("all", "also rope: about 1 % faster, a little further from ggml's answers")),
    (Ops::Off, word("off", "none: ggml computes them")),
];

pub(crate) static INVARIANT: Choices<bool, 2> = [
    (false, word("0", "they may, in the last bits")),
    (true, word("1", "they do not: all kernels add in one order, which is slower")),
];

pub(crate) static F16: Choices<bool, 2> = [
    (false, word("exact", "as they are")),
    (
        true,
        word(
            "bf16",
            "rounded to BF16, and their activations too, on CPUs with AVX512_BF16, which is faster and less exact",
        ),
    ),
];

choice! {
    /// What happens to llama.cpp's repacked copies of the weights.
    Repack, REPACKS:
    Auto = "auto", "not where the kernels in use cover the types, unless ggml has a BLAS backend";
    Keep = "keep", "as llama.cpp does by itself";
    Off = "off", "never";
}

/// Where measured choices of kernels are read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tune {
    /// From `zen5turbo/tune.txt` in the user's cache folder, when there is one.
    Default,
    /// From nowhere.
    Off,
    /// From this file.
    File(PathBuf),
}

pub(crate) static TUNES: Choices<Tune, 1> = [(Tune::Off, word("off", "the built-in choices"))];

choice! {
    /// What is read before it is needed.
    Prefetch, PREFETCHES:
    Auto = "auto", "what measured as faster, which is `pages`";
    Off = "off", "nothing";
    Pages = "pages", "pages of the model file that are not resident";
}

impl Prefetch {
    /// Whether pages of the model file are read ahead.
    #[must_use]
    pub fn reads_pages(self) -> bool {
        matches!(self, Self::Auto | Self::Pages)
    }
}

choice! {
    /// Which pages copies of weights and ggml's large buffers lie on. Every kind falls back to the smaller ones where
    /// the kernel refuses; the statistics hold the reason of each step down.
    HugePages, HUGE_PAGES:
    Auto = "auto", "transparent huge pages under buffers, once the program has loaded; copies of weights only with several NUMA nodes, or where `zen5turbo tune` measured that they pay";
    Thp = "thp", "transparent huge pages, under buffers from the first touch on, and under copies of weights";
    Two = "2m", "pages of 2 MiB that the administrator reserved, else transparent ones; also under copies of weights";
    One = "1g", "pages of 1 GiB that the administrator reserved under copies of weights, of 2 MiB under the rest";
    Off = "off", "what the program gets by itself";
}

/// From which size on a function of the C library does more than the original.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threshold {
    /// Never.
    Off,
    /// From a size that this library knows or measures.
    Auto,
    /// From this number of bytes on.
    Bytes(usize),
}

pub(crate) static MALLOCS: Choices<Threshold, 2> =
    [(Threshold::Auto, word("auto", "from 8 MiB on")), (Threshold::Off, word("off", "none"))];

pub(crate) static MEMCPYS: Choices<Threshold, 2> =
    [(Threshold::Auto, word("auto", "large ones, where that measures faster")), (Threshold::Off, word("off", "none"))];

choice! {
    /// Where weights and buffers are placed on a machine with several NUMA nodes. On one node, nothing is done.
    Numa, NUMAS:
    Auto = "auto", "as `interleave`, unless numactl, `--numa`, a cpuset or an affinity has placed memory or threads already";
    Interleave = "interleave", "in turn on every node where something can be computed";
    Shard = "shard", "each row on the node of the thread that computes it, which pins the threads";
    Local = "local", "on the node of the thread that starts the graphs";
    Off = "off", "where the kernel puts them";
}

/// Which CPUs the threads of a graph run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pin {
    /// As `Cores` with `ZEN5TURBO_NUMA=shard`, which needs it. Otherwise as `Off`: pinning did not pay.
    Auto,
    /// One thread on each physical core, in turn over NUMA nodes and last-level caches.
    Cores,
    /// Left as they are.
    Off,
    /// Thread `i` on the `i`-th of these.
    List(Vec<usize>),
}

pub(crate) static PINS: Choices<Pin, 3> = [
    (Pin::Auto, word("auto", "as `cores` with `ZEN5TURBO_NUMA=shard`, else as `off`")),
    (Pin::Cores, word("cores", "one thread on each physical core, in turn over NUMA nodes and last-level caches")),
    (Pin::Off, word("off", "where the scheduler puts them")),
];

/// How many threads compute a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// No more than the process has CPUs: online, allowed, and in the quotas of its control groups.
    Auto,
    /// As many as the program asks for.
    Off,
    /// At most this number.
    AtMost(usize),
}

pub(crate) static THREADS: Choices<Threads, 2> = [
    (
        Threads::Auto,
        word(
            "auto",
            "no more than the process has CPUs, and for one column no more than `zen5turbo tune` found useful",
        ),
    ),
    (Threads::Off, word("off", "as many as the program asks for")),
];

pub(crate) static BARRIERS: Choices<bool, 2> =
    [(true, word("auto", "asleep where other processes need the CPUs")), (false, word("off", "as ggml does"))];

choice! {
    /// How much is written to stderr.
    #[derive(PartialOrd, Ord)]
    LogLevel, LEVELS:
    Off = "off", "only what the user can mend";
    Info = "info", "also what was found at the start and what engaged";
    Debug = "debug", "also every decision";
}

pub(crate) static LIVE: Choices<bool, 2> =
    [(true, word("on", "yes, `zen5turbo` of the same user can")), (false, word("off", "no"))];

choice! {
    /// Where the library panics on purpose, for tests of what becomes of real defects.
    Fault, FAULTS:
    Plan = "plan", "while a graph is planned, when nothing was decided yet";
    Product = "product", "in the first thread's part of a product that was taken over";
    Attention = "attention", "in the first thread's part of attention";
    Sgemm = "sgemm", "in `llamafile_sgemm`";
    Barrier = "barrier", "at a barrier of the library's own";
}

/// The word for a value; empty when there is none.
pub(crate) fn word_of<T: PartialEq>(value: &T, choices: &[(T, Word)]) -> &'static str {
    choices.iter().find(|(meaning, _)| meaning == value).map_or("", |(_, word)| word.word)
}
