//! The statistics as JSON.

use std::sync::atomic::Ordering::Relaxed;

use zen5turbo_host::proc;

use super::json::Json;
use super::{CELLS, Cell, EVENTS, LIBRARY_LIST, OpKind, read, type_name};
use crate::config::{KNOBS, config};
use crate::memory::counters;
use crate::placement;
use crate::reason::Reason;
use crate::startup;
use crate::tuning;

/// Everything known about this process, as one JSON object:
///
/// ```text
/// version, pid, program, state
/// cpu:     { vendor, brand, family, model, stepping, zen5, features: [...] }
/// gate:    { mode, decision }         decision is "pending" until ggml is in use
/// tier, isa, kernels                  the kernel family in use, with its width; the one asked for
/// config:  { VARIABLE: value }
/// tuning:  { file, status }           the calibration file and what became of it
/// ggml:    [ { path, status } ]
/// ops:     { MUL_MAT: { q4_K: { taken, ns, bytes, mac, kernels: {regime: name},
///                               declined: {reason: n} } } }
/// memory:  { weights: { mapped, wanted, promoted: { thp, 2m, 1g }, demoted, now, us },
///            numa: { mode, nodes: [...], placed: { node: bytes }, interleaved, failed, seats, moved } }
/// events:  { reason: n }
/// ```
///
/// `taken` counts calls; `ns` is time in nanoseconds, `bytes` the weight bytes read and `mac` the
/// multiply-accumulates of those calls. What was never counted is left out.
#[must_use]
pub fn json() -> String {
    let config = config();
    let mut j = Json::default();
    j.open(None);
    j.string("version", env!("CARGO_PKG_VERSION"));
    j.number("pid", u64::from(std::process::id()));
    j.string("program", &proc::program_name());
    j.string("state", startup::state().as_str());
    cpu(&mut j);
    j.open(Some("gate"));
    j.string("mode", config.gate.as_str());
    j.string("decision", startup::decision());
    j.close();
    j.string("tier", startup::tier().as_str());
    j.string("isa", startup::isa().name());
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
    j.close();
    j.open_array("ggml");
    for library in LIBRARY_LIST.iter().filter_map(read) {
        j.open(None);
        j.string("path", &library.path);
        j.string("status", library.status);
        j.close();
    }
    j.close_array();
    j.open(Some("ops"));
    for kind in OpKind::ALL {
        j.open(Some(kind.as_str()));
        for (ty, cell) in CELLS[kind as usize].iter().enumerate().filter(|(_, c)| used(c)) {
            operation(&mut j, &type_name(ty), cell);
        }
        j.close();
    }
    j.close();
    j.open(Some("memory"));
    counters::report(&mut j);
    numa(&mut j);
    j.close();
    reasons(&mut j, "events", &EVENTS);
    j.close();
    j.finish()
}

/// The placement in force, the bytes placed on each node and in turn, and the threads.
fn numa(j: &mut Json) {
    let report = placement::report();
    j.open(Some("numa"));
    j.string("mode", report.mode);
    j.open_array("nodes");
    for node in &report.nodes {
        j.element(&node.to_string());
    }
    j.close_array();
    j.open(Some("placed"));
    for (node, bytes) in report.placed {
        j.number(&node.to_string(), bytes);
    }
    j.close();
    j.number("interleaved", report.interleaved);
    j.number("failed", report.failed);
    j.number("seats", report.seats as u64);
    j.number("moved", report.moved);
    j.close();
}

fn cpu(j: &mut Json) {
    let cpu = startup::cpu();
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

fn used(cell: &Cell) -> bool {
    cell.calls.load(Relaxed) > 0 || cell.declined.iter().any(|n| n.load(Relaxed) > 0)
}

fn operation(j: &mut Json, name: &str, cell: &Cell) {
    j.open(Some(name));
    j.number("taken", cell.calls.load(Relaxed));
    j.number("ns", cell.ns.load(Relaxed));
    j.number("bytes", cell.bytes.load(Relaxed));
    j.number("mac", cell.macs.load(Relaxed));
    j.open(Some("kernels"));
    for kernel in cell.kernels.iter().filter_map(read) {
        j.string(kernel.regime, kernel.name);
    }
    j.close();
    reasons(j, "declined", &cell.declined);
    j.close();
}

fn reasons(j: &mut Json, key: &str, counts: &[std::sync::atomic::AtomicU64; Reason::COUNT]) {
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
    use crate::stats;

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
        assert!(text.starts_with(r#"{"version":""#) && text.ends_with("}}"), "{text}");
        assert_eq!(text.matches('{').count(), text.matches('}').count());
    }
}
