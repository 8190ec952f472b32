//! The kernels of a weight type by the number of columns that meet a matrix. The experts of one product
//! meet very different numbers of columns: each gets the kernel that is best for its own. (Two threads, AMD EPYC, Zen 4,
//! 2026-11-30, one product with the kernel for the mean of all experts, and so: 128 experts of 768 x 2048 q4_K, 48 tokens with
//! 8 experts each, 5.3 ms, 4.7 ms; 256 of 512 x 2048, some much more popular than others, 64 tokens 4.3 ms, 3.6 ms.)

use std::ptr;
use std::sync::OnceLock;

use zen5turbo_kernels::formats::{ActFormat, WeightType};
use zen5turbo_kernels::isa::Isa;
use zen5turbo_kernels::kernel::{Blocking, Kernel};
use zen5turbo_kernels::registry;

use crate::gate::state;

/// No kernel for few columns is chosen for more than this.
const MOST_FEW: usize = 64;

/// Rows of experts are short: no choice depends on their length.
const EXPERT_K: usize = 0;

/// One kernel with the most columns it is chosen for, from few columns to many.
pub struct ByColumns {
    kernels: Vec<(usize, &'static Kernel)>,
    /// The same with the formats of activations, which tell whether two products can share them.
    formats: Vec<(usize, ActFormat)>,
}

impl ByColumns {
    /// The kernels of this process for a weight type that has any.
    pub fn of(weight: WeightType) -> &'static Self {
        const ISAS: usize = Isa::Avx512 as usize + 1;
        static TABLES: [[OnceLock<ByColumns>; ISAS]; WeightType::ALL.len()] =
            [const { [const { OnceLock::new() }; ISAS] }; WeightType::ALL.len()];
        let isa = state::isa();
        TABLES[weight as usize][isa as usize].get_or_init(|| {
            Self::new(|columns| registry::kernel_on(state::data_path(), isa, weight, (EXPERT_K, columns)))
        })
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

    /// The kernel for so many columns.
    #[inline]
    pub fn kernel(&self, columns: usize) -> &'static Kernel {
        let last = self.kernels.len() - 1;
        self.kernels[..last].iter().find(|&&(most, _)| columns <= most).unwrap_or(&self.kernels[last]).1
    }

    /// The formats of activations, each with the most columns it is made for.
    pub fn formats(&self) -> &[(usize, ActFormat)] {
        &self.formats
    }

    /// Bytes from column to column of quantised activations, in whichever format; a multiple of a cache line.
    pub fn column_bytes(&self, k: usize) -> usize {
        self.formats.iter().map(|(_, act)| act.bytes(k, 1)).max().unwrap_or(0).next_multiple_of(64)
    }

    /// Scratch for whichever kernel.
    pub fn scratch_bytes(&self, k: usize, blocking: &Blocking) -> usize {
        self.kernels.iter().map(|(_, kernel)| kernel.scratch_bytes(k, blocking)).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
