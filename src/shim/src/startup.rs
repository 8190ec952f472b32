//! Start-up, as a list of steps.
//!
//! The constructor runs in every process of the environment that sets `LD_PRELOAD`, most of which
//! (`sh`, `ls`) have nothing to do with ggml. So it reads the configuration and looks whether ggml
//! is linked; only then, or at the first call of a hook when ggml is opened later, does the shim
//! [`engage`]: complain about the configuration, pass the gate, choose the kernels.

use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Once, OnceLock};

use zen5turbo_host::gate::EXIT_REFUSED;
use zen5turbo_host::{Cpu, GateDecision, Tier, best_tier, gate};
use zen5turbo_kernels::isa::Isa;
use zen5turbo_kernels::width::{self, DataPath, Width};

use crate::blas;
use crate::config::{Config, KNOBS, KernelChoice, config};
use crate::ggml::LIBRARY_PREFIX;
use crate::ggml::functions::{ggml_cpu_extra_compute_forward, ggml_graph_compute};
use crate::guard::keep_panics_for_one_line;
pub use crate::guard::{committed, fault, guarded};
use crate::heap;
use crate::loader::is_defined_elsewhere;
use crate::loader::objects::{Loaded, find_loaded};
use crate::log::{self, log};
use crate::memory::{copier, reader, sources};
use crate::reason::Reason;
use crate::stats;
use crate::streaming;
use crate::tuning;

/// What the shim does in this process.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// `ZEN5TURBO=0`: nothing.
    Disabled = 0,
    /// ggml has not been seen yet; nothing has been decided.
    Waiting = 1,
    /// Every hook forwards to the original.
    Passthrough = 2,
    /// Operations are taken over.
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
static ENGAGE: Once = Once::new();
static DECISION: OnceLock<&'static str> = OnceLock::new();
static CPU: OnceLock<Cpu> = OnceLock::new();
static FORKED: AtomicBool = AtomicBool::new(false);

// Not in unit tests: a test program is no host program, and its panics are for the test runner.
#[cfg(not(any(test, feature = "fuzzing")))]
ctor::declarative::ctor! {
    /// Called by the dynamic linker once libc is initialised and before `main`.
    #[ctor(unsafe)]
    fn construct() {
        guarded((), start);
    }
}

/// The steps of the constructor.
#[cfg_attr(test, allow(dead_code))]
fn start() {
    heap::ready();
    streaming::ready();
    let config = config();
    if !config.enabled {
        STATE.store(State::Disabled as u8, Ordering::Release);
        return;
    }
    log::set_level(config.log);
    keep_panics_for_one_line();
    if ggml_is_linked() {
        engage_once();
        blas::open_at_start();
    }
}

/// To be called at the head of every ggml hook: engages the shim at the first call in a process that
/// opened ggml after its start. Later calls cost one atomic load. With a strict gate that refuses,
/// this does not return.
#[inline]
pub fn first_ggml_call() -> State {
    match state() {
        State::Waiting => engage_late(),
        decided => decided,
    }
}

/// What the shim does in this process, without engaging it.
#[inline]
pub fn state() -> State {
    State::from_number(STATE.load(Ordering::Acquire))
}

/// The kernel family to use; meaningful once the state is [`State::Active`]. Lower tiers run as
/// well, so a type that has no kernel of this tier may use one of a lower tier.
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

/// How the CPU computes 512-bit operations; `Split` also where it has none.
pub fn data_path() -> DataPath {
    if SPLIT.load(Ordering::Relaxed) { DataPath::Split } else { DataPath::Full }
}

/// The CPU, asked once; in tests under the identity that they choose.
pub fn cpu() -> &'static Cpu {
    CPU.get_or_init(|| match &config().test_cpu {
        Some(identity) => Cpu::detect().under(identity),
        None => Cpu::detect(),
    })
}

/// The gate's decision: `run`, `passthrough`, `refuse`, or `pending` while none was needed.
pub fn decision() -> &'static str {
    DECISION.get().copied().unwrap_or("pending")
}

/// Whether this process was forked, without exec, from one that used ggml.
pub fn is_forked_child() -> bool {
    FORKED.load(Ordering::Relaxed)
}

#[cold]
fn engage_late() -> State {
    engage_once();
    state()
}

/// Engages at the first call; a second thread waits until that is done.
fn engage_once() {
    ENGAGE.call_once(|| {
        if !guarded(false, || engage(config())) {
            STATE.store(State::Passthrough as u8, Ordering::Release);
        }
    });
}

/// The steps that are taken once ggml is known to be in this process; true when they were completed.
fn engage(config: &Config) -> bool {
    for complaint in &config.complaints {
        log::line(format_args!("{complaint}"));
    }
    for knob in KNOBS {
        log!(debug, "{}={} ({}: {})", knob.name, knob.value(config), knob.allowed, knob.help);
    }
    register_handlers();
    zen5turbo_host::thread::remember_allowed_cpus();
    if zen5turbo_host::seccomp::is_filtered() {
        stats::event(Reason::SeccompFilter);
        log!(info, "a seccomp filter: only calls that every program makes");
    }
    let cpu = cpu();
    let answer = gate(cpu, config.gate);
    let _ = DECISION.set(answer.as_str());
    match answer {
        GateDecision::Run => {}
        GateDecision::Passthrough { line } => {
            log::line(format_args!("{line}"));
            stats::event(Reason::GatePassthrough);
            STATE.store(State::Passthrough as u8, Ordering::Release);
            stats::live::publish();
            return true;
        }
        GateDecision::Refuse { line } => refuse(&line),
    }
    let (tier, complaint) = choose_tier(config.kernels, best_tier(cpu));
    if let Some(complaint) = complaint {
        log::line(format_args!("{complaint}"));
    }
    TIER.store(tier as u8, Ordering::Relaxed);
    if tier == Tier::Avx512Vnni {
        measure_registers(config.kernels);
    }
    tuning::load();
    heap::activate();
    streaming::activate();
    STATE.store(State::Active as u8, Ordering::Release);
    stats::live::publish();
    log!(
        info,
        "version {}, {}, gate {}, ZEN5TURBO_KERNELS={}, tier {}, kernels {}",
        env!("CARGO_PKG_VERSION"),
        cpu.describe(),
        config.gate.as_str(),
        config.kernels.as_str(),
        tier.as_str(),
        isa().name()
    );
    true
}

/// Ends the process. Exit handlers are not run: in the constructor the program's are not set up, and
/// in a hook other threads are in the middle of their work. `error:` marks the line for programs that read the
/// output of the one that ends, such as Ollama, which shows its user what follows.
fn refuse(line: &str) -> ! {
    log::line(format_args!("error: {line}"));
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(EXIT_REFUSED) }
}

/// The tier for a choice on a CPU whose best tier is `best`, and what to tell the user about it.
fn choose_tier(choice: KernelChoice, best: Tier) -> (Tier, Option<String>) {
    let wanted = match choice {
        KernelChoice::Auto | KernelChoice::Off => best,
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

/// Measures how fast 512-bit registers are: decides whether the kernels of the AVX-512 tier use 256-bit ones,
/// unless the choice says so or the calibration file has a measurement of whole products, and keeps whether the CPU splits operations.
fn measure_registers(choice: KernelChoice) {
    let width = width::measure();
    if let Some(width) = width {
        log!(info, "ticks with 512 and 256 bits: {}, {}", width.bits512, width.bits256);
    }
    let narrow = match (choice, tuning::measured_width(&cpu().brand)) {
        (KernelChoice::Avx512Narrow, _) => true,
        (KernelChoice::Auto | KernelChoice::Off, Some(measured)) => measured == tuning::Width::Narrow,
        (KernelChoice::Auto | KernelChoice::Off, None) => width.is_some_and(Width::is_narrow),
        _ => false,
    };
    NARROW.store(narrow, Ordering::Relaxed);
    SPLIT.store(width.is_none_or(|w| w.data_path() == DataPath::Split), Ordering::Relaxed);
}

/// Registers what runs at exit and in a forked child.
fn register_handlers() {
    extern "C" fn at_exit() {
        guarded((), copier::stop_at_exit);
        guarded((), stats::write_at_exit);
    }
    extern "C" fn in_child() {
        FORKED.store(true, Ordering::Relaxed);
        guarded((), || {
            sources::forget_in_child();
            copier::forget_in_child();
            reader::forget_in_child();
        });
        stats::forget();
    }
    // SAFETY: the handlers are functions of this library, which is never unloaded (preloaded
    // libraries stay); both unwind nowhere.
    unsafe {
        libc::atexit(at_exit);
        libc::pthread_atfork(None, None, Some(in_child));
    }
}

/// Whether ggml is part of this process already: as a shared object named `libggml*`, or inside the
/// program or another library that exports ggml's functions.
fn ggml_is_linked() -> bool {
    let is_ggml = |loaded: &Loaded<'_>| is_ggml_object(loaded.path.to_bytes()).then_some(());
    find_loaded(is_ggml).is_some() || GGML_SYMBOLS.iter().any(|name| is_defined_elsewhere(name))
}

/// Functions that tell ggml's CPU backend: the hook, and one that also older builds have.
const GGML_SYMBOLS: [&CStr; 2] = [ggml_cpu_extra_compute_forward.symbol(), ggml_graph_compute.symbol()];

fn is_ggml_object(path: &[u8]) -> bool {
    path.rsplit(|&b| b == b'/').next().is_some_and(|name| name.starts_with(LIBRARY_PREFIX.as_bytes()))
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

    #[test]
    fn objects_are_recognised_by_their_file_name() {
        for yes in ["libggml.so", "/a/libggml-cpu-haswell.so", "/b/libggml-base-1a2b3c.so.0"] {
            assert!(is_ggml_object(yes.as_bytes()), "{yes}");
        }
        for no in ["", "/usr/lib/libc.so.6", "/opt/libggml/libfoo.so", "linux-vdso.so.1"] {
            assert!(!is_ggml_object(no.as_bytes()), "{no}");
        }
    }

    #[test]
    fn a_test_program_has_no_ggml_and_waits() {
        assert!(!ggml_is_linked());
        assert_eq!(state(), State::Waiting);
        assert_eq!(decision(), "pending");
    }

    #[test]
    fn states_have_numbers() {
        for state in [State::Disabled, State::Waiting, State::Passthrough, State::Active] {
            assert_eq!(State::from_number(state as u8), state);
        }
    }
}
