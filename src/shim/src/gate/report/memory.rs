//! What only this process knows of the member `memory` of the statistics.

use std::sync::atomic::Ordering::Relaxed;

use zen5turbo_telemetry::document::{Memory, Numa};

use crate::buffers::nt_copy;
use crate::placement;
use crate::weights::sources;

/// Adds it to what is counted.
pub fn complete(memory: &mut Memory) {
    memory.weights.now = Some(sources::copied()[0] as u64);
    memory.numa = Some(numa());
    memory.copies.status = Some(nt_copy::status().to_owned());
    memory.copies.from = Some(nt_copy::FAST_PATH.large.load(Relaxed) as u64);
}

fn numa() -> Numa {
    let report = placement::report();
    Numa {
        mode: report.mode.to_owned(),
        nodes: report.nodes.iter().map(ToString::to_string).collect(),
        placed: report.placed.into_iter().map(|(node, bytes)| (node.to_string(), bytes)).collect(),
        interleaved: report.interleaved,
        failed: report.failed,
        seats: report.seats as u64,
        moved: report.moved,
    }
}
