//! Tests of the whole crate, by its public way of use, against [`reference`].
//!
//! Every test loops over the weight types and over the ISAs that this CPU has. The amount of work
//! is set by `ZEN5TURBO_TEST_CASES` (default 1, small enough for an emulator; 24 covers the full
//! cross product of shapes and blockings). `ZEN5TURBO_REQUIRE=avx512` makes a CPU without AVX-512 VNNI a failure.
//! No threads and no processes are started: the emulator has neither. [`arbitrary`] makes inputs from a fuzzer's bytes;
//! the folder `fuzz` builds it, and the helpers it needs, with the feature `fuzzing`.

#[cfg_attr(not(feature = "fuzzing"), allow(dead_code))]
pub mod arbitrary;
mod attention;
mod data;
#[cfg(test)]
mod exact;
#[cfg(test)]
mod extremes;
#[cfg(test)]
mod fused;
mod gemv;
mod guard;
mod harness;
#[cfg(test)]
mod one_order;
#[cfg(test)]
mod ops;
#[cfg(test)]
mod ops_rows;
#[cfg(test)]
mod products;
#[cfg(test)]
mod property;
mod quantise;
mod reference;
#[cfg(test)]
mod registry;
#[cfg(test)]
mod repacked;

use crate::isa::{DataPath, Isa};
use crate::kernel::Kernel;
use crate::registry::{f16_as_bf16, kernels};

/// Factor on the number of cases.
fn scale() -> usize {
    let s = std::env::var("ZEN5TURBO_TEST_CASES").unwrap_or_else(|_| "1".into());
    s.parse().expect("ZEN5TURBO_TEST_CASES is a number")
}

/// Every kernel that this CPU can run.
fn every_kernel() -> impl Iterator<Item = &'static Kernel> {
    let rounding = [DataPath::Split, DataPath::Full].into_iter();
    let rounding = rounding.filter_map(|path| f16_as_bf16(path, Isa::Avx512, usize::MAX));
    Isa::ALL.into_iter().filter_map(kernels).flatten().chain(rounding)
}
