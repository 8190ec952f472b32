//! The statistics as JSON.

mod memory;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use zen5turbo_host::proc;
use zen5turbo_telemetry::live::Cell;
use zen5turbo_telemetry::{GRAPHS_BY_COLUMNS, Json, OpKind};

use super::state;
use crate::config::{KNOBS, config};
use crate::graph::{blas_device, blas_route};
use crate::reason::Reason;
use crate::stats::{self, TYPES, counters, kernels_in_use, type_name};
use crate::{rows, threads, tuning};

/// Everything known about this process, as one JSON object:
///
/// ```text
/// version, pid, program, state
/// computed                            whether a graph was computed: false for a program that only lists devices
/// cpu:     { vendor, brand, family, model, stepping, zen5, features: [...] }
/// gate:    { mode, decision }         decision is "pending" until ggml is in use
/// tier, isa, kernels                  the kernel family in use, with its width; the one asked for
/// config:  { VARIABLE: value }
/// tuning:  { file, status }           the calibration file and what became of it
/// ggml:    [ { path, status } ]
/// threads_limit                       what limits the threads of a graph
/// threads: { asked, used, budget,     of the last graph; CPUs that the process can keep busy
///            capped, pools,           graphs with fewer threads than asked for; pools made in the place of the program's
///            lost_mcpu,               thousandths of a CPU that their threads lacked lately, as others had it
///            sleeps: { count, us } }  waits at barriers that ended in sleep
/// graphs:  { columns: { count, columns, ns } }
/// ops:     { MUL_MAT: { q4_K: { taken, ns, bytes, mac, kernels: {regime: name},
///                               declined: {reason: n} } } }    FLASH_ATTN_EXT: by the type of its keys
/// direct:  { ... }                    see [`rows::report`]
/// memory:  { ... }                    see [`memory::report`]
/// blas:    { calls,                   calls of cblas_sgemm that went to the library of ZEN5TURBO_BLAS
///            refused }                how often ggml's scheduler was told to keep a product from its BLAS backend
/// events:  { reason: n }
/// ```
///
/// `taken` counts calls; `ns` is time in nanoseconds, `bytes` the bytes of weights (of keys and values) read and `mac` the
/// multiply-accumulates of those calls. `graphs` counts executions of graphs by their columns (`0`, `1`, `2-16`,
/// `many`), adds those up, and their time. What was never counted is left out.
#[must_use]
pub fn json() -> String {
    let mut j = Json::default();
    j.open(None);
    circumstances(&mut j);
    j.boolean("computed", stats::computed());
    let counters = counters();
    threads_of_graphs(&mut j);
    j.open(Some("graphs"));
    for (class, graphs) in GRAPHS_BY_COLUMNS.iter().zip(&counters.graphs) {
        let [count, columns, ns] = [&graphs.count, &graphs.columns, &graphs.ns].map(|n| n.load(Relaxed));
        if count > 0 {
            j.open(Some(class));
            j.number("count", count);
            j.number("columns", columns);
            j.number("ns", ns);
            j.close();
        }
    }
    j.close();
    j.open(Some("ops"));
    for kind in OpKind::ALL {
        j.open(Some(kind.as_str()));
        for (ty, cell) in counters.cells[kind as usize].iter().enumerate().filter(|(_, c)| used(c)) {
            operation(&mut j, (kind, ty), cell);
        }
        j.close();
    }
    j.close();
    rows::report(&mut j);
    memory::report(&mut j);
    j.open(Some("blas"));
    j.number("calls", blas_route::calls());
    j.number("refused", blas_device::refused());
    j.close();
    reasons(&mut j, "events", &counters.events);
    j.close();
    j.finish()
}

/// What those who read the counters from shared memory need beside them, as one JSON object: the members of
/// [`json`] up to `ggml` but for `computed`, and
///
/// ```text
/// names:   { ops, types, reasons, graphs: [name] }     in the order of the counters
/// kernels_in_use: { MUL_MAT: { q4_K: { regime: name } } }
/// ```
pub fn names() -> String {
    let mut j = Json::default();
    j.open(None);
    circumstances(&mut j);
    j.open(Some("names"));
    list(&mut j, "ops", OpKind::ALL.map(|kind| kind.as_str().to_owned()));
    list(&mut j, "types", (0..=TYPES).map(type_name));
    list(&mut j, "reasons", Reason::ALL.iter().map(|reason| reason.as_str().to_owned()));
    list(&mut j, "graphs", GRAPHS_BY_COLUMNS.map(str::to_owned));
    j.close();
    j.open(Some("kernels_in_use"));
    for kind in OpKind::ALL {
        j.open(Some(kind.as_str()));
        for ty in (0..=TYPES).filter(|&ty| kernels_in_use(kind, ty).next().is_some()) {
            in_use(&mut j, &type_name(ty), (kind, ty));
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

/// The members that are not counted.
fn circumstances(j: &mut Json) {
    let config = config();
    j.string("version", env!("CARGO_PKG_VERSION"));
    j.number("pid", u64::from(std::process::id()));
    j.string("program", &proc::program_name());
    j.string("state", state::current().as_str());
    cpu(j);
    j.open(Some("gate"));
    j.string("mode", config.gate.as_str());
    j.string("decision", state::decision());
    j.close();
    j.string("tier", state::tier().as_str());
    j.string("isa", state::isa().name());
    j.string("kernels", config.kernels.as_str());
    j.open(Some("config"));
    for knob in KNOBS {
        j.string(knob.name, &knob.value(config));
    }
    j.close();
    let (file, status) = tuning::report();
    j.open(Some("tuning"));
    j.string("file", &file);
    j.string("status", status);
    match tuning::threads_of_one_column() {
        usize::MAX => {}
        threads => j.number("threads", threads as u64),
    }
    if let Some(hundredths) = tuning::reported_gain_of_copies() {
        j.number("copies_hundredths", u64::from(hundredths));
        j.boolean("copies_pay", tuning::copies_pay());
    }
    j.close();
    j.string("threads_limit", &threads::limit());
    j.open_array("ggml");
    for library in stats::libraries() {
        j.open(None);
        j.string("path", &library.path);
        j.string("status", library.status);
        j.close();
    }
    j.close_array();
}

fn threads_of_graphs(j: &mut Json) {
    let threads = &counters().threads;
    j.open(Some("threads"));
    for (name, count) in [
        ("asked", &threads.asked),
        ("used", &threads.used),
        ("budget", &threads.budget),
        ("capped", &threads.capped),
        ("pools", &threads.pools),
        ("lost_mcpu", &threads.lost_mcpu),
    ] {
        j.number(name, count.load(Relaxed));
    }
    j.open(Some("sleeps"));
    j.number("count", threads.sleeps[0].load(Relaxed));
    j.number("us", threads.sleeps[1].load(Relaxed));
    j.close();
    j.close();
}

fn cpu(j: &mut Json) {
    let cpu = state::cpu();
    j.open(Some("cpu"));
    j.string("vendor", &cpu.vendor);
    j.string("brand", &cpu.brand);
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

fn used(cell: &Cell<AtomicU64>) -> bool {
    cell.calls.load(Relaxed) > 0 || cell.declined.iter().any(|n| n.load(Relaxed) > 0)
}

fn operation(j: &mut Json, (kind, ty): (OpKind, usize), cell: &Cell<AtomicU64>) {
    j.open(Some(&type_name(ty)));
    j.number("taken", cell.calls.load(Relaxed));
    j.number("ns", cell.ns.load(Relaxed));
    j.number("bytes", cell.bytes.load(Relaxed));
    j.number("mac", cell.macs.load(Relaxed));
    in_use(j, "kernels", (kind, ty));
    reasons(j, "declined", &cell.declined);
    j.close();
}

fn in_use(j: &mut Json, key: &str, (kind, ty): (OpKind, usize)) {
    j.open(Some(key));
    for kernel in kernels_in_use(kind, ty) {
        j.string(kernel.regime, kernel.name);
    }
    j.close();
}

fn reasons(j: &mut Json, key: &str, counts: &[AtomicU64]) {
    j.open(Some(key));
    for (reason, count) in Reason::ALL.iter().zip(counts) {
        match count.load(Relaxed) {
            0 => {}
            n => j.number(reason.as_str(), n),
        }
    }
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
