//! The calibration file: what was measured on one machine.
//!
//! ```text
//! zen5turbo-tune 1
//! # made by ... on ...
//! cpu AMD EPYC 9755 128-Core Processor
//! ggml 0.9.4
//! tier avx512vnni
//! q4_K 1 103500 121000
//! q4_K many 8123000 14010000
//! ```
//! The first line is the format and its version. `cpu` is the CPU's brand string, `ggml` what
//! `ggml_version()` returns, `tier` the name of an [`Isa`]; each stands once, before the first
//! measurement; `-` stands for a brand or version that there is none of. A measurement is
//! `<type> <regime> <our ns> <original's ns>`: the name of a type in ggml, in any case, `1`, `2-16`
//! or `many` columns, and the times in whole nanoseconds of the same product computed by this library
//! and by the original. Runs of blanks count as one; empty lines and lines that begin with `#` are
//! skipped. Of a file with a line that is none of these, nothing is used.

use std::fmt;
use std::io::{self, Read};
use std::path::Path;

use zen5turbo_kernels::isa::Isa;

use super::defaults::TABLE;
use super::{Choice, Regime};
use crate::reason::Reason;

/// What the first line says.
const HEADER: &str = "zen5turbo-tune 1";

/// Stands for a brand or version that there is none of.
const NONE: &str = "-";

/// No calibration comes near this size: 16 types in 3 regimes are 2 KB.
const MAX_BYTES: u64 = 64 << 10;

/// The original must be faster by more than this to be left alone, in percent: smaller differences
/// are within the noise of a measurement, and switching has a cost of its own (activations are then
/// quantised twice).
const MARGIN_PERCENT: u128 = 2;

/// A calibration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calibration {
    /// The CPU's brand string.
    pub cpu: String,
    /// ggml's version.
    pub ggml: String,
    /// The tier of our kernels.
    pub tier: Isa,
    /// At most one for each type and regime.
    pub measured: Vec<Measured>,
}

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// The name of a weight type in [`TABLE`].
    pub weight: &'static str,
    /// The number of columns.
    pub regime: Regime,
    /// Our time in nanoseconds, at least 1.
    pub ours: u64,
    /// The original's time in nanoseconds, at least 1.
    pub stock: u64,
}

impl Measured {
    /// Ours, unless the original is faster by more than [`MARGIN_PERCENT`].
    pub fn choice(&self) -> Choice {
        if u128::from(self.ours) * 100 > u128::from(self.stock) * (100 + MARGIN_PERCENT) {
            Choice::Stock
        } else {
            Choice::Ours
        }
    }
}

/// What a calibration must fit.
#[derive(Clone, Copy)]
pub struct Machine<'a> {
    /// The CPU's brand string, runs of blanks made one; empty when it has none.
    pub cpu: &'a str,
    /// ggml's version; empty when it has none.
    pub ggml: &'a str,
    /// The tier in use.
    pub tier: Isa,
}

/// Why a calibration is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    pub reason: Reason,
    /// What differs, what the file was made for, and what is in use here.
    what: &'static str,
    file: String,
    here: String,
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it was made for the {} `{}`, in use is `{}`", self.what, self.file, self.here)
    }
}

impl Calibration {
    /// The first thing in which this calibration was made for another machine than `here`.
    pub fn misfit(&self, here: &Machine<'_>) -> Option<Misfit> {
        let or_none = |text| if str::is_empty(text) { NONE } else { text };
        [
            (Reason::TuneOtherCpu, "CPU", self.cpu.as_str(), or_none(here.cpu)),
            (Reason::TuneOtherTier, "tier", self.tier.name(), here.tier.name()),
            (Reason::TuneOtherGgml, "ggml", self.ggml.as_str(), or_none(here.ggml)),
        ]
        .into_iter()
        .find(|(_, _, file, here)| file != here)
        .map(|(reason, what, file, here)| Misfit {
            reason,
            what,
            file: file.to_owned(),
            here: here.to_owned(),
        })
    }
}

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
/// no line that has them is understood, except comments.
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

/// Parses the text of a calibration file.
pub fn parse(text: &str) -> Result<Calibration, BadLine> {
    let mut lines = text.lines().enumerate().map(|(i, line)| (i + 1, line.trim()));
    let (number, first) = lines.next().unwrap_or((1, ""));
    if !words(first).eq(words(HEADER)) {
        return Err(bad(number, first, format!("`{HEADER}`")));
    }
    let (mut cpu, mut ggml, mut tier) = (None, None, None);
    let mut measured: Vec<Measured> = Vec::new();
    let mut last = number;
    for (number, line) in lines {
        last = number;
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let result = match key {
            "cpu" => set(&mut cpu, normal(value)),
            "ggml" => set(&mut ggml, normal(value)),
            "tier" => parse_tier(value.trim()).and_then(|value| set(&mut tier, Some(value))),
            _ if cpu.is_none() || ggml.is_none() || tier.is_none() => {
                Err("the lines `cpu`, `ggml` and `tier` before the first measurement".to_owned())
            }
            _ => parse_measured(line).and_then(|new| add(&mut measured, new)),
        };
        result.map_err(|expected| bad(number, line, expected))?;
    }
    let (Some(cpu), Some(ggml), Some(tier)) = (cpu, ggml, tier) else {
        return Err(BadLine {
            number: last + 1,
            found: "the end of the file".to_owned(),
            expected: "the lines `cpu`, `ggml` and `tier`".to_owned(),
        });
    };
    Ok(Calibration { cpu, ggml, tier, measured })
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

/// Stores a value that must be there and stands once. Errors say what was expected, as all below.
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

fn parse_tier(name: &str) -> Result<Isa, String> {
    Isa::ALL
        .into_iter()
        .find(|isa| isa.name() == name)
        .ok_or_else(|| format!("`tier` with one of {}", Isa::ALL.map(Isa::name).join(", ")))
}

fn parse_measured(line: &str) -> Result<Measured, String> {
    let words: Vec<&str> = words(line).collect();
    let [weight, regime, ours, stock] = words[..] else {
        return Err("`<type> <regime> <our ns> <original's ns>`".to_owned());
    };
    let weight =
        TABLE.iter().map(|row| row.weight).find(|name| name.eq_ignore_ascii_case(weight)).ok_or_else(|| {
            let names: Vec<_> = TABLE.iter().map(|row| row.weight).collect();
            format!("one of the types {}", names.join(", "))
        })?;
    let regime = Regime::ALL
        .into_iter()
        .find(|known| known.name() == regime)
        .ok_or_else(|| format!("one of the regimes {}", Regime::ALL.map(Regime::name).join(", ")))?;
    Ok(Measured { weight, regime, ours: parse_ns(ours)?, stock: parse_ns(stock)? })
}

fn parse_ns(word: &str) -> Result<u64, String> {
    // `parse` alone would accept a sign.
    let digits = word.bytes().all(|b| b.is_ascii_digit());
    word.parse()
        .ok()
        .filter(|&ns| digits && ns > 0)
        .ok_or_else(|| format!("times in whole nanoseconds, from 1 to {}", u64::MAX))
}

fn add(list: &mut Vec<Measured>, new: Measured) -> Result<(), String> {
    if list.iter().any(|old| old.weight == new.weight && old.regime == new.regime) {
        return Err(format!("only one line for {} {}", new.weight, new.regime.name()));
    }
    list.push(new);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "zen5turbo-tune 1\ncpu AMD  EPYC 7003\nggml 0.9.4\ntier avx2\n";

    fn good(lines: &str) -> Calibration {
        parse(&format!("{HEAD}{lines}")).unwrap()
    }

    #[test]
    fn a_complete_file_is_understood() {
        let parsed = good("\n# made by hand\nq4_K 1 103 121\n  Q8_0\t2-16   7 8 \nf16 many 1 2");
        assert_eq!(parsed.cpu, "AMD EPYC 7003");
        assert_eq!(parsed.ggml, "0.9.4");
        assert_eq!(parsed.tier, Isa::Avx2);
        assert_eq!(
            parsed.measured,
            [
                Measured { weight: "q4_K", regime: Regime::One, ours: 103, stock: 121 },
                Measured { weight: "q8_0", regime: Regime::Few, ours: 7, stock: 8 },
                Measured { weight: "f16", regime: Regime::Many, ours: 1, stock: 2 },
            ]
        );
        assert!(good("").measured.is_empty());
    }

    #[test]
    fn line_ends_of_windows_change_nothing() {
        let text = format!("{HEAD}# note\nq4_K 1 103 121\n");
        assert_eq!(parse(&text.replace('\n', "\r\n")), parse(&text));
    }

    #[test]
    fn every_type_tier_and_regime_can_be_written() {
        let mut text = String::new();
        for row in TABLE {
            for regime in Regime::ALL {
                text += &format!("{} {} 1 2\n", row.weight, regime.name());
            }
        }
        assert_eq!(good(&text).measured.len(), TABLE.len() * Regime::ALL.len());
        for isa in Isa::ALL {
            let parsed = parse(&format!("zen5turbo-tune 1\ntier {}\nggml -\ncpu -\n", isa.name())).unwrap();
            assert_eq!(parsed.tier, isa);
        }
    }

    /// The message for a file whose text is `text`.
    fn complaint(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn a_first_line_of_another_kind_is_named() {
        assert_eq!(complaint(""), "line 1: found an empty line, expected `zen5turbo-tune 1`");
        for first in ["zen5turbo-tune 2", "zen5turbo-tune", "zen5turbo-tune 10", "# zen5turbo-tune 1", "{}"] {
            let expected = format!("line 1: found `{first}`, expected `zen5turbo-tune 1`");
            assert_eq!(complaint(&format!("{first}\ncpu A\n")), expected);
        }
    }

    #[test]
    fn a_bad_line_is_named_with_what_was_expected() {
        const WORDS: &str = "`<type> <regime> <our ns> <original's ns>`";
        for (line, expected) in [
            ("q4_K 1 103", WORDS),
            ("q4_K 1 103 121 # note", WORDS),
            ("q4_K", WORDS),
            ("q9_K 1 103 121", "one of the types q4_0, q4_1,"),
            ("q4_K 3 103 121", "one of the regimes 1, 2-16, many"),
            ("q4_K 1 0 121", "times in whole nanoseconds, from 1 to 18446744073709551615"),
            ("q4_K 1 103 1e3", "times in whole nanoseconds"),
            ("q4_K 1 103 1.5", "times in whole nanoseconds"),
            ("q4_K 1 -103 121", "times in whole nanoseconds"),
            ("q4_K 1 +103 121", "times in whole nanoseconds"),
            ("q4_K 1 103 18446744073709551616", "times in whole nanoseconds"),
            ("q4_K 1 103 \u{fffd}", "times in whole nanoseconds"),
            ("Q8_0 many 5 6", "only one line for q8_0 many"),
            ("cpu B", "this line only once"),
            ("ggml 1", "this line only once"),
            ("tier avx2", "this line only once"),
        ] {
            let message = complaint(&format!("{HEAD}# first\nq8_0 many 1 2\n{line}\nq5_0 1 1 1\n"));
            let start = format!("line 7: found `{line}`, expected {expected}");
            assert!(message.starts_with(&start), "{message}");
        }
    }

    #[test]
    fn the_machine_stands_before_the_measurements_and_is_complete() {
        let before = "the lines `cpu`, `ggml` and `tier`";
        let message = complaint("zen5turbo-tune 1\ncpu A\nggml 1\nq4_0 1 1 1\ntier avx2\n");
        assert_eq!(message, format!("line 4: found `q4_0 1 1 1`, expected {before} before the first measurement"));
        for text in ["zen5turbo-tune 1", "zen5turbo-tune 1\n"] {
            assert_eq!(complaint(text), format!("line 2: found the end of the file, expected {before}"));
        }
        assert!(complaint("zen5turbo-tune 1\ncpu A\ntier avx2\n\n").starts_with("line 5: found the end"));
        for line in ["cpu", "ggml  "] {
            let message = complaint(&format!("zen5turbo-tune 1\n{line}\n"));
            assert!(message.ends_with("expected a value, or `-` when there is none"), "{message}");
        }
        let message = complaint("zen5turbo-tune 1\ntier avx\n");
        let tiers = "scalar, avx2, avx512vnni-256, avx512vnni";
        assert_eq!(message, format!("line 2: found `tier avx`, expected `tier` with one of {tiers}"));
    }

    #[test]
    fn a_long_line_is_not_repeated_whole() {
        let message = complaint(&format!("{HEAD}{}\n", "é".repeat(5000)));
        assert!(message.starts_with("line 5: found `ééé") && message.len() < 300, "{message}");
    }

    #[test]
    fn any_text_is_answered_without_a_panic() {
        let text = format!("{HEAD}q4_K 1 103 121\nq8_0 many 1 2\n");
        for end in 0..text.len() {
            let _ = parse(&text[..end]);
            for garbage in ["\0", "\r", "\u{2028}", " ", "#", "18446744073709551616"] {
                let _ = parse(&format!("{}{garbage}{}", &text[..end], &text[end..]));
            }
        }
    }

    #[test]
    fn the_original_must_be_faster_by_more_than_two_percent() {
        let choice = |ours, stock| Measured { weight: "q4_0", regime: Regime::One, ours, stock }.choice();
        assert_eq!(choice(100, 100), Choice::Ours);
        assert_eq!(choice(1, 1_000_000), Choice::Ours);
        assert_eq!(choice(1020, 1000), Choice::Ours);
        assert_eq!(choice(1021, 1000), Choice::Stock);
        assert_eq!(choice(u64::MAX, u64::MAX), Choice::Ours);
        assert_eq!(choice(u64::MAX, u64::MAX / 2), Choice::Stock);
        assert_eq!(choice(1, u64::MAX), Choice::Ours);
    }

    #[test]
    fn a_calibration_fits_the_same_cpu_tier_and_ggml_only() {
        let here = Machine { cpu: "AMD EPYC 7003", ggml: "0.9.4", tier: Isa::Avx2 };
        let calibration = good("");
        assert_eq!(calibration.misfit(&here), None);
        let reason = |here: &Machine<'_>| calibration.misfit(here).map(|misfit| misfit.reason);
        for cpu in ["AMD EPYC 7003 ", "AMD EPYC 70030", "amd epyc 7003", "", "-"] {
            assert_eq!(reason(&Machine { cpu, ..here }), Some(Reason::TuneOtherCpu), "{cpu}");
        }
        for ggml in ["0.9.5", "0.9.40", "", "-"] {
            assert_eq!(reason(&Machine { ggml, ..here }), Some(Reason::TuneOtherGgml), "{ggml}");
        }
        for tier in [Isa::Scalar, Isa::Vnni256, Isa::Avx512] {
            assert_eq!(reason(&Machine { tier, ..here }), Some(Reason::TuneOtherTier));
        }
        let text = calibration.misfit(&Machine { ggml: "", ..here }).unwrap().to_string();
        assert_eq!(text, "it was made for the ggml `0.9.4`, in use is `-`");
    }

    #[test]
    fn a_dash_fits_what_has_no_name() {
        let calibration = parse("zen5turbo-tune 1\ncpu -\nggml -\ntier scalar\n").unwrap();
        let here = Machine { cpu: "", ggml: "", tier: Isa::Scalar };
        assert_eq!(calibration.misfit(&here), None);
        let reason = |here: &Machine<'_>| calibration.misfit(here).map(|misfit| misfit.reason);
        assert_eq!(reason(&Machine { ggml: "0.9.4", ..here }), Some(Reason::TuneOtherGgml));
        assert_eq!(reason(&Machine { cpu: "A", ..here }), Some(Reason::TuneOtherCpu));
    }

    #[test]
    fn a_file_of_absurd_size_is_not_read() {
        let path = std::env::temp_dir().join(format!("zen5turbo-large-{}", std::process::id()));
        std::fs::write(&path, vec![b'#'; MAX_BYTES as usize]).unwrap();
        let fits = read(&path);
        std::fs::write(&path, vec![b'#'; MAX_BYTES as usize + 1]).unwrap();
        let large = read(&path);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(fits.unwrap().len() as u64, MAX_BYTES);
        assert!(large.unwrap_err().to_string().contains("larger than 64 KiB"));
    }
}
