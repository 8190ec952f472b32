//! Calibrations and findings as text.

use zen5turbo_calibration::{COPIES_PAY, Calibration, Choice, Machine, Measured, Regime, TuneFile, fits_build};
use zen5turbo_kernels::formats::WeightType;
use zen5turbo_kernels::isa::Isa;

use super::finding::{Faster, Finding, cell, speed};
use super::measure::copies::{self, Copied};
use crate::text;

/// One line of a file, which does not tell what is clear beyond the choice.
fn line(line: &Measured) -> String {
    let faster = match (line.choice, line.repacked) {
        (Choice::Stock, _) => Faster::Plain,
        (Choice::Ours, Some(repacked)) if repacked < line.ours => Faster::Repacked,
        (Choice::Ours, _) => Faster::Ours,
    };
    speed(line.rival() as f64 / line.ours as f64, Some(faster))
}

/// Repacked kernels count when they are faster by more than this: plain weights need no time to repack and no second copy.
const CLEARLY_REPACKED: f64 = 0.05;

/// Where ggml's repacked kernels are faster than both kernels for plain weights: one line, or one for each type with
/// which they are so with every number of columns.
pub fn repacked(findings: &[Finding]) -> Vec<String> {
    let wins = |f: &Finding| f.repacked_wins() && f.speed() < 1.0 - CLEARLY_REPACKED;
    let (mut everywhere, mut some) = (Vec::new(), Vec::new());
    for weight in WeightType::ALL {
        let of_type: Vec<_> = findings.iter().filter(|f| f.weight == weight).collect();
        let won: Vec<_> = of_type.iter().filter(|f| wins(f)).collect();
        let list: Vec<String> = won.iter().map(|f| format!("{} ({:.2})", f.regime.name(), f.speed())).collect();
        if !won.is_empty() && won.len() == of_type.len() {
            everywhere.push(format!(
                "{}: ggml's repacked kernels are faster with every number of columns: {}. For models of this type try {KEEP}.",
                weight.ggml_name(),
                list.join(", ")
            ));
        } else if !won.is_empty() {
            some.push(format!("{} with {}", weight.ggml_name(), list.join(", ")));
        }
    }
    if !some.is_empty() {
        everywhere.push(format!(
            "ggml's repacked kernels are faster for {} columns. They need all weights repacked, and are slower elsewhere; \
             to have them: {KEEP}.",
            some.join("; ")
        ));
    }
    everywhere
}

/// How to leave weights repacked; whether that pays in a whole program is measured with ab.
const KEEP: &str = "ZEN5TURBO_REPACK=keep (zen5turbo ab --arm keep:ZEN5TURBO_REPACK=keep measures it)";

/// A table with a row for each type that has something.
fn table(of: impl Fn(WeightType, Regime) -> Option<String>) -> String {
    let mut table = text::table();
    table.set_header(["columns"].into_iter().chain(Regime::ALL.map(Regime::name)));
    for weight in WeightType::ALL {
        let cells = Regime::ALL.map(|regime| of(weight, regime));
        if cells.iter().any(Option::is_some) {
            table
                .add_row([weight.ggml_name().to_owned()].into_iter().chain(cells.map(|cell| cell.unwrap_or_default())));
        }
    }
    table.to_string()
}

/// What was found.
pub fn findings(findings: &[Finding]) -> String {
    let find = |weight, regime| findings.iter().find(|f| f.weight == weight && f.regime == regime);
    table(|weight, regime| find(weight, regime).map(cell))
}

/// A ratio of a calibration.
pub fn hundredths(n: u32) -> String {
    format!("{}.{:02}", n / 100, n % 100)
}

/// What copies of weights on huge pages gain, and what follows.
pub fn copied(copied: &Result<Copied, String>) -> String {
    let Copied { gains, folder } = match copied {
        Ok(copied) => copied,
        Err(why) => return format!("What copies of weights on huge pages gain was not measured: {why}"),
    };
    let mut table = text::table();
    table.set_header(["threads", "copies on huge pages", "interval"]);
    for copies::Gain { threads, median, low, high } in gains {
        table.add_row([threads.to_string(), format!("{median:.2}"), format!("{low:.2} to {high:.2}")]);
    }
    let follows = match copies::written(gains) {
        Some(n) if n >= COPIES_PAY => "the shim makes copies",
        Some(_) => "the shim makes none on one NUMA node",
        None => "on which side of that it lies is not clear, so no line is written",
    };
    format!(
        "{table}\nThe speed with one column of {} on transparent huge pages, over that in small pages of the page cache of a \
         file in {}. From {:.2} on copies pay: {follows}.",
        copies::TYPES.map(WeightType::ggml_name).join(", "),
        folder.display(),
        copies::PAYS,
    )
}

/// At most `n` threads, in words.
pub fn threads(n: usize) -> String {
    format!("at most {n} thread{}", if n == 1 { "" } else { "s" })
}

/// How to read the tables.
pub const LEGEND: &str = "Our speed over the better of ggml's plain and repacked kernels, by type and number of columns; stock: \
                          its plain one is clearly faster, left to the program; repacked: its repacked one is faster, ours computes \
                          from plain weights; in brackets: no clear difference.";

/// What stands in a file for the layouts that were measured: of one that was written before tune knew repacked kernels, too.
fn rivals(calibration: &Calibration) -> &'static str {
    if calibration.measured.iter().any(|line| line.repacked.is_some()) {
        "ggml's plain and repacked kernels"
    } else {
        "ggml's plain kernels only; to measure its repacked ones as well run zen5turbo tune again"
    }
}

/// What a file is held against.
pub struct Here<'a> {
    pub cpu: &'a str,
    pub isa: Isa,
    /// The build of ggml, if one was named.
    pub ggml: Option<&'a str>,
}

/// All calibrations of a file; whether one of them fits.
pub fn file(file: &TuneFile, here: &Here<'_>) -> (String, bool) {
    let mut out = String::new();
    let mut any = false;
    for calibration in &file.calibrations {
        // Without a build every one is taken for the right one.
        let ggml = here.ggml.unwrap_or(&calibration.ggml);
        let fits = match calibration.misfit(&Machine { cpu: here.cpu, ggml, isa: here.isa }) {
            Some(misfit) => format!("no: {misfit}"),
            None => {
                any = true;
                let build = match here.ggml {
                    Some(ggml) if fits_build(&calibration.ggml, ggml) => "and this build of ggml",
                    _ => "if the program's ggml is this build (name one with --bin or --ggml to compare)",
                };
                format!("yes, this CPU and kernel tier, {build}")
            }
        };
        out += &one(calibration, fits);
    }
    (out, any)
}

fn one(calibration: &Calibration, fits: String) -> String {
    let or_none = |text: Option<&str>| text.unwrap_or("not told").to_owned();
    let bytes = |n: Option<usize>| n.map_or("built-in size".to_owned(), |n| format!("{n} bytes"));
    let facts = [
        ("CPU", calibration.cpu.clone()),
        ("ggml", calibration.ggml.clone()),
        ("kernel tier", calibration.isa.name().to_owned()),
        (
            "registers",
            calibration.width.map_or("as the shim finds at start".to_owned(), |w| format!("{} bits", w.name())),
        ),
        ("panels", bytes(calibration.cut.panel)),
        ("prefetch", bytes(calibration.cut.prefetch)),
        ("ahead", bytes(calibration.cut.ahead)),
        (
            "threads",
            calibration.threads.map_or("as many as there are".to_owned(), |n| format!("{} for one column", threads(n))),
        ),
        (
            "copies",
            calibration.copies.map_or("no gain is known".to_owned(), |n| format!("{} on huge pages", hundredths(n))),
        ),
        ("rivals", rivals(calibration).to_owned()),
        ("made", or_none(calibration.made.as_deref())),
        ("fits", fits),
    ];
    let find = |weight, regime| calibration.measured.iter().find(|m| m.weight == weight && m.regime == regime);
    let cell = |weight, regime| find(weight, regime).map(line);
    let table = if calibration.measured.is_empty() {
        "no choice: the built-in table holds everywhere".to_owned()
    } else {
        table(cell)
    };
    format!("{}{table}\n", text::facts(&facts))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "zen5turbo-tune 4\ncpu A\nggml 1 x avx2\ntier avx2\nq4_K 1 ours 100 190 150\n\
                        q4_K 2 ours 100 190 90\nq4_K many stock 200 100 90\n\
                        cpu B\nggml 1\ntier avx2\nwidth 256\nthreads 24\ncopies 1.03\nmade today\n";

    fn show(here: &Here<'_>) -> (String, bool) {
        file(&zen5turbo_calibration::parse(TEXT).unwrap(), here)
    }

    #[test]
    fn a_file_is_shown_with_what_it_fits() {
        let (text, fits) = show(&Here { cpu: "A", isa: Isa::Avx2, ggml: Some("1 x avx2") });
        assert!(fits);
        for part in [
            "1.50",
            "0.90 repacked",
            "0.45 stock",
            "rivals       ggml's plain and repacked kernels\n",
            "rivals       ggml's plain kernels only",
            "yes, this CPU and kernel tier, and this build",
            "made for the CPU `B`",
            "256 bits",
            "threads      as many as there are",
            "threads      at most 24 threads for one column",
            "copies       no gain is known\n",
            "copies       1.03 on huge pages\n",
            "today",
            "no choice",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        let (text, fits) = show(&Here { cpu: "A", isa: Isa::Avx2, ggml: None });
        assert!(fits && text.contains("if the program's ggml is this build"), "{text}");
    }

    #[test]
    fn a_file_for_others_fits_nothing() {
        for here in [
            Here { cpu: "C", isa: Isa::Avx2, ggml: None },
            Here { cpu: "A", isa: Isa::Avx512, ggml: None },
            Here { cpu: "A", isa: Isa::Avx2, ggml: Some("1 x avx2,fma") },
        ] {
            let (text, fits) = show(&here);
            assert!(!fits && text.contains("it was made for the"), "{text}");
        }
    }

    #[test]
    fn the_gain_of_copies_is_shown_with_its_spread_and_what_follows() {
        let text = |median: f64, spread: f64| {
            let gain = |threads| copies::Gain { threads, median, low: median - spread, high: median + spread };
            copied(&Ok(Copied { gains: vec![gain(1), gain(16)], folder: "/home/u".into() }))
        };
        let clear = text(1.20, 0.02);
        for part in ["1.20", "1.18 to 1.22", " 16 ", "q4_K, q8_0, q6_K", "file in /home/u.", "the shim makes copies."] {
            assert!(clear.contains(part), "{part} in\n{clear}");
        }
        assert!(text(1.01, 0.02).contains("makes none on one NUMA node"));
        assert!(text(1.05, 0.02).contains("no line is written"));
        assert!(
            copied(&Err("/tmp lies in memory (tmpfs)".into())).ends_with("not measured: /tmp lies in memory (tmpfs)")
        );
    }

    fn finding(weight: WeightType, regime: Regime, repacked: f64) -> Finding {
        let faster = |ours: bool| Some(if ours { Choice::Ours } else { Choice::Stock });
        let over_repacked = faster(repacked > 1.0);
        Finding {
            weight,
            regime,
            ours: 1.0,
            plain: 2.0,
            repacked: Some(repacked),
            over_plain: faster(true),
            over_repacked,
        }
    }

    #[test]
    fn repacked_kernels_that_win_are_told_and_nothing_is_changed() {
        let all = |weight, repacked| Regime::ALL.map(|regime| finding(weight, regime, repacked));
        assert!(repacked(&all(WeightType::Q4K, 1.5)).is_empty());
        assert!(repacked(&all(WeightType::Q4K, 0.96)).is_empty(), "not by much");
        let [line] = &repacked(&all(WeightType::Q4K, 0.8))[..] else { panic!("one line") };
        assert!(line.starts_with("q4_K: ") && line.contains("every number of columns: 1 (0.80), 2 (0.80)"), "{line}");
        assert!(line.contains("ZEN5TURBO_REPACK=keep"), "{line}");
        let mut some = all(WeightType::Q4K, 1.5).to_vec();
        some[0] = finding(WeightType::Q4K, Regime::One, 0.9);
        some.push(finding(WeightType::Q4_0, Regime::Two, 1.1));
        let [line] = &repacked(&some)[..] else { panic!("one line") };
        assert!(line.contains("faster for q4_K with 1 (0.90) columns"), "{line}");
        assert_eq!(cell(&some[0]), "0.90 repacked");
        assert_eq!(some[0].measured().map(|line| line.choice), Some(Choice::Ours));
    }
}
