//! Tests of the whole crate, by its public way of use, against [`reference`].
//!
//! Every test loops over the weight types and over the ISAs that this CPU has. The amount of work
//! is set by `ZEN5TURBO_TEST_CASES` (default 1, small enough for an emulator; 24 covers the full
//! cross product of shapes and blockings). `ZEN5TURBO_REQUIRE_AVX512=1` makes a CPU without AVX-512 VNNI a failure.
//! No threads and no processes are started: the emulator has neither.

mod data;
mod exact;
mod extremes;
mod guard;
mod harness;
mod products;
mod property;
mod quantise;
mod reference;
mod registry;
mod rows;

use crate::isa::Isa;
use crate::kernel::Kernel;
use crate::registry::kernels;

/// Factor on the number of cases.
fn scale() -> usize {
    let s = std::env::var("ZEN5TURBO_TEST_CASES").unwrap_or_else(|_| "1".into());
    s.parse().expect("ZEN5TURBO_TEST_CASES is a number")
}

/// Every kernel that this CPU can run.
fn every_kernel() -> impl Iterator<Item = &'static Kernel> {
    Isa::ALL.into_iter().filter_map(kernels).flatten()
}
