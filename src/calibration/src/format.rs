//! The text of the file.
//!
//! ```text
//! zen5turbo-tune 4
//! # any remark
//! cpu AMD EPYC 9755 128-Core Processor
//! ggml 0.26.0 1a2b3c4 avx2,fma,f16c,avx512,avx512_vnni,avx512_bf16,llamafile
//! tier avx512vnni
//! width 512
//! panel 32768
//! prefetch 0
//! ahead 8192
//! threads 24
//! copies 1.03
//! made 2026-11-21T19:40:00Z by zen5turbo 0.1.0 with 128 threads
//! q4_K 1 ours 103500 121000 98700
//! f16 many stock 8123000 7010000 -
//! ```
//! The first line is the format and its version. A line `cpu` begins a calibration: `cpu` is the CPU's brand
//! string, `ggml` the build ([`zen5turbo_ggml::build::identity`]) or the first words of it, `tier` the name of an [`Isa`]; each
//! stands once, before the first measurement; `-` stands for what there is none of. `width`, 512 or 256, is the
//! faster one of the two on that CPU where it was measured; `panel` and `prefetch` are the bytes of a packed panel and of
//! weights to fetch ahead of packing, where others than the built-in ones were, `ahead` the bytes that one column by rows
//! fetches ahead; `threads` is
//! how many threads compute a graph of one column, where more of them gain nothing; `copies` is how many times as fast a graph
//! of one column is on weights that were copied onto huge pages as on the mapped file, with two decimals; `made` is for
//! the reader. A measurement is
//! `<type> <regime> <ours|stock> <our ns> <plain ns> <repacked ns>`: the name of a type in ggml, in any case, a
//! [`Regime`], who computes products of plain weights, and the times in whole nanoseconds of the same product computed
//! by this library, by ggml from plain weights, and by ggml from weights in its buffer type `CPU_REPACK`; `-` where
//! ggml has no repacked kernel for the type. See [`Choice`] for what makes a choice. Where nothing decided there is no
//! line, and the built-in table
//! holds. Runs of blanks count as one; empty lines and lines that begin with `#` are skipped. Of a file
//! with a line that is none of these, nothing is used.
//!
//! Version 3 had no line `copies`. Version 2 had no repacked time and no `ahead` either. Version 1 had one calibration without `width` and `made`, its `ggml` was the
//! version alone, its regimes
//! were `1`, `2-16` and `many`, and a measurement had no word for the choice: the original's where that was
//! faster by more than 2 %. All are understood; version 4 is written.

use std::fmt;
use std::io::{self, Read};
use std::path::Path;
use std::str::FromStr;

use zen5turbo_kernels::formats::WeightType;
use zen5turbo_kernels::isa::Isa;
use zen5turbo_kernels::kernel::Blocking;

use crate::{Calibration, Choice, Cut, Measured, Regime, TuneFile, Width};

/// What the first line says before the version.
const MAGIC: &str = "zen5turbo-tune";

/// Stands for a brand, version or commit that there is none of.
pub(crate) use zen5turbo_ggml::build::NONE;

/// No file comes near this size: 16 types in 6 regimes are 4 KB, and 32 such calibrations are kept.
pub const MAX_BYTES: u64 = 256 << 10;

/// A panel of less is no panel: one block of sixteen rows of the widest type.
const SMALLEST_PANEL: usize = 4 << 10;

/// Of a file of version 1: the original must be faster by more than this to be left alone, in percent.
const MARGIN_PERCENT: u128 = 2;

/// The regimes of version 1.
const FIRST_REGIMES: [(&str, &[Regime]); 3] = [
    ("1", &[Regime::One]),
    ("2-16", &[Regime::Two, Regime::Four, Regime::Eight, Regime::Sixteen]),
    ("many", &[Regime::Many]),
];

/// The first line of a file that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// Counted from 1; one more than there are when the file ends too early.
    number: usize,
    found: String,
    expected: String,
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: found {}, expected {}", self.number, self.found, self.expected)
    }
}

/// The contents of a regular file that is not absurdly large. Bytes that are not UTF-8 are replaced:
/// no line that has them is understood, except remarks.
///
/// # Errors
/// It cannot be read, is no regular file, or is larger than [`MAX_BYTES`].
pub fn read(path: &Path) -> io::Result<String> {
    // Opening a pipe could wait for ever.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(io::Error::other(format!("it is larger than {} KiB", MAX_BYTES >> 10)));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl fmt::Display for TuneFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{MAGIC} 4")?;
        for calibration in &self.calibrations {
            writeln!(f, "\n{calibration}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Calibration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cpu {}\nggml {}\ntier {}", self.cpu, self.ggml, self.isa.name())?;
        if let Some(width) = self.width {
            write!(f, "\nwidth {}", width.name())?;
        }
        let cut = self.cut;
        let numbers =
            [("panel", cut.panel), ("prefetch", cut.prefetch), ("ahead", cut.ahead), ("threads", self.threads)];
        for (key, number) in numbers {
            if let Some(number) = number {
                write!(f, "\n{key} {number}")?;
            }
        }
        if let Some(hundredths) = self.copies {
            write!(f, "\ncopies {}.{:02}", hundredths / 100, hundredths % 100)?;
        }
        if let Some(made) = &self.made {
            write!(f, "\nmade {made}")?;
        }
        for Measured { weight, regime, choice, ours, plain, repacked } in &self.measured {
            write!(f, "\n{} {} {} {ours} {plain} ", weight.ggml_name(), regime.name(), choice.name())?;
            match repacked {
                Some(repacked) => write!(f, "{repacked}")?,
                None => f.write_str(NONE)?,
            }
        }
        Ok(())
    }
}

/// A calibration that is being read.
#[derive(Default)]
struct Draft {
    /// Its first line.
    start: (usize, String),
    cpu: Option<String>,
    ggml: Option<String>,
    isa: Option<Isa>,
    width: Option<Width>,
    cut: Cut,
    threads: Option<usize>,
    copies: Option<u32>,
    made: Option<String>,
    measured: Vec<Measured>,
}

impl Draft {
    fn is_complete(&self) -> bool {
        self.cpu.is_some() && self.ggml.is_some() && self.isa.is_some()
    }

    /// Takes the line with the key `key`. Errors say what was expected, as all below.
    fn take(&mut self, version: Version, key: &str, value: &str, line: &str) -> Result<(), String> {
        match (key, version) {
            ("cpu", _) => set(&mut self.cpu, normal(value)),
            ("ggml", _) => set(&mut self.ggml, normal(value)),
            ("tier", _) => named("tier", value, Isa::ALL, Isa::name).and_then(|isa| set(&mut self.isa, Some(isa))),
            ("width", _) if version >= Version::Two => {
                named("width", value, Width::ALL, Width::name).and_then(|width| set(&mut self.width, Some(width)))
            }
            ("panel", _) if version >= Version::Two => {
                bytes(key, value, SMALLEST_PANEL).and_then(|n| set(&mut self.cut.panel, Some(n)))
            }
            ("prefetch", _) if version >= Version::Two => {
                bytes(key, value, 0).and_then(|n| set(&mut self.cut.prefetch, Some(n)))
            }
            ("ahead", _) if version >= Version::Three => {
                bytes(key, value, 0).and_then(|n| set(&mut self.cut.ahead, Some(n)))
            }
            ("threads", _) if version >= Version::Two => threads(value).and_then(|n| set(&mut self.threads, Some(n))),
            ("copies", _) if version >= Version::Four => hundredths(value).and_then(|n| set(&mut self.copies, Some(n))),
            ("made", _) if version >= Version::Two => set(&mut self.made, normal(value)),
            _ if !self.is_complete() => {
                Err("the lines `cpu`, `ggml` and `tier` before the first measurement".to_owned())
            }
            _ => {
                for new in parse_measured(version, line)? {
                    add(&mut self.measured, new)?;
                }
                Ok(())
            }
        }
    }

    /// Ends it: behind those that are `done`, from none of which it may differ in measurements alone.
    fn end(self, done: &mut Vec<Calibration>, after: usize) -> Result<(), BadLine> {
        let (Some(cpu), Some(ggml), Some(isa)) = (self.cpu, self.ggml, self.isa) else {
            return Err(BadLine {
                number: after,
                found: "the end of the file".to_owned(),
                expected: "the lines `cpu`, `ggml` and `tier`".to_owned(),
            });
        };
        let Self { width, cut, threads, copies, made, measured, .. } = self;
        let new = Calibration { cpu, ggml, isa, width, cut, threads, copies, made, measured };
        if done.iter().any(|old| old.is_for_the_same(&new)) {
            let expected = "only one calibration for the same `cpu`, `ggml` and `tier`".to_owned();
            return Err(bad(self.start.0, &self.start.1, expected));
        }
        done.push(new);
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Version {
    One,
    Two,
    Three,
    Four,
}

impl Version {
    /// The words of a measurement.
    const fn words(self) -> &'static str {
        match self {
            Self::One => "`<type> <regime> <our ns> <original's ns>`",
            Self::Two => "`<type> <regime> <ours|stock> <our ns> <original's ns>`",
            Self::Three | Self::Four => "`<type> <regime> <ours|stock> <our ns> <plain ns> <repacked ns|->`",
        }
    }
}

/// Parses the text of a file.
///
/// # Errors
/// The first line that is not understood.
pub fn parse(text: &str) -> Result<TuneFile, BadLine> {
    let mut lines = text.lines().enumerate().map(|(i, line)| (i + 1, line.trim()));
    let (mut last, first) = lines.next().unwrap_or((1, ""));
    let version = match words(first).collect::<Vec<_>>()[..] {
        [MAGIC, "1"] => Version::One,
        [MAGIC, "2"] => Version::Two,
        [MAGIC, "3"] => Version::Three,
        [MAGIC, "4"] => Version::Four,
        _ => return Err(bad(last, first, format!("`{MAGIC} 1`, `{MAGIC} 2`, `{MAGIC} 3` or `{MAGIC} 4`"))),
    };
    let mut calibrations = Vec::new();
    let mut draft = Draft::default();
    for (number, line) in lines {
        last = number;
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        if key == "cpu" && version != Version::One && draft.is_complete() {
            std::mem::take(&mut draft).end(&mut calibrations, number)?;
        }
        if draft.start.0 == 0 {
            draft.start = (number, line.to_owned());
        }
        draft.take(version, key, value, line).map_err(|expected| bad(number, line, expected))?;
    }
    draft.end(&mut calibrations, last + 1)?;
    Ok(TuneFile { calibrations })
}

fn bad(number: usize, line: &str, expected: String) -> BadLine {
    /// Characters of a line that are repeated to the user.
    const SHOWN: usize = 80;
    let found = match line.char_indices().nth(SHOWN) {
        _ if line.is_empty() => "an empty line".to_owned(),
        Some((end, _)) => format!("`{}...`", &line[..end]),
        None => format!("`{line}`"),
    };
    BadLine { number, found, expected }
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split_whitespace()
}

/// `text` with its runs of blanks made one; `None` when there is nothing else.
fn normal(text: &str) -> Option<String> {
    let text = words(text).collect::<Vec<_>>().join(" ");
    (!text.is_empty()).then_some(text)
}

/// Stores a value that must be there and stands once.
fn set<T>(slot: &mut Option<T>, value: Option<T>) -> Result<(), String> {
    if slot.is_some() {
        return Err("this line only once".to_owned());
    }
    match value {
        Some(_) => *slot = value,
        None => return Err(format!("a value, or `{NONE}` when there is none")),
    }
    Ok(())
}

/// The one of `all` that `text` names.
fn named<T: Copy, const N: usize>(
    key: &str,
    text: &str,
    all: [T; N],
    name: impl Fn(T) -> &'static str,
) -> Result<T, String> {
    let text = text.trim();
    let found = all.into_iter().find(|&one| name(one) == text);
    found.ok_or_else(|| format!("`{key}` with one of {}", all.map(name).join(", ")))
}

/// A whole number without a sign, which `parse` alone would accept.
fn whole<T: FromStr>(word: &str) -> Option<T> {
    word.bytes().all(|b| b.is_ascii_digit()).then(|| word.parse().ok()).flatten()
}

/// A number of bytes that a cache may hold.
fn bytes(key: &str, text: &str, least: usize) -> Result<usize, String> {
    whole(text.trim())
        .filter(|n| (least..=Blocking::MOST).contains(n))
        .ok_or_else(|| format!("`{key}` with bytes from {least} to {}", Blocking::MOST))
}

/// A number of threads that ggml can have.
fn threads(text: &str) -> Result<usize, String> {
    /// `GGML_MAX_N_THREADS`.
    const MOST: usize = 512;
    whole(text.trim())
        .filter(|n| (1..=MOST).contains(n))
        .ok_or_else(|| format!("`threads` with a number from 1 to {MOST}"))
}

/// A ratio with up to two decimals, in hundredths.
fn hundredths(text: &str) -> Result<u32, String> {
    /// No copy makes a product a hundred times as fast.
    const MOST: u32 = 9999;
    let text = text.trim();
    let (ones, parts) = text.split_once('.').unwrap_or((text, "0"));
    let tens = if parts.len() == 1 { 10 } else { 1 };
    let value = match (ones.is_empty(), parts.len()) {
        (false, 1 | 2) => whole::<u32>(ones).zip(whole::<u32>(parts)),
        _ => None,
    };
    value
        .and_then(|(ones, parts)| ones.checked_mul(100)?.checked_add(parts * tens))
        .filter(|n| (1..=MOST).contains(n))
        .ok_or_else(|| "`copies` with a ratio from 0.01 to 99.99".to_owned())
}

/// A line of measurements: several in version 1, whose regimes were wider.
fn parse_measured(version: Version, line: &str) -> Result<Vec<Measured>, String> {
    let words: Vec<&str> = words(line).collect();
    let (weight, regime, choice, ours, plain, repacked) = match (version, &words[..]) {
        (Version::One, [weight, regime, ours, plain]) => (*weight, *regime, None, *ours, *plain, NONE),
        (Version::Two, [weight, regime, choice, ours, plain]) => (*weight, *regime, Some(*choice), *ours, *plain, NONE),
        (Version::Three | Version::Four, [weight, regime, choice, ours, plain, repacked]) => {
            (*weight, *regime, Some(*choice), *ours, *plain, *repacked)
        }
        _ => return Err(version.words().to_owned()),
    };
    let weight = WeightType::ALL.into_iter().find(|w| w.ggml_name().eq_ignore_ascii_case(weight));
    let weight =
        weight.ok_or_else(|| format!("one of the types {}", WeightType::ALL.map(WeightType::ggml_name).join(", ")))?;
    let regimes = match version {
        Version::One => {
            let known = FIRST_REGIMES.iter().find(|(name, _)| *name == regime).map(|(_, regimes)| regimes.to_vec());
            known.ok_or_else(|| FIRST_REGIMES.map(|(name, _)| name).join(", "))
        }
        Version::Two | Version::Three | Version::Four => {
            let known = Regime::ALL.into_iter().find(|known| known.name() == regime).map(|regime| vec![regime]);
            known.ok_or_else(|| Regime::ALL.map(Regime::name).join(", "))
        }
    };
    let regimes = regimes.map_err(|names| format!("one of the regimes {names}"))?;
    let (ours, plain) = (parse_ns(ours)?, parse_ns(plain)?);
    let repacked = if repacked == NONE { None } else { Some(parse_ns(repacked)?) };
    let choice = match choice {
        None if u128::from(ours) * 100 > u128::from(plain) * (100 + MARGIN_PERCENT) => Choice::Stock,
        None => Choice::Ours,
        Some(word) => {
            let known = Choice::ALL.into_iter().find(|choice| choice.name() == word);
            known.ok_or_else(|| format!("one of the choices {}", Choice::ALL.map(Choice::name).join(", ")))?
        }
    };
    Ok(regimes.into_iter().map(|regime| Measured { weight, regime, choice, ours, plain, repacked }).collect())
}

fn parse_ns(word: &str) -> Result<u64, String> {
    whole(word).filter(|&ns| ns > 0).ok_or_else(|| format!("times in whole nanoseconds, from 1 to {}", u64::MAX))
}

fn add(list: &mut Vec<Measured>, new: Measured) -> Result<(), String> {
    if list.iter().any(|old| old.weight == new.weight && old.regime == new.regime) {
        return Err(format!("only one line for {} {}", new.weight.ggml_name(), new.regime.name()));
    }
    list.push(new);
    Ok(())
}

#[cfg(test)]
mod tests;
