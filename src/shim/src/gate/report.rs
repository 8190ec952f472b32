//! The statistics of this process, see [`Document`].

mod memory;

use zen5turbo_host::proc;
use zen5turbo_telemetry::document::{
    About, Blas, ByName, Cpu, Document, Gate, Library, Names, SegmentText, Tuning, Words,
};
use zen5turbo_telemetry::{GRAPHS_BY_COLUMNS, Member, OpKind};

use super::state;
use crate::config::{KNOBS, config};
use crate::graph::{blas_device, blas_route};
use crate::reason::Reason;
use crate::stats::{self, counters, kernels_in_use, type_name};
use crate::{rows, threads, tuning};

/// The statistics as JSON. Counters that are still 0 are left out of lists by name.
#[must_use]
pub fn json() -> String {
    let mut document = Document::counted(about(), counters(), &Own);
    document.computed = Some(stats::computed());
    document.direct = Some(rows::report());
    memory::complete(&mut document.memory);
    document.blas = Some(Blas { calls: blas_route::calls(), refused: blas_device::refused() });
    document.json()
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

    fn kernels(&self, operation: usize, weight_type: usize) -> ByName<String> {
        let kernels = kernels_in_use(OpKind::ALL[operation], weight_type);
        kernels.map(|kernel| (kernel.regime.to_owned(), kernel.name.to_owned())).collect()
    }
}

/// The text for a program that reads the counters from shared memory, see [`SegmentText`].
pub fn names() -> String {
    let types = 0..=stats::TYPES;
    let kernels_of = |kind: OpKind| {
        let kernels = types.clone().map(|ty| (type_name(ty), Own.kernels(kind as usize, ty)));
        kernels.filter(|(_, kernels)| !kernels.is_empty()).collect()
    };
    let text = SegmentText {
        about: about(),
        names: Words {
            ops: OpKind::ALL.map(|kind| kind.as_str().to_owned()).into(),
            types: types.clone().map(type_name).collect(),
            reasons: Reason::ALL.iter().map(|reason| reason.as_str().to_owned()).collect(),
            graphs: GRAPHS_BY_COLUMNS.map(str::to_owned).into(),
        },
        kernels_in_use: OpKind::ALL.map(|kind| (kind.as_str().to_owned(), kernels_of(kind))).into(),
    };
    text.json()
}

/// Everything that is not counted.
fn about() -> About {
    let config = config();
    let (file, status) = tuning::report();
    let gain = tuning::reported_gain_of_copies();
    About {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: u64::from(std::process::id()),
        program: proc::program_name(),
        state: state::current().as_str().to_owned(),
        cpu: cpu(),
        gate: Gate { mode: config.gate.as_str().to_owned(), decision: state::decision().to_owned() },
        tier: state::tier().as_str().to_owned(),
        isa: state::isa().name().to_owned(),
        kernels: config.kernels.as_str().to_owned(),
        config: KNOBS.iter().map(|knob| (knob.name.to_owned(), knob.value(config))).collect(),
        tuning: Tuning {
            file,
            status: status.to_owned(),
            threads: Some(tuning::threads_of_one_column()).filter(|&n| n != usize::MAX).map(|n| n as u64),
            copies_hundredths: gain.map(u64::from),
            copies_pay: gain.map(|_| tuning::copies_pay()),
        },
        threads_limit: threads::limit(),
        ggml: stats::libraries()
            .map(|library| Library { path: library.path.clone(), status: library.status.to_owned() })
            .collect(),
    }
}

fn cpu() -> Cpu {
    let cpu = state::cpu();
    let usable = cpu.features.iter().filter(|(_, usable)| *usable);
    Cpu {
        vendor: cpu.vendor.clone(),
        brand: cpu.brand.clone(),
        family: cpu.family.into(),
        model: cpu.model.into(),
        stepping: cpu.stepping.into(),
        zen5: cpu.is_zen5(),
        features: usable.map(|(name, _)| (*name).to_owned()).collect(),
    }
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
