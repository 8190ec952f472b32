//! Counters: which operations were computed here, which were left to ggml, and why.
//!
//! Every folder uses the counters, and this folder uses no other one. [`crate::gate::report`] makes the statistics
//! document from them.

mod counts;
mod live;
mod names;
mod place;

pub use counts::{
    any, computed, computed_part, count_declined, count_taken, declined, event, event_once, graph, graph_ended,
    other_declined, other_taken, taken,
};
pub use live::{flush_names, publish};
pub use names::{TYPES, add_library, kernels_in_use, libraries, names_changed, set_kernel, set_type_name, type_name};
pub use place::counters;
pub use zen5turbo_telemetry::OpKind;

/// In a forked child: sets every counter to 0. Only loads, stores and system calls.
pub fn forget() {
    live::forget();
    counts::forget();
}
