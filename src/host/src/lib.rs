//! What the machine is and how to ask it.
//!
//! Everything here is a fact (which CPU, which features may be used, how large the caches are) or a
//! decision that follows from facts alone (the gate, the kernel tier). Parsing is separate from
//! asking, so the tests need no special machine.

pub mod caches;
pub mod cgroup;
pub mod cpu;
pub mod cpu_budget;
pub mod cpuset;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod gate;
pub mod identity;
pub mod masked;
pub mod memory;
pub mod numa;
pub mod proc;
pub mod seccomp;
mod syscall;
pub mod thread;
pub mod tier;
pub mod topology;
pub mod usage;

pub use caches::Caches;
pub use cpu::{Cpu, Features};
pub use cpu_budget::CpuBudget;
pub use gate::{GateDecision, GateMode, gate};
pub use identity::Identity;
pub use masked::Masked;
pub use tier::{Tier, best_tier};
pub use usage::Usage;
