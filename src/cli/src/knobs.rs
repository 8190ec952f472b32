//! The shim's knobs: as options of a command, and as they are in force.
//!
//! What each of them means is decided in `src/shim/src/config/knobs.rs`; a test here compares the two.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::ValueEnum;
use zen5turbo_host::cpuset::parse_list;
use zen5turbo_host::fault::{Fault, TEST_PANIC, TEST_PANIC_VALUES};
use zen5turbo_host::identity::{TEST_CPU, TEST_CPU_VALUES};
use zen5turbo_host::{Cpu, GateMode, Identity};

use crate::shim::{self, Gate, Kernels, Log, word};

/// `ZEN5TURBO_REPACK`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Repack {
    /// Avoided where our kernels cover the types.
    Auto,
    /// Kept as llama.cpp does it.
    Keep,
    /// Avoided.
    Off,
}

/// `ZEN5TURBO_ATTENTION`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Attention {
    /// Computed by the shim where its kernels cover it.
    Auto,
    /// Left to ggml.
    Off,
}

/// `ZEN5TURBO_F16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum F16 {
    /// Computed as they are.
    Exact,
    /// Rounded to BF16 in products of many columns.
    Bf16,
}

/// `ZEN5TURBO_HUGEPAGES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HugePages {
    /// What the machine has without reservation.
    Auto,
    /// Transparent huge pages.
    Thp,
    /// Reserved pages of 2 MiB.
    #[value(name = "2m")]
    Two,
    /// Reserved pages of 1 GiB.
    #[value(name = "1g")]
    One,
    /// None.
    Off,
}

/// `ZEN5TURBO_NUMA`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Numa {
    /// Interleave, unless the program is bound or pinned.
    Auto,
    /// In turn on all nodes.
    Interleave,
    /// With the threads that compute them.
    Shard,
    /// On the node of the caller.
    Local,
    /// Where the kernel puts them.
    Off,
}

/// `ZEN5TURBO_BARRIER`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Barrier {
    /// The shim's, which lets others run.
    Auto,
    /// ggml's.
    Off,
}

/// `ZEN5TURBO_LIVE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Live {
    /// In shared memory of this user's.
    On,
    /// Not at all.
    Off,
}

/// `ZEN5TURBO`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Switch {
    #[value(name = "0")]
    Off,
    #[value(name = "1")]
    On,
}

/// Every knob as an option; one that is left out stays as it is in the environment.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Knobs of the shim")]
pub struct Options {
    /// Run on a Zen 5 only, leave all to ggml, or run on every CPU (ZEN5TURBO_GATE) [default: strict]
    #[arg(long)]
    pub gate: Option<Gate>,
    /// The highest kernel tier to use (ZEN5TURBO_KERNELS) [default: auto]
    #[arg(long)]
    pub kernels: Option<Kernels>,
    /// Flash attention (ZEN5TURBO_ATTENTION) [default: auto]
    #[arg(long)]
    pub attention: Option<Attention>,
    /// F16 weights in prompts: exact, or rounded to BF16 (ZEN5TURBO_F16) [default: exact]
    #[arg(long)]
    pub f16: Option<F16>,
    /// llama.cpp's repacked weights (ZEN5TURBO_REPACK) [default: auto]
    #[arg(long)]
    pub repack: Option<Repack>,
    /// What is read ahead: auto, off, pages, cache or cache:BYTES (ZEN5TURBO_PREFETCH) [default: auto]
    #[arg(long, value_name = "WHAT", value_parser = prefetch)]
    pub prefetch: Option<String>,
    /// Pages under weights and large buffers (ZEN5TURBO_HUGEPAGES) [default: auto]
    #[arg(long)]
    pub hugepages: Option<HugePages>,
    /// Heap blocks of this size on lie on huge pages: auto, off or bytes (ZEN5TURBO_MALLOC) [default: off]
    #[arg(long, value_name = "BYTES", value_parser = threshold)]
    pub malloc: Option<String>,
    /// Copies of this size on are streamed past the caches: auto, off or bytes (ZEN5TURBO_MEMCPY) [default: off]
    #[arg(long, value_name = "BYTES", value_parser = threshold)]
    pub memcpy: Option<String>,
    /// Where weights lie with several memory nodes (ZEN5TURBO_NUMA) [default: auto]
    #[arg(long)]
    pub numa: Option<Numa>,
    /// Threads on CPUs: auto, cores, off or a list such as 0-7,16 (ZEN5TURBO_PIN) [default: auto]
    #[arg(long, value_name = "CPUS", value_parser = pin)]
    pub pin: Option<String>,
    /// Threads of a graph: auto (no more than there are CPUs), off or at most so many (ZEN5TURBO_THREADS) [default: auto]
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<String>,
    /// How the threads of a graph wait for each other (ZEN5TURBO_BARRIER) [default: auto]
    #[arg(long)]
    pub barrier: Option<Barrier>,
    /// What the shim says on stderr (ZEN5TURBO_LOG) [default: off]
    #[arg(long)]
    pub log: Option<Log>,
    /// Write statistics to this file while it computes and at exit; %p becomes the process id (ZEN5TURBO_STATS)
    #[arg(long, value_name = "FILE")]
    pub stats: Option<PathBuf>,
    /// Whether `zen5turbo top` can read the counters of the running program (ZEN5TURBO_LIVE) [default: on]
    #[arg(long)]
    pub live: Option<Live>,
    /// Measured choices of kernels, or off (ZEN5TURBO_TUNE) [default: ~/.cache/zen5turbo/tune.txt]
    #[arg(long, value_name = "FILE|off")]
    pub tune: Option<PathBuf>,
    /// A BLIS library that computes what a ggml built with BLAS gives to cblas_sgemm (ZEN5TURBO_BLAS)
    #[arg(long, value_name = "FILE")]
    pub blas: Option<PathBuf>,
}

impl Options {
    /// The variables to set.
    pub fn variables(&self) -> Vec<(&'static str, OsString)> {
        let text = |text: &Option<String>| text.clone().map(OsString::from);
        let path = |path: &Option<PathBuf>| path.clone().map(PathBuf::into_os_string);
        let all: [(&str, Option<OsString>); 18] = [
            ("ZEN5TURBO_GATE", self.gate.map(|v| word(v).into())),
            ("ZEN5TURBO_KERNELS", self.kernels.map(|v| word(v).into())),
            ("ZEN5TURBO_ATTENTION", self.attention.map(|v| word(v).into())),
            ("ZEN5TURBO_F16", self.f16.map(|v| word(v).into())),
            ("ZEN5TURBO_REPACK", self.repack.map(|v| word(v).into())),
            ("ZEN5TURBO_PREFETCH", text(&self.prefetch)),
            ("ZEN5TURBO_HUGEPAGES", self.hugepages.map(|v| word(v).into())),
            ("ZEN5TURBO_MALLOC", text(&self.malloc)),
            ("ZEN5TURBO_MEMCPY", text(&self.memcpy)),
            ("ZEN5TURBO_NUMA", self.numa.map(|v| word(v).into())),
            ("ZEN5TURBO_PIN", text(&self.pin)),
            ("ZEN5TURBO_THREADS", text(&self.threads)),
            ("ZEN5TURBO_BARRIER", self.barrier.map(|v| word(v).into())),
            ("ZEN5TURBO_LOG", self.log.map(|v| word(v).into())),
            ("ZEN5TURBO_STATS", path(&self.stats)),
            ("ZEN5TURBO_LIVE", self.live.map(|v| word(v).into())),
            ("ZEN5TURBO_TUNE", path(&self.tune)),
            ("ZEN5TURBO_BLAS", path(&self.blas)),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

fn prefetch(text: &str) -> Result<String, String> {
    /// `Prefetch::MOST_CACHE_BYTES` of the shim.
    const MOST: usize = 4 << 20;
    let bytes = text.strip_prefix("cache:").map(str::parse::<usize>);
    match (text, bytes) {
        ("auto" | "off" | "pages" | "cache", _) | (_, Some(Ok(1..=MOST))) => Ok(text.to_owned()),
        _ => Err(format!("expected auto, off, pages, cache or cache:BYTES (1 to {MOST})")),
    }
}

fn threshold(text: &str) -> Result<String, String> {
    match text.parse::<usize>() {
        Ok(65536..) => Ok(text.to_owned()),
        Err(_) if ["auto", "off"].contains(&text) => Ok(text.to_owned()),
        _ => Err("expected auto, off or a number of bytes from 65536 on".into()),
    }
}

fn threads(text: &str) -> Result<String, String> {
    match text.parse::<usize>() {
        Ok(1..=512) => Ok(text.to_owned()),
        Err(_) if ["auto", "off"].contains(&text) => Ok(text.to_owned()),
        _ => Err("expected auto, off or a number from 1 to 512".into()),
    }
}

fn pin(text: &str) -> Result<String, String> {
    let list = || {
        let mut cpus = parse_list(text).filter(|cpus| !cpus.is_empty())?;
        let n = cpus.len();
        cpus.sort_unstable();
        cpus.dedup();
        (cpus.len() == n).then_some(())
    };
    if ["auto", "cores", "off"].contains(&text) || list().is_some() {
        return Ok(text.to_owned());
    }
    Err("expected auto, cores, off or a list of different CPUs such as 0-7,16".into())
}

/// One of the words of `T`.
fn one_of<T: ValueEnum>(text: &str) -> Result<String, String> {
    T::from_str(text, false).map(|_| text.to_owned()).map_err(|_| {
        let words: Vec<String> = T::value_variants().iter().cloned().map(word).collect();
        format!("expected {}", words.join(", "))
    })
}

/// Every knob, and what it accepts.
type Parser = fn(&str) -> Result<String, String>;
const KNOBS: [(&str, Parser); 19] = [
    ("ZEN5TURBO", one_of::<Switch>),
    ("ZEN5TURBO_GATE", one_of::<Gate>),
    ("ZEN5TURBO_KERNELS", one_of::<Kernels>),
    ("ZEN5TURBO_ATTENTION", one_of::<Attention>),
    ("ZEN5TURBO_F16", one_of::<F16>),
    ("ZEN5TURBO_REPACK", one_of::<Repack>),
    ("ZEN5TURBO_PREFETCH", prefetch),
    ("ZEN5TURBO_HUGEPAGES", one_of::<HugePages>),
    ("ZEN5TURBO_MALLOC", threshold),
    ("ZEN5TURBO_MEMCPY", threshold),
    ("ZEN5TURBO_NUMA", one_of::<Numa>),
    ("ZEN5TURBO_PIN", pin),
    ("ZEN5TURBO_THREADS", threads),
    ("ZEN5TURBO_BARRIER", one_of::<Barrier>),
    ("ZEN5TURBO_LOG", one_of::<Log>),
    ("ZEN5TURBO_STATS", |text| Ok(text.to_owned())),
    ("ZEN5TURBO_LIVE", one_of::<Live>),
    ("ZEN5TURBO_TUNE", |text| Ok(text.to_owned())),
    ("ZEN5TURBO_BLAS", |text| Ok(text.to_owned())),
];

/// The shim's variables of a process, as given; an empty value counts as not set, as in the shim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings(BTreeMap<String, String>);

impl Settings {
    /// Those of this process, which a program that it starts inherits.
    pub fn inherited() -> Settings {
        Settings::of(shim::inherited())
    }

    /// Those among `variables`.
    pub fn of(variables: impl IntoIterator<Item = (String, String)>) -> Settings {
        let ours = |name: &str| name == shim::PREFIX || name.starts_with("ZEN5TURBO_") && name != "ZEN5TURBO_DEPS";
        Settings(variables.into_iter().filter(|(name, value)| ours(name) && !value.is_empty()).collect())
    }

    /// With the options of a command line in front.
    pub fn with(mut self, options: &Options) -> Settings {
        let set = options.variables().into_iter();
        self.0.extend(set.map(|(name, value)| (name.to_owned(), value.to_string_lossy().into_owned())));
        self
    }

    /// Name and value, in the order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &String)> {
        self.0.iter()
    }

    /// A knob's value where it is set and allowed; the shim uses its default for all else.
    pub fn get(&self, name: &str) -> Option<&str> {
        let value = self.0.get(name)?;
        let (_, parser) = KNOBS.iter().find(|(knob, _)| *knob == name)?;
        parser(value).is_ok().then_some(value)
    }

    /// What the shim will not take: variable and value, and what was expected.
    pub fn complaints(&self) -> Vec<(String, String)> {
        let complaint = |(name, value): (&String, &String)| {
            let expected = match KNOBS.iter().find(|(knob, _)| knob == name) {
                Some((_, parser)) => parser(value).err()?.trim_start_matches("expected ").to_owned(),
                None if name == TEST_CPU && Identity::parse(value).is_some() => return None,
                None if name == TEST_CPU => TEST_CPU_VALUES.to_owned(),
                None if name == TEST_PANIC && Fault::parse(value).is_some() => return None,
                None if name == TEST_PANIC => TEST_PANIC_VALUES.to_owned(),
                None => format!("one of {}", KNOBS.map(|(knob, _)| knob).join(", ")),
            };
            Some((format!("{name}={value}"), expected))
        };
        self.iter().filter_map(complaint).collect()
    }

    /// The CPU as the shim sees it: in tests under the identity that they choose.
    pub fn cpu(&self) -> Cpu {
        match self.0.get(TEST_CPU).and_then(|value| Identity::parse(value)) {
            Some(identity) => Cpu::detect().under(&identity),
            None => Cpu::detect(),
        }
    }

    /// The gate's mode.
    pub fn gate(&self) -> GateMode {
        let value = self.get("ZEN5TURBO_GATE").unwrap_or("strict");
        let modes = [GateMode::Strict, GateMode::Passthrough, GateMode::Off];
        modes.into_iter().find(|mode| mode.as_str() == value).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        options: Options,
    }

    /// The shim's own table: name, default, allowed.
    fn of_the_shim() -> Vec<[String; 3]> {
        let source = include_str!("../../shim/src/config/knobs.rs");
        let table = source.split("];").next().unwrap();
        let field = |entry: &str, key: &str| {
            let rest = entry.split(&format!("{key}: ")).nth(1).unwrap();
            rest.trim_start_matches('"').split(['"', ',']).next().unwrap().to_owned()
        };
        let entries = table.split("    Knob {").skip(1);
        let allowed = |entry: &str| entry.split("allowed: ").nth(1).unwrap().lines().next().unwrap().to_owned();
        entries.map(|e| [field(e, "name"), field(e, "default"), allowed(e)]).collect()
    }

    #[test]
    fn every_knob_of_the_shim_is_here_with_the_same_words() {
        let shim = of_the_shim();
        assert_eq!(shim.len(), KNOBS.len());
        for [name, default, allowed] in &shim {
            let (_, parser) = KNOBS.iter().find(|(knob, _)| knob == name).unwrap_or_else(|| panic!("{name}"));
            assert!(default.is_empty() || parser(default).is_ok(), "{name}={default}");
            let plain = |w: &&str| {
                !w.is_empty() && w.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            };
            let words: Vec<&str> =
                allowed.trim_matches(['"', ',']).split([',', '"']).flat_map(|w| w.split(" or ")).collect();
            for word in words.into_iter().map(str::trim).filter(plain) {
                assert!(parser(word).is_ok(), "{name}={word}");
            }
        }
    }

    #[test]
    fn every_knob_but_the_kill_switch_is_an_option_that_sets_its_variable() {
        let line = "x --gate off --kernels avx512-256 --attention off --f16 bf16 --repack keep --prefetch cache:4096 --hugepages 1g --malloc auto \
                    --memcpy 65536 --numa shard --pin 0-3,8 --threads 4 --barrier off --log info --stats s.json --live off --tune off --blas b.so";
        let command = Command::parse_from(line.split_whitespace());
        let set = command.options.variables();
        let words: Vec<String> = set.iter().map(|(n, v)| format!("{n}={}", v.to_string_lossy())).collect();
        let names: Vec<&str> = set.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, KNOBS.map(|(name, _)| name)[1..].to_vec());
        for expected in ["ZEN5TURBO_KERNELS=avx512-256", "ZEN5TURBO_HUGEPAGES=1g", "ZEN5TURBO_PIN=0-3,8"] {
            assert!(words.iter().any(|w| w == expected), "{words:?}");
        }
    }

    #[test]
    fn values_that_the_shim_would_refuse_are_refused() {
        for bad in [
            "--prefetch cache:0",
            "--prefetch cache:4194305",
            "--malloc 4096",
            "--pin 0,0",
            "--pin x",
            "--threads 0",
            "--gate on",
        ] {
            let error = Command::try_parse_from(["x"].into_iter().chain(bad.split(' '))).err();
            assert!(error.is_some(), "{bad}");
        }
    }

    #[test]
    fn settings_are_judged_as_the_shim_judges_them() {
        let settings = Settings::of(
            [
                ("ZEN5TURBO_GATE", "0ff"),
                ("ZEN5TURBO_NUMA", ""),
                ("ZEN5TURBO_X", "1"),
                ("ZEN5TURBO_DEPS", "/"),
                ("HOME", "/"),
            ]
            .map(|(n, v)| (n.to_owned(), v.to_owned())),
        );
        assert_eq!(settings.gate(), GateMode::Strict);
        let complaints = settings.complaints();
        assert_eq!(complaints[0], ("ZEN5TURBO_GATE=0ff".into(), "strict, passthrough, off".into()));
        assert!(complaints[1].0 == "ZEN5TURBO_X=1" && complaints[1].1.contains("ZEN5TURBO_TUNE"), "{complaints:?}");
        assert_eq!(complaints.len(), 2);
        let options = Options { gate: Some(Gate::Off), ..Options::default() };
        assert_eq!(settings.with(&options).gate(), GateMode::Off);
    }

    #[test]
    fn the_cpu_is_the_one_that_the_shim_sees() {
        let of = |value: &str| Settings::of([(TEST_CPU.to_owned(), value.to_owned())]);
        assert!(of("AuthenticAMD:1A:02").cpu().is_zen5() && !of("AuthenticAMD:19:01").cpu().is_zen5());
        assert!(of("AuthenticAMD:1A:02").complaints().is_empty());
        assert_eq!(of("x").cpu(), Cpu::detect());
        assert!(of("x").complaints()[0].1.contains("VENDOR:FAMILY:MODEL"));
    }
}
