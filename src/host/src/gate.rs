//! The gate: may the shim do its work on this CPU?

use crate::cpu::{Cpu, NotZen5};
use crate::masked::Masked;

/// Exit status of a refused process: EX_CONFIG of `sysexits.h`.
pub const EXIT_REFUSED: i32 = 78;

/// What the shim may do. Only [`GateMode::Strict`] depends on the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateMode {
    /// Run on a Zen 5; elsewhere end the process with [`EXIT_REFUSED`] before any inference.
    Strict,
    /// Forward every call to the original, on every CPU.
    Passthrough,
    /// Run on every CPU, with the best kernels it has.
    Off,
}

impl GateMode {
    /// The value of `ZEN5TURBO_GATE` that selects this mode.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Passthrough => "passthrough",
            Self::Off => "off",
        }
    }
}

/// The answer of the gate, with the one line to tell the user (no prefix, no newline).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GateDecision {
    /// Go on; there is nothing to say.
    Run,
    /// Forward everything.
    Passthrough {
        /// Why.
        line: String,
    },
    /// End the process with [`EXIT_REFUSED`].
    Refuse {
        /// What was found, what was expected and the override.
        line: String,
    },
}

impl GateDecision {
    /// The name in statistics: `run`, `passthrough` or `refuse`.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Passthrough { .. } => "passthrough",
            Self::Refuse { .. } => "refuse",
        }
    }
}

/// Decides from the CPU and the mode alone.
#[must_use]
pub fn gate(cpu: &Cpu, mode: GateMode) -> GateDecision {
    match (mode, problem(cpu)) {
        (GateMode::Off, _) | (GateMode::Strict, None) => GateDecision::Run,
        (GateMode::Passthrough, None) => GateDecision::Passthrough {
            line: "everything is left to the original ggml because of ZEN5TURBO_GATE=passthrough".to_owned(),
        },
        (GateMode::Passthrough, Some(problem)) => GateDecision::Passthrough {
            line: format!("{problem}; everything is left to the original ggml (ZEN5TURBO_GATE=passthrough)"),
        },
        (GateMode::Strict, Some(problem)) => GateDecision::Refuse {
            line: format!(
                "{problem}; exiting with status {EXIT_REFUSED}. \
                 Set ZEN5TURBO_GATE=off to run with the best kernels for this CPU, \
                 or ZEN5TURBO=0 to run without zen5turbo"
            ),
        },
    }
}

/// Why this CPU is not a Zen 5 whose AVX-512 can be used, in one sentence.
fn problem(cpu: &Cpu) -> Option<String> {
    let why = cpu.check_zen5().err()?;
    let found = cpu.describe();
    Some(match why {
        NotZen5::OtherCpu => {
            let masked = match cpu.masked() {
                Some(Masked::LikeZen5(what)) => {
                    format!(", though it has {}: a virtual machine hides the family of its host", what.join(", "))
                }
                _ => String::new(),
            };
            format!(
                "this CPU is {found}, not an AMD Zen 5 \
                 (AuthenticAMD, family 1Ah, model 00h-2Fh, 40h-4Fh or 60h-7Fh){masked}"
            )
        }
        NotZen5::FeaturesHidden(missing) => format!(
            "this CPU is {found}, a Zen 5 whose {} is hidden by the hypervisor or the firmware",
            missing.join(", ")
        ),
        NotZen5::StateDisabled => format!(
            "this CPU is {found}, a Zen 5 whose AVX-512 registers the operating system has not \
             enabled (XCR0 is {:#x}, bits 1, 2, 5, 6 and 7 are needed)",
            cpu.xcr0
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::{Features, XCR0_AVX, tests::zen5};

    fn milan() -> Cpu {
        Cpu { brand: "AMD EPYC 7763 64-Core Processor".into(), family: 0x19, model: 0x01, ..zen5() }
    }

    #[test]
    fn zen5_runs_unless_passthrough_was_asked_for() {
        for mode in [GateMode::Strict, GateMode::Off] {
            assert_eq!(gate(&zen5(), mode), GateDecision::Run);
        }
        let GateDecision::Passthrough { line } = gate(&zen5(), GateMode::Passthrough) else {
            panic!("not passed through")
        };
        assert!(line.contains("because of ZEN5TURBO_GATE=passthrough") && !line.contains("CPU"), "{line}");
    }

    #[test]
    fn strict_names_the_cpu_what_was_expected_and_the_override() {
        let GateDecision::Refuse { line } = gate(&milan(), GateMode::Strict) else { panic!("not refused") };
        for part in [
            "AMD EPYC 7763 64-Core Processor",
            "family 19h, model 01h",
            "AMD Zen 5",
            "family 1Ah",
            "ZEN5TURBO_GATE=off",
            "78",
        ] {
            assert!(line.contains(part), "{part:?} is not in {line:?}");
        }
        assert!(!line.contains('\n'));
    }

    #[test]
    fn the_other_modes_let_the_program_run() {
        assert_eq!(gate(&milan(), GateMode::Off), GateDecision::Run);
        let GateDecision::Passthrough { line } = gate(&milan(), GateMode::Passthrough) else {
            panic!("not passed through")
        };
        assert!(line.contains("AMD EPYC 7763"), "{line}");
    }

    #[test]
    fn a_zen5_under_another_family_is_refused_with_what_gives_it_away() {
        let GateDecision::Refuse { line } = gate(&milan(), GateMode::Strict) else { panic!("not refused") };
        assert!(
            line.contains("though it has avx512_vp2intersect, avx_vnni") && line.contains("virtual machine"),
            "{line}"
        );
        let features = Features { avx512vp2intersect: false, avx_vnni: false, ..milan().claimed };
        let real = Cpu { claimed: features, l1d_kib: 32, ..milan() };
        let GateDecision::Refuse { line } = gate(&real, GateMode::Strict) else { panic!("not refused") };
        assert!(!line.contains("though"), "{line}");
    }

    #[test]
    fn a_zen5_without_avx512_is_refused_with_the_cause() {
        let mut hidden = zen5();
        hidden.claimed.avx512vl = false;
        let GateDecision::Refuse { line } = gate(&hidden, GateMode::Strict) else { panic!("not refused") };
        assert!(line.contains("avx512vl") && line.contains("hypervisor"), "{line}");
        let disabled = Cpu { xcr0: XCR0_AVX, ..zen5() };
        let GateDecision::Refuse { line } = gate(&disabled, GateMode::Strict) else { panic!("not refused") };
        assert!(line.contains("XCR0 is 0x6"), "{line}");
    }
}
