//! Whether a calibration is for this machine, and which of several is.

use std::fmt;

use zen5turbo_kernels::isa::Isa;

use crate::format::NONE;
use crate::{Calibration, TuneFile, Width};

/// What a calibration must fit.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'a> {
    /// The CPU's brand string, runs of blanks made one; empty when it has none.
    pub cpu: &'a str,
    /// The build of ggml: [`zen5turbo_ggml::build::identity`].
    pub ggml: &'a str,
    /// The tier in use.
    pub isa: Isa,
}

/// In what a calibration does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Differs {
    /// Made on another CPU.
    Cpu,
    /// Made for another tier of kernels.
    Tier,
    /// Made with another build of ggml.
    Ggml,
}

/// Why a calibration is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// What differs.
    pub differs: Differs,
    /// What the file was made for.
    file: String,
    /// What is in use here.
    here: String,
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.differs {
            Differs::Cpu => "CPU",
            Differs::Tier => "tier",
            Differs::Ggml => "ggml",
        };
        write!(f, "it was made for the {what} `{}`, in use is `{}`", self.file, self.here)
    }
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { NONE } else { text }
}

/// Whether `build`, all of what [`zen5turbo_ggml::build::identity`] tells or its first words, stands for `identity`. So a
/// file made by hand may say `0.26.0` and mean every build of that version.
#[must_use]
pub fn fits_build(build: &str, identity: &str) -> bool {
    let mut words = or_none(identity).split_whitespace();
    build.split_whitespace().all(|word| words.next() == Some(word))
}

impl Calibration {
    /// The first thing in which this calibration was made for another machine than `here`.
    #[must_use]
    pub fn misfit(&self, here: &Machine<'_>) -> Option<Misfit> {
        let misfit = |differs, file: &str, here: &str| {
            Some(Misfit { differs, file: file.to_owned(), here: or_none(here).to_owned() })
        };
        if self.cpu != or_none(here.cpu) {
            misfit(Differs::Cpu, &self.cpu, here.cpu)
        } else if self.isa != here.isa {
            misfit(Differs::Tier, self.isa.name(), here.isa.name())
        } else if !fits_build(&self.ggml, here.ggml) {
            misfit(Differs::Ggml, &self.ggml, here.ggml)
        } else {
            None
        }
    }

    /// Whether both were made for the same CPU, ggml and tier.
    pub(crate) fn is_for_the_same(&self, other: &Self) -> bool {
        (&self.cpu, &self.ggml, self.isa) == (&other.cpu, &other.ggml, other.isa)
    }
}

impl TuneFile {
    /// The calibration for `here`: of several the one that names the build of ggml most exactly, of those
    /// the last.
    ///
    /// # Errors
    /// None fits: why the nearest one does not.
    pub fn fitting(&self, here: &Machine<'_>) -> Result<&Calibration, Misfit> {
        let fits = self.calibrations.iter().filter(|c| c.misfit(here).is_none());
        if let Some(best) = fits.max_by_key(|c| c.ggml.split_whitespace().count()) {
            return Ok(best);
        }
        let misfits = self.calibrations.iter().filter_map(|c| c.misfit(here));
        Err(misfits.max_by_key(|misfit| misfit.differs as u8).unwrap_or(Misfit {
            differs: Differs::Cpu,
            file: NONE.to_owned(),
            here: or_none(here.cpu).to_owned(),
        }))
    }

    /// The width of registers that was measured last to be the faster one on this CPU.
    #[must_use]
    pub fn width(&self, cpu: &str) -> Option<Width> {
        self.latest(cpu, |c| c.width)
    }

    /// What copies of weights on huge pages gained on this CPU when that was measured last, in hundredths: see
    /// [`Calibration::copies`]. Memory gives it, so that neither ggml nor the tier matters.
    #[must_use]
    pub fn copies(&self, cpu: &str) -> Option<u32> {
        self.latest(cpu, |c| c.copies)
    }

    /// How many threads a graph of one column needs on this CPU, where that was measured last to be fewer than all.
    #[must_use]
    pub fn threads(&self, cpu: &str) -> Option<usize> {
        self.latest(cpu, |c| c.threads)
    }

    /// What the last one of this CPU's calibrations says that says something.
    fn latest<T>(&self, cpu: &str, of: impl Fn(&Calibration) -> Option<T>) -> Option<T> {
        self.calibrations.iter().rev().filter(|c| c.cpu == or_none(cpu)).find_map(of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;

    const HERE: Machine<'_> = Machine { cpu: "AMD EPYC 7003", ggml: "0.9.4 abc avx2,fma", isa: Isa::Avx2 };

    fn one(cpu: &str, ggml: &str) -> Calibration {
        let text = format!("zen5turbo-tune 2\ncpu {cpu}\nggml {ggml}\ntier avx2\n");
        parse(&text).unwrap().calibrations.remove(0)
    }

    #[test]
    fn a_calibration_fits_the_same_cpu_tier_and_ggml_only() {
        let calibration = one("AMD EPYC 7003", "0.9.4 abc avx2,fma");
        assert_eq!(calibration.misfit(&HERE), None);
        let differs = |here: &Machine<'_>| calibration.misfit(here).map(|misfit| misfit.differs);
        for cpu in ["AMD EPYC 7003 ", "AMD EPYC 70030", "amd epyc 7003", "", "-"] {
            assert_eq!(differs(&Machine { cpu, ..HERE }), Some(Differs::Cpu), "{cpu}");
        }
        for ggml in ["0.9.5 abc avx2,fma", "0.9.4", "0.9.4 abc", "0.9.4 abd avx2,fma", "0.9.4 abc avx2", "", "-"] {
            assert_eq!(differs(&Machine { ggml, ..HERE }), Some(Differs::Ggml), "{ggml}");
        }
        for isa in [Isa::Scalar, Isa::Vnni256, Isa::Avx512] {
            assert_eq!(differs(&Machine { isa, ..HERE }), Some(Differs::Tier));
        }
        let text = calibration.misfit(&Machine { ggml: "", ..HERE }).unwrap().to_string();
        assert_eq!(text, "it was made for the ggml `0.9.4 abc avx2,fma`, in use is `-`");
    }

    #[test]
    fn words_at_the_end_of_a_build_may_be_left_out() {
        for (build, fits) in [("0.9.4", true), ("0.9.4 abc", true), ("0.9", false), ("abc", false), ("-", false)] {
            assert_eq!(one("AMD EPYC 7003", build).misfit(&HERE).is_none(), fits, "{build}");
        }
    }

    #[test]
    fn a_dash_fits_what_has_no_name() {
        let calibration = one("-", "-");
        let here = Machine { cpu: "", ggml: "", ..HERE };
        assert_eq!(calibration.misfit(&here), None);
        let differs = |here: &Machine<'_>| calibration.misfit(here).map(|misfit| misfit.differs);
        assert_eq!(differs(&Machine { ggml: "0.9.4", ..here }), Some(Differs::Ggml));
        assert_eq!(differs(&Machine { cpu: "A", ..here }), Some(Differs::Cpu));
    }

    #[test]
    fn the_most_exact_calibration_is_used_and_the_nearest_miss_is_told() {
        let cpu = "AMD EPYC 7003";
        let file = |list: &[Calibration]| TuneFile { calibrations: list.to_vec() };
        let all = file(&[one("B", "0.9.4"), one(cpu, "0.9.4 abc avx2,fma"), one(cpu, "0.9.4"), one(cpu, "1")]);
        assert_eq!(all.fitting(&HERE).unwrap().ggml, "0.9.4 abc avx2,fma");
        let differs = |list: &[Calibration]| file(list).fitting(&HERE).unwrap_err().differs;
        assert_eq!(differs(&[one("B", "0.9.4"), one(cpu, "1"), one("C", "1")]), Differs::Ggml);
        assert_eq!(differs(&[one("B", "0.9.4")]), Differs::Cpu);
        assert_eq!(differs(&[]), Differs::Cpu);
    }

    #[test]
    fn the_width_is_the_cpus_and_the_last_one_measured() {
        let with = |cpu: &str, ggml: &str, width| Calibration { width, ..one(cpu, ggml) };
        let file = TuneFile {
            calibrations: vec![
                with("A", "1", Some(Width::Wide)),
                with("A", "2", Some(Width::Narrow)),
                with("A", "3", None),
                with("B", "1", Some(Width::Wide)),
            ],
        };
        assert_eq!(file.width("A"), Some(Width::Narrow));
        assert_eq!(file.width("C"), None);
    }

    #[test]
    fn the_gain_of_copies_is_the_cpus_and_the_last_one_measured() {
        let with = |cpu: &str, ggml: &str, copies| Calibration { copies, ..one(cpu, ggml) };
        let calibrations = vec![with("A", "1", Some(99)), with("A", "2", Some(107)), with("A", "3", None)];
        let file = TuneFile { calibrations };
        assert_eq!((file.copies("A"), file.copies("B"), file.copies("")), (Some(107), None, None));
    }
}
