//! The kernels of a weight type by the number of columns of a matrix. The experts of one product have very different
//! numbers of columns, and each expert gets the best kernel for its own number.
//!
//! Figures: two threads, AMD EPYC, Zen 4, 2026-11-30, time of one product with the best kernel for the mean of all
//! experts, and with the best kernel for each expert. 128 experts of 768 x 2048 q4_K, 48 tokens that pick 8 experts
//! each: 5.3 ms, 4.7 ms. 256 experts of 512 x 2048, some picked much more often than others, 64 tokens: 4.3 ms, 3.6 ms.

use std::ptr;
use std::sync::OnceLock;

use zen5turbo_kernels::formats::{ActFormat, WeightType};
use zen5turbo_kernels::isa::Isa;
use zen5turbo_kernels::kernel::{Blocking, Kernel};

use crate::gate::state;
use crate::tuning;

/// The registry chooses the same kernel for all numbers of columns above this.
const MOST_FEW: usize = 64;

/// The row length for which kernels are chosen: rows of experts are short, and the choice does not depend on it.
const EXPERT_K: usize = 0;

/// The kernels of a weight type, each with the most columns for which it is chosen, from few columns to many.
pub struct ByColumns {
    kernels: Vec<(usize, &'static Kernel)>,
    /// The formats of activations of these kernels. Two products can share activations only if the formats are equal.
    formats: Vec<(usize, ActFormat)>,
}

impl ByColumns {
    /// The kernels of this process for a weight type. The type must have kernels.
    pub fn of(weight: WeightType) -> &'static Self {
        const ISAS: usize = Isa::Avx512 as usize + 1;
        static TABLES: [[OnceLock<ByColumns>; ISAS]; WeightType::ALL.len()] =
            [const { [const { OnceLock::new() }; ISAS] }; WeightType::ALL.len()];
        let isa = state::isa();
        TABLES[weight as usize][isa as usize]
            .get_or_init(|| Self::new(|columns| tuning::kernel(weight, EXPERT_K, columns)))
    }

    fn new(best: impl Fn(usize) -> Option<&'static Kernel>) -> Self {
        let mut kernels: Vec<(usize, &'static Kernel)> = Vec::new();
        for columns in (1..=MOST_FEW).chain([usize::MAX]) {
            let Some(kernel) = best(columns) else { continue };
            match kernels.last_mut() {
                Some((most, last)) if ptr::eq(*last, kernel) => *most = columns,
                _ => kernels.push((columns, kernel)),
            }
        }
        let formats = kernels.iter().map(|&(most, kernel)| (most, kernel.act)).collect();
        ByColumns { kernels, formats }
    }

    /// The kernel for this number of columns.
    #[inline]
    pub fn kernel(&self, columns: usize) -> &'static Kernel {
        let last = self.kernels.len() - 1;
        self.kernels[..last].iter().find(|&&(most, _)| columns <= most).unwrap_or(&self.kernels[last]).1
    }

    /// The formats of activations, each with the most columns for which it is used.
    pub fn formats(&self) -> &[(usize, ActFormat)] {
        &self.formats
    }

    /// Bytes from one quantised column to the next, enough for every format; a multiple of a cache line.
    pub fn column_bytes(&self, k: usize) -> usize {
        self.formats.iter().map(|(_, act)| act.bytes(k, 1)).max().unwrap_or(0).next_multiple_of(64)
    }

    /// Bytes of scratch, enough for every kernel.
    pub fn scratch_bytes(&self, k: usize, blocking: &Blocking) -> usize {
        self.kernels.iter().map(|(_, kernel)| kernel.scratch_bytes(k, blocking)).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zen5turbo_kernels::registry;
    use zen5turbo_kernels::width::DataPath;

    #[test]
    fn every_number_of_columns_gets_the_kernel_of_the_registry() {
        for weight in WeightType::ALL {
            for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
                for path in [DataPath::Full, DataPath::Split] {
                    let best = |columns| registry::kernel_on(path, isa, weight, (EXPERT_K, columns));
                    let table = ByColumns::new(best);
                    for columns in (1..40).chain([500, usize::MAX]) {
                        let wanted = best(columns).expect("a kernel");
                        assert!(ptr::eq(table.kernel(columns), wanted), "{weight:?} {isa:?} {columns}");
                        assert!(table.column_bytes(4096) >= wanted.act.bytes(4096, 1));
                    }
                }
            }
        }
    }
}
