//! The steps of start-up.
//!
//! The constructor runs in every process that inherits `LD_PRELOAD`, and most of these (`sh`, `ls`) do not use ggml. So
//! the constructor only reads the configuration and looks whether ggml is linked. If it is, the shim starts
//! ([`engage`]): it reports wrong settings, asks the gate, and chooses the kernels. A program may also open ggml later;
//! then the first call of a hook starts the shim.

use std::sync::Once;

use zen5turbo_host::gate::EXIT_REFUSED;
use zen5turbo_host::{GateDecision, Tier, best_tier, gate};
use zen5turbo_kernels::width::{self, DataPath, Width};

use super::guard::{guarded, keep_panics_for_one_line};
use super::presence::ggml_is_linked;
use super::state::{self, State};
use super::{exit, fork, report};
use crate::buffers::{malloc_thp, nt_copy};
use crate::config::{Config, KNOBS, KernelChoice, config};
use crate::graph::blas_route;
use crate::log::{self, log};
use crate::reason::Reason;
use crate::stats;
use crate::tuning;

static ENGAGE: Once = Once::new();

// Not in unit tests: a test program does not use ggml, and the test runner handles its panics.
#[cfg(not(any(test, feature = "fuzzing")))]
ctor::declarative::ctor! {
    /// The dynamic linker calls this before `main`, after libc is initialised.
    #[ctor(unsafe)]
    fn construct() {
        guarded((), start);
    }
}

/// The steps of the constructor.
#[cfg_attr(test, allow(dead_code))]
fn start() {
    malloc_thp::init_once();
    nt_copy::init_once();
    let config = config();
    if !config.enabled {
        state::set(State::Disabled);
        return;
    }
    log::set_level(config.log);
    keep_panics_for_one_line();
    if ggml_is_linked() {
        engage_once();
        blas_route::open_at_start();
    }
}

/// Every ggml hook calls this first. In a process that opened ggml after its start, the first call starts the shim.
/// Later calls cost one atomic load. When a strict gate refuses the CPU, this does not return.
#[inline]
pub fn first_ggml_call() -> State {
    match state::current() {
        State::Waiting => engage_late(),
        decided => decided,
    }
}

#[cold]
fn engage_late() -> State {
    engage_once();
    state::current()
}

/// Starts the shim at the first call. Another thread that calls this meanwhile waits until the start is complete.
fn engage_once() {
    ENGAGE.call_once(|| {
        if !guarded(false, || engage(config())) {
            state::set(State::Passthrough);
        }
    });
}

/// The steps of the start in a process that has ggml; true when all of them were completed.
fn engage(config: &Config) -> bool {
    for complaint in &config.complaints {
        log::line(format_args!("{complaint}"));
    }
    for knob in KNOBS {
        log!(debug, "{}={} ({}: {})", knob.name, knob.value(config), knob.allowed(), knob.help);
    }
    exit::register();
    fork::register();
    zen5turbo_host::thread::remember_allowed_cpus();
    if zen5turbo_host::seccomp::is_filtered() {
        stats::event(Reason::SeccompFilter);
        log!(info, "a seccomp filter: only calls that every program makes");
    }
    let cpu = state::cpu();
    let answer = gate(cpu, config.gate);
    state::set_decision(answer.as_str());
    match answer {
        GateDecision::Run => {}
        GateDecision::Passthrough { line } => {
            log::line(format_args!("{line}"));
            stats::event(Reason::GatePassthrough);
            state::set(State::Passthrough);
            stats::publish(report::names);
            return true;
        }
        GateDecision::Refuse { line } => refuse(&line),
    }
    let (tier, complaint) = choose_tier(config.kernels, best_tier(cpu));
    if let Some(complaint) = complaint {
        log::line(format_args!("{complaint}"));
    }
    state::set_tier(tier);
    if tier == Tier::Avx512Vnni {
        measure_registers(config.kernels);
    }
    tuning::load();
    malloc_thp::activate();
    nt_copy::activate();
    state::set(State::Active);
    stats::publish(report::names);
    log!(
        info,
        "version {}, {}, gate {}, ZEN5TURBO_KERNELS={}, tier {}, kernels {}",
        env!("CARGO_PKG_VERSION"),
        cpu.describe(),
        config.gate.as_str(),
        config.kernels.as_str(),
        tier.as_str(),
        state::isa().name()
    );
    true
}

/// Ends the process without its exit handlers. In the constructor the program's handlers are not set up yet, and in a
/// hook other threads are still working. Ollama looks for `error:` in the output of a runner that ends, and shows its
/// user the text after it.
fn refuse(line: &str) -> ! {
    log::line(format_args!("error: {line}"));
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(EXIT_REFUSED) }
}

/// The tier for a choice on a CPU whose best tier is `best`, and a message for the user when the CPU cannot run the
/// choice.
fn choose_tier(choice: KernelChoice, best: Tier) -> (Tier, Option<String>) {
    let wanted = match choice {
        KernelChoice::Auto | KernelChoice::Exact | KernelChoice::Off => best,
        KernelChoice::Avx512 | KernelChoice::Avx512Narrow => Tier::Avx512Vnni,
        KernelChoice::Avx2 => Tier::Avx2,
        KernelChoice::Scalar => Tier::Scalar,
    };
    if wanted <= best {
        return (wanted, None);
    }
    let complaint = format!(
        "ZEN5TURBO_KERNELS asks for {} but the best this CPU runs is {}; using {}",
        wanted.as_str(),
        best.as_str(),
        best.as_str()
    );
    (best, Some(complaint))
}

/// Decides whether the kernels of the AVX-512 tier use 256-bit registers. The setting decides first, then the
/// calibration file's measurement of whole products, then a short measurement made here. Also keeps whether the CPU
/// splits 512-bit operations.
fn measure_registers(choice: KernelChoice) {
    let width = width::measure();
    if let Some(width) = width {
        log!(info, "ticks with 512 and 256 bits: {}, {}", width.bits512, width.bits256);
    }
    let narrow = match (choice, tuning::measured_width(&state::cpu().brand)) {
        (KernelChoice::Avx512Narrow, _) => true,
        // Both widths add in orders of their own, and a measurement can come out differently at every start.
        _ if config().invariant => false,
        (KernelChoice::Auto | KernelChoice::Exact | KernelChoice::Off, Some(measured)) => {
            measured == tuning::Width::Narrow
        }
        (KernelChoice::Auto | KernelChoice::Exact | KernelChoice::Off, None) => width.is_some_and(Width::is_narrow),
        _ => false,
    };
    state::set_registers(narrow, width.map_or(DataPath::Split, |w| w.data_path()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_beyond_the_cpu_falls_back_and_says_so() {
        assert_eq!(choose_tier(KernelChoice::Auto, Tier::Avx2), (Tier::Avx2, None));
        assert_eq!(choose_tier(KernelChoice::Scalar, Tier::Avx512Vnni), (Tier::Scalar, None));
        let (tier, complaint) = choose_tier(KernelChoice::Avx512, Tier::Avx2);
        assert_eq!(tier, Tier::Avx2);
        let complaint = complaint.unwrap();
        assert!(complaint.contains("avx512vnni") && complaint.contains("using avx2"), "{complaint}");
    }
}
