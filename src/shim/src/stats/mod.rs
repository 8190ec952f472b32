//! What was taken over and what was left to the original, and why.
//!
//! This is the part that counts: every other part of the library may use it, and it knows none of them. What is counted is
//! gathered into the statistics document by [`crate::gate::report`].

mod counts;
mod live;
mod names;
mod place;

pub use counts::{
    any, computed, computed_part, count_declined, count_taken, declined, event, event_once, graph, graph_ended, taken,
};
pub use live::{flush_names, publish};
pub use names::{TYPES, add_library, kernels_in_use, libraries, names_changed, set_kernel, set_type_name, type_name};
pub use place::counters;
pub use zen5turbo_telemetry::OpKind;

/// Sets every counter to 0: what a forked child starts with. Only loads, stores and system calls.
pub fn forget() {
    live::forget();
    counts::forget();
}
