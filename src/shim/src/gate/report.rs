//! The statistics as JSON.

mod memory;

use zen5turbo_host::proc;
use zen5turbo_telemetry::document::{self, Names, member::*};
use zen5turbo_telemetry::{GRAPHS_BY_COLUMNS, Json, OpKind};

use super::state;
use crate::config::{KNOBS, config};
use crate::graph::{blas_device, blas_route};
use crate::reason::Reason;
use crate::stats::{self, counters, kernels_in_use, type_name};
use crate::{rows, threads, tuning};

/// The statistics of this process, as one JSON object:
///
/// ```text
/// version, pid, program, state
/// computed                            whether a graph was computed: false for a program that only lists devices
/// cpu:     { vendor, brand, family, model, stepping, zen5, features: [...] }
/// gate:    { mode, decision }         decision is "pending" until ggml is in use
/// tier, isa, kernels                  the kernel family in use, with its width; the one asked for
/// config:  { VARIABLE: value }
/// tuning:  { file, status }           the calibration file, and whether it is used
/// ggml:    [ { path, status } ]
/// threads_limit                       the limit of the threads of a graph, in words
/// threads: { asked, used, budget,     threads of the last graph; CPUs that the process can keep busy
///            capped, pools,           graphs with fewer threads than asked for; pools that replace the program's pools
///            lost_mcpu,               mean CPU time that threads lost to other processes, in thousandths of a CPU
///            sleeps: { count, us } }  waits at barriers that ended in sleep
/// graphs:  { columns: { count, columns, ns,
///            barriers: { between,     barriers at the end of an operation, where the threads wait for each other
///                        skipped,     the same, where they do not wait
///                        inside } } } barriers inside operations
/// ops:     { MUL_MAT: { q4_K: { taken, ns, bytes, mac, kernels: {regime: name},
///                               declined: {reason: n} } } }    FLASH_ATTN_EXT: by the type of its keys
/// direct:  { ... }                    see [`rows::report`]
/// memory:  { ... }                    see [`memory::report`]
/// blas:    { calls,                   calls of cblas_sgemm that went to the library of ZEN5TURBO_BLAS
///            refused }                how often the BLAS device refused a product that is computed here
/// events:  { reason: n }
/// ```
///
/// `taken` counts calls; `ns` is time in nanoseconds, `bytes` the bytes of weights (of keys and values) read and `mac` the
/// multiply-accumulates of those calls. `graphs` counts executions of graphs by their columns (`0`, `1`, `2-16`,
/// `many`), and adds up their columns and their time. A counter that is still 0 is left out.
#[must_use]
pub fn json() -> String {
    let mut j = Json::default();
    j.open(None);
    circumstances(&mut j);
    j.boolean(COMPUTED, stats::computed());
    let counters = counters();
    document::threads(&mut j, counters);
    document::graphs(&mut j, counters, &Own);
    document::operations(&mut j, counters, &Own);
    rows::report(&mut j);
    memory::report(&mut j);
    j.open(Some("blas"));
    j.number("calls", blas_route::calls());
    j.number("refused", blas_device::refused());
    j.close();
    document::events(&mut j, counters, &Own);
    j.close();
    j.finish()
}

/// The names of this process.
struct Own;

impl Names for Own {
    fn operation(&self, number: usize) -> String {
        OpKind::ALL[number].as_str().to_owned()
    }

    fn weight_type(&self, number: usize) -> String {
        type_name(number)
    }

    fn reason(&self, number: usize) -> String {
        // There are more counters than reasons, and other processes may have written to the shared memory.
        Reason::ALL.get(number).map_or_else(|| number.to_string(), |reason| reason.as_str().to_owned())
    }

    fn graphs(&self, class: usize) -> String {
        GRAPHS_BY_COLUMNS[class].to_owned()
    }

    fn kernels(&self, operation: usize, weight_type: usize) -> Vec<(String, String)> {
        let kernels = kernels_in_use(OpKind::ALL[operation], weight_type);
        kernels.map(|kernel| (kernel.regime.to_owned(), kernel.name.to_owned())).collect()
    }
}

/// The names for a program that reads the counters from shared memory, as one JSON object. It has the members of
/// [`json`] up to `ggml`, except `computed`, and
///
/// ```text
/// names:   { ops, types, reasons, graphs: [name] }     in the order of the counters
/// kernels_in_use: { MUL_MAT: { q4_K: { regime: name } } }
/// ```
pub fn names() -> String {
    let mut j = Json::default();
    j.open(None);
    circumstances(&mut j);
    j.open(Some(NAMES));
    list(&mut j, OPS, OpKind::ALL.map(|kind| kind.as_str().to_owned()));
    list(&mut j, TYPES, (0..=stats::TYPES).map(type_name));
    list(&mut j, REASONS, Reason::ALL.iter().map(|reason| reason.as_str().to_owned()));
    list(&mut j, GRAPHS, GRAPHS_BY_COLUMNS.map(str::to_owned));
    j.close();
    j.open(Some(KERNELS_IN_USE));
    for kind in OpKind::ALL {
        j.open(Some(kind.as_str()));
        for ty in 0..=stats::TYPES {
            let kernels = Own.kernels(kind as usize, ty);
            if !kernels.is_empty() {
                document::kernels(&mut j, &type_name(ty), &kernels);
            }
        }
        j.close();
    }
    j.close();
    j.close();
    j.finish()
}

fn list(j: &mut Json, key: &str, names: impl IntoIterator<Item = String>) {
    j.open_array(key);
    for name in names {
        j.element(&name);
    }
    j.close_array();
}

/// The members that are not counters.
fn circumstances(j: &mut Json) {
    let config = config();
    j.string(VERSION, env!("CARGO_PKG_VERSION"));
    j.number(PID, u64::from(std::process::id()));
    j.string(PROGRAM, &proc::program_name());
    j.string(STATE, state::current().as_str());
    cpu(j);
    j.open(Some(GATE));
    j.string(MODE, config.gate.as_str());
    j.string(DECISION, state::decision());
    j.close();
    j.string(TIER, state::tier().as_str());
    j.string(ISA, state::isa().name());
    j.string(KERNELS, config.kernels.as_str());
    j.open(Some(CONFIG));
    for knob in KNOBS {
        j.string(knob.name, &knob.value(config));
    }
    j.close();
    let (file, status) = tuning::report();
    j.open(Some(TUNING));
    j.string("file", &file);
    j.string(STATUS, status);
    match tuning::threads_of_one_column() {
        usize::MAX => {}
        threads => j.number(THREADS, threads as u64),
    }
    if let Some(hundredths) = tuning::reported_gain_of_copies() {
        j.number("copies_hundredths", u64::from(hundredths));
        j.boolean("copies_pay", tuning::copies_pay());
    }
    j.close();
    j.string(THREADS_LIMIT, &threads::limit());
    j.open_array(GGML);
    for library in stats::libraries() {
        j.open(None);
        j.string(PATH, &library.path);
        j.string(STATUS, library.status);
        j.close();
    }
    j.close_array();
}

fn cpu(j: &mut Json) {
    let cpu = state::cpu();
    j.open(Some(CPU));
    j.string("vendor", &cpu.vendor);
    j.string(BRAND, &cpu.brand);
    j.number("family", cpu.family.into());
    j.number("model", cpu.model.into());
    j.number("stepping", cpu.stepping.into());
    j.boolean("zen5", cpu.is_zen5());
    j.open_array("features");
    for (name, _) in cpu.features.iter().filter(|(_, usable)| *usable) {
        j.element(name);
    }
    j.close_array();
    j.close();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_names_what_was_counted() {
        stats::set_type_name(55, "q\"55");
        stats::taken(OpKind::MulMatId, 55, 7, 8, 9);
        stats::declined(OpKind::MulMatId, 55, Reason::HadamardHint);
        stats::set_kernel(OpKind::MulMatId, 55, "gemm", "avx2_8x4");
        stats::event(Reason::AbiMismatch);
        let text = json();
        let expected = r#""q\"55":{"taken":1,"ns":7,"bytes":8,"mac":9,"kernels":{"gemm":"avx2_8x4"},"declined":{"hadamard_hint":1}}"#;
        assert!(text.contains(expected), "{text}");
        assert!(text.contains(r#""events":{"#) && text.contains(r#""abi_mismatch":1"#), "{text}");
        assert!(text.contains(r#","computed":true,"#), "{text}");
        assert!(text.starts_with(r#"{"version":""#) && text.ends_with("}}"), "{text}");
        assert_eq!(text.matches('{').count(), text.matches('}').count());
    }
}
