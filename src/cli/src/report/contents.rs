//! What records say, whatever their form was.

use zen5turbo_host::cpu::{ZEN5_FAMILY, ZEN5_MODELS};

/// Stands for what a record does not say.
pub const UNKNOWN: &str = "not recorded";

/// Where, when and with what something was measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct At {
    /// UTC, ISO 8601, a day at least. Empty: not recorded.
    pub date: String,
    pub cpu: Cpu,
    /// Version or commit of zen5turbo. Empty: not recorded.
    pub version: String,
    /// The file, as it is shown.
    pub file: String,
}

impl At {
    /// The day, or that there is none.
    pub fn day(&self) -> &str {
        match self.date.get(..10) {
            Some(day) => day,
            None => UNKNOWN,
        }
    }

    /// The name of the file, without its folders.
    pub fn file_name(&self) -> &str {
        self.file.rsplit('/').next().unwrap_or_default()
    }

    /// The version, or that there is none.
    pub fn version(&self) -> &str {
        if self.version.is_empty() { UNKNOWN } else { &self.version }
    }
}

/// A CPU as a record names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cpu {
    /// Empty: not recorded.
    pub brand: String,
    /// Family and model, both decimal.
    pub model: Option<(u32, u32)>,
}

/// Smallest, middle and largest value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub low: f64,
    pub median: f64,
    pub high: f64,
}

/// One test of one model, with all arms in turns.
#[derive(Clone, Debug)]
pub struct Speed {
    pub at: At,
    pub model: String,
    /// The model's type, as the program calls it; may be empty.
    pub kind: String,
    pub test: String,
    pub threads: u32,
    pub unit: String,
    /// Build of llama.cpp, where several lie beside each other.
    pub build: String,
    /// The better of stock, and its values.
    pub stock: (String, Spread),
    /// What stock shows against itself, mirrored at 1.
    pub noise: Option<(f64, f64)>,
    pub arms: Vec<Arm>,
}

/// An arm against the better of stock.
#[derive(Clone, Debug)]
pub struct Arm {
    pub name: String,
    pub values: Spread,
    /// Pairs of runs.
    pub pairs: usize,
    /// Median of the paired ratios.
    pub ratio: f64,
    pub interval: Option<(f64, f64)>,
    pub said: Said,
    /// Bytes of weights that were read for a token.
    pub bytes_per_token: Option<f64>,
}

/// What the runs support.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    Better,
    Worse,
    NoDifference,
    /// Stock was not run against itself.
    NoCheck,
    TooFew,
}

impl Said {
    /// In words; `speed`: whether large values are good.
    pub fn words(self, speed: bool) -> &'static str {
        match (self, speed) {
            (Said::Better, true) => "faster",
            (Said::Worse, true) => "slower",
            (Said::Better, false) => "less",
            (Said::Worse, false) => "more",
            (Said::NoDifference, _) => "no difference shown",
            (Said::NoCheck, _) => "no A/A: no claim",
            (Said::TooFew, _) => "too few pairs",
        }
    }
}

/// Streaming reads from memory.
#[derive(Clone, Debug)]
pub struct Memory {
    pub at: At,
    /// Kind of pages.
    pub pages: String,
    pub threads: u32,
    /// GB/s.
    pub rate: Spread,
}

/// Power of a package while all cores computed.
#[derive(Clone, Debug)]
pub struct Power {
    pub at: At,
    pub name: String,
    pub watts: Spread,
}

/// A machine as `bios record` measured it.
#[derive(Clone, Debug)]
pub struct Bench {
    pub at: At,
    pub label: String,
    pub results: Vec<(String, String, Spread)>,
    /// What could not be measured, and why.
    pub unmeasured: Vec<(String, String)>,
}

/// Our kernels against ggml's, by type and number of columns.
#[derive(Clone, Debug)]
pub struct Tuned {
    pub at: At,
    pub tier: String,
    pub ggml: String,
    pub columns: Vec<&'static str>,
    pub rows: Vec<(String, Vec<Option<f64>>)>,
}

/// Matrix products alone, one thread.
#[derive(Clone, Debug)]
pub struct Product {
    pub kind: String,
    pub isa: String,
    pub columns: u32,
    /// GMAC/s, and the share of what the tier's instructions reach.
    pub macs: (f64, f64),
    /// GB/s of weights, and the share of the streaming rate.
    pub bytes: (f64, f64),
}

/// A server under load.
#[derive(Clone, Debug)]
pub struct Served {
    pub at: At,
    pub model: String,
    pub kind: String,
    pub threads: String,
    pub clients: String,
    pub pairs: String,
    pub arms: Vec<String>,
    /// Arms that are compared with stock.
    pub compared: Vec<String>,
    pub rows: Vec<ServedRow>,
}

/// A figure of a scenario.
#[derive(Clone, Debug)]
pub struct ServedRow {
    pub scenario: String,
    pub figure: String,
    /// One for each arm.
    pub values: Vec<Option<String>>,
    /// One for each arm that is compared: the ratio with its interval, and what it supports.
    pub ratios: Vec<Option<(String, Said)>>,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    pub speeds: Vec<Speed>,
    pub memory: Vec<Memory>,
    pub power: Vec<Power>,
    pub benches: Vec<Bench>,
    pub tuned: Vec<Tuned>,
    pub products: Vec<(At, Vec<Product>)>,
    pub served: Vec<Served>,
    /// CPUs of days, also of records that the page has no section for.
    pub seen: Vec<(String, Cpu)>,
}

impl Contents {
    /// Everything that was measured somewhere.
    pub fn places(&mut self) -> impl Iterator<Item = &mut At> {
        let speeds = self.speeds.iter_mut().map(|x| &mut x.at);
        let memory = self.memory.iter_mut().map(|x| &mut x.at);
        let power = self.power.iter_mut().map(|x| &mut x.at);
        let benches = self.benches.iter_mut().map(|x| &mut x.at);
        let tuned = self.tuned.iter_mut().map(|x| &mut x.at);
        let products = self.products.iter_mut().map(|x| &mut x.0);
        let served = self.served.iter_mut().map(|x| &mut x.at);
        speeds.chain(memory).chain(power).chain(benches).chain(tuned).chain(products).chain(served)
    }

    /// Adds `other`.
    pub fn extend(&mut self, other: Contents) {
        self.speeds.extend(other.speeds);
        self.memory.extend(other.memory);
        self.power.extend(other.power);
        self.benches.extend(other.benches);
        self.tuned.extend(other.tuned);
        self.products.extend(other.products);
        self.served.extend(other.served);
        self.seen.extend(other.seen);
    }
}

impl Cpu {
    /// From `AMD EPYC`, `AMD EPYC (family 25 model 17)`, `(family 25, model 17)` or `(AuthenticAMD, family 19h, model 11h)`.
    pub fn parse(text: &str) -> Cpu {
        let (brand, rest) = text.split_once(" (").map_or((text, ""), |(brand, rest)| (brand, rest));
        // `Intel(R) Xeon(R)` has no blank before its brackets.
        let number = |word: &str| {
            let after = rest.split(word).nth(1)?.trim_start();
            let digits: &str = after.split(|c: char| !c.is_ascii_hexdigit()).next()?;
            let hexadecimal = after[digits.len()..].starts_with('h');
            u32::from_str_radix(digits, if hexadecimal { 16 } else { 10 }).ok()
        };
        match number("family ").zip(number("model ")) {
            Some(model) => Cpu { brand: brand.trim().to_owned(), model: Some(model) },
            None => Cpu { brand: text.trim().to_owned(), model: None },
        }
    }
}

impl Cpu {
    fn is_zen5(&self) -> bool {
        let is_model =
            |model: u32| ZEN5_MODELS.iter().any(|&(first, last)| (first.into()..=last.into()).contains(&model));
        let is_zen5 = |(family, model)| family == u32::from(ZEN5_FAMILY) && is_model(model);
        self.brand.starts_with("AMD") && self.model.is_some_and(is_zen5)
    }
}

impl std::fmt::Display for Cpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.brand.is_empty() { "CPU not recorded" } else { &self.brand })?;
        match self.model {
            Some((family, model)) => {
                let zen5 = if self.is_zen5() { "Zen 5, " } else { "" };
                write!(f, " ({zen5}family {family} model {model})")
            }
            None if self.brand.is_empty() => Ok(()),
            None => f.write_str(" (family not recorded)"),
        }
    }
}
