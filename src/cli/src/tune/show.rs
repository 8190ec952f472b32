//! Calibrations and findings as text.

use zen5turbo_calibration::{Calibration, Choice, Machine, Regime, TuneFile, fits_build};
use zen5turbo_kernels::formats::WeightType;
use zen5turbo_kernels::isa::Isa;

use super::measure::Finding;
use crate::text;

/// Ours as a multiple of the program's own speed, with who was chosen where it is not ours.
fn speed(speed: f64, choice: Option<Choice>) -> String {
    match choice {
        Some(Choice::Ours) => format!("{speed:.2}"),
        Some(Choice::Stock) => format!("{speed:.2} stock"),
        None => format!("({speed:.2})"),
    }
}

/// One finding.
pub fn cell(finding: &Finding) -> String {
    speed(finding.speed(), finding.choice)
}

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

/// So many threads at most.
pub fn threads(n: usize) -> String {
    format!("at most {n} thread{}", if n == 1 { "" } else { "s" })
}

/// How to read the tables.
pub const LEGEND: &str = "Our speed over the program's own, by type and number of columns; stock: clearly slower, left to the program; \
                          in brackets: no clear difference, the built-in table holds.";

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
        ("panels", bytes(calibration.panel)),
        ("prefetch", bytes(calibration.prefetch)),
        (
            "threads",
            calibration.threads.map_or("as many as there are".to_owned(), |n| format!("{} for one column", threads(n))),
        ),
        ("made", or_none(calibration.made.as_deref())),
        ("fits", fits),
    ];
    let find = |weight, regime| calibration.measured.iter().find(|m| m.weight == weight && m.regime == regime);
    let cell = |weight, regime| find(weight, regime).map(|m| speed(m.stock as f64 / m.ours as f64, Some(m.choice)));
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

    const TEXT: &str = "zen5turbo-tune 2\ncpu A\nggml 1 x avx2\ntier avx2\nq4_K 1 ours 100 150\nq4_K many stock 200 100\n\
                        cpu B\nggml 1\ntier avx2\nwidth 256\nthreads 24\nmade today\n";

    fn show(here: &Here<'_>) -> (String, bool) {
        file(&zen5turbo_calibration::parse(TEXT).unwrap(), here)
    }

    #[test]
    fn a_file_is_shown_with_what_it_fits() {
        let (text, fits) = show(&Here { cpu: "A", isa: Isa::Avx2, ggml: Some("1 x avx2") });
        assert!(fits);
        for part in [
            "1.50",
            "0.50 stock",
            "yes, this CPU and kernel tier, and this build",
            "made for the CPU `B`",
            "256 bits",
            "threads      as many as there are",
            "threads      at most 24 threads for one column",
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
}
