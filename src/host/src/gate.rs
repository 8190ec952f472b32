//! The gate: may the shim do its work on this CPU?

use crate::cpu::{Cpu, NotZen5};

/// Exit status of a refused process: EX_CONFIG of `sysexits.h`.
pub const EXIT_REFUSED: i32 = 78;

/// What to do on a CPU that is not a Zen 5. On a Zen 5 every mode runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GateMode {
    /// End the process with [`EXIT_REFUSED`] before any inference.
    #[default]
    Strict,
    /// Forward every call to the original.
    Passthrough,
    /// Run with the best kernels this CPU has.
    Off,
}

impl GateMode {
    /// The value of `ZEN5TURBO_GATE` that selects this mode.
    #[must_use]
    pub fn as_str(self) -> &'static str {
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
        /// The warning.
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
    let Err(why) = cpu.check_zen5() else {
        return GateDecision::Run;
    };
    let found = cpu.describe();
    let problem = match why {
        NotZen5::OtherCpu => format!(
            "this CPU is {found}, not an AMD Zen 5 \
             (AuthenticAMD, family 1Ah, model 00h-2Fh, 40h-4Fh or 60h-7Fh)"
        ),
        NotZen5::FeaturesHidden(missing) => format!(
            "this CPU is {found}, a Zen 5 whose {} is hidden by the hypervisor or the firmware",
            missing.join(", ")
        ),
        NotZen5::StateDisabled => format!(
            "this CPU is {found}, a Zen 5 whose AVX-512 registers the operating system has not \
             enabled (XCR0 is {:#x}, bits 1, 2, 5, 6 and 7 are needed)",
            cpu.xcr0
        ),
    };
    match mode {
        GateMode::Off => GateDecision::Run,
        GateMode::Passthrough => GateDecision::Passthrough {
            line: format!("{problem}; everything is left to the original ggml (ZEN5TURBO_GATE=passthrough)"),
        },
        GateMode::Strict => GateDecision::Refuse {
            line: format!(
                "{problem}; exiting with status {EXIT_REFUSED}. \
                 Set ZEN5TURBO_GATE=off to run with the best kernels for this CPU, \
                 or ZEN5TURBO=0 to run without zen5turbo"
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::{XCR0_AVX, tests::zen5};

    fn milan() -> Cpu {
        Cpu { brand: "AMD EPYC 7763 64-Core Processor".into(), family: 0x19, model: 0x01, ..zen5() }
    }

    #[test]
    fn zen5_runs_in_every_mode() {
        for mode in [GateMode::Strict, GateMode::Passthrough, GateMode::Off] {
            assert_eq!(gate(&zen5(), mode), GateDecision::Run);
        }
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
