//! Whether the shim is active in this process, and with which instruction set. [`super::start`] decides once, and every
//! folder reads the answer.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use zen5turbo_host::{Cpu, Tier};
use zen5turbo_kernels::isa::Isa;
use zen5turbo_kernels::width::DataPath;

use crate::config::config;

/// What the shim does in this process.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// `ZEN5TURBO=0`: the shim does nothing.
    Disabled = 0,
    /// ggml is not in the process yet, and nothing is decided.
    Waiting = 1,
    /// Every hook forwards to the original.
    Passthrough = 2,
    /// Operations are computed here.
    Active = 3,
}

impl State {
    /// The name in statistics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Waiting => "waiting",
            Self::Passthrough => "passthrough",
            Self::Active => "active",
        }
    }

    const fn from_number(n: u8) -> Self {
        match n {
            0 => Self::Disabled,
            2 => Self::Passthrough,
            3 => Self::Active,
            _ => Self::Waiting,
        }
    }
}

static STATE: AtomicU8 = AtomicU8::new(State::Waiting as u8);
static TIER: AtomicU8 = AtomicU8::new(Tier::Scalar as u8);
static NARROW: AtomicBool = AtomicBool::new(false);
/// Whether the CPU splits 512-bit operations.
static SPLIT: AtomicBool = AtomicBool::new(false);
static DECISION: OnceLock<&'static str> = OnceLock::new();
static CPU: OnceLock<Cpu> = OnceLock::new();
static FORKED: AtomicBool = AtomicBool::new(false);

/// The state of this process. Reading it does not start the shim.
#[inline]
pub fn current() -> State {
    State::from_number(STATE.load(Ordering::Acquire))
}

/// The kernel family to use; valid once the state is [`State::Active`]. The CPU also runs the kernels of lower tiers,
/// so a weight type without a kernel of this tier can use one of a lower tier.
#[inline]
pub fn tier() -> Tier {
    match TIER.load(Ordering::Relaxed) {
        2 => Tier::Avx512Vnni,
        1 => Tier::Avx2,
        _ => Tier::Scalar,
    }
}

/// The instruction set of the kernels in use: the tier, in the chosen width.
pub fn isa() -> Isa {
    match tier() {
        Tier::Avx512Vnni if NARROW.load(Ordering::Relaxed) => Isa::Vnni256,
        Tier::Avx512Vnni => Isa::Avx512,
        Tier::Avx2 => Isa::Avx2,
        Tier::Scalar => Isa::Scalar,
    }
}

/// How the CPU computes 512-bit operations; `Split` also when the CPU has none.
pub fn data_path() -> DataPath {
    if SPLIT.load(Ordering::Relaxed) { DataPath::Split } else { DataPath::Full }
}

/// The CPU, detected once. A test can give it another identity.
pub fn cpu() -> &'static Cpu {
    CPU.get_or_init(|| match &config().test_cpu {
        Some(identity) => Cpu::detect().under(identity),
        None => Cpu::detect(),
    })
}

/// The gate's decision: `run`, `passthrough`, `refuse`, or `pending` before the gate has decided.
pub fn decision() -> &'static str {
    DECISION.get().copied().unwrap_or("pending")
}

/// Whether this process was forked, without exec, from one that used ggml.
pub fn is_forked_child() -> bool {
    FORKED.load(Ordering::Relaxed)
}

/// Sets the state. A thread that reads the new state also sees everything that was set before it.
pub(super) fn set(state: State) {
    STATE.store(state as u8, Ordering::Release);
}

pub(super) fn set_tier(tier: Tier) {
    TIER.store(tier as u8, Ordering::Relaxed);
}

/// Sets whether the AVX-512 kernels use 256-bit registers, and how the CPU computes 512-bit operations.
pub(super) fn set_registers(narrow: bool, path: DataPath) {
    NARROW.store(narrow, Ordering::Relaxed);
    SPLIT.store(path == DataPath::Split, Ordering::Relaxed);
}

/// Sets the gate's decision. Later calls change nothing.
pub(super) fn set_decision(decision: &'static str) {
    let _ = DECISION.set(decision);
}

pub(super) fn set_forked() {
    FORKED.store(true, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_have_numbers() {
        for state in [State::Disabled, State::Waiting, State::Passthrough, State::Active] {
            assert_eq!(State::from_number(state as u8), state);
        }
    }

    #[test]
    fn a_test_program_waits() {
        assert_eq!(current(), State::Waiting);
        assert_eq!(decision(), "pending");
    }
}
