//! 512 or 256 bits: on a CPU that splits 512-bit operations, or lowers its clock for them, 256-bit registers can be
//! faster. This is measured, because no CPU flag tells it.

use crate::formats::WeightType;
use crate::isa::Isa;
use crate::kernel::Kernel;
use crate::registry::kernel;
use core::arch::x86_64::_rdtsc;

pub use crate::isa::DataPath;

/// What [`measure`] found: ticks of the time stamp counter for the same product, the fastest turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Width {
    /// With [`Isa::Avx512`].
    pub bits512: u64,
    /// With [`Isa::Vnni256`].
    pub bits256: u64,
}

impl Width {
    /// Whether 256 bits win by more than a tenth. 512 bits need fewer instructions, which leaves more to a second thread of
    /// the core. Noise crosses a limit of 97 % now and then on a busy virtual machine where 256 bits need 104 %
    /// (`kernel-choices`).
    pub fn is_narrow(self) -> bool {
        self.bits256 * 100 < self.bits512 * 90
    }

    /// Whether 512-bit operations are split. If not, 256 bits need nearly twice the time; on Zen 4 they need 104 %
    /// (`kernel-choices`).
    pub fn data_path(self) -> DataPath {
        if self.bits256 * 100 < self.bits512 * 130 { DataPath::Split } else { DataPath::Full }
    }
}

const TURNS: usize = 10;
/// Most series of turns: one, unless 256 bits seem to win. On a Zen 4 (a virtual machine, 2026-11-30) noise crossed the limit
/// with one series in one of six processes of a run, and in none of 65 of another; such a process leaves single columns to ggml.
const SERIES: usize = 16;
const REPETITIONS: usize = 32;
/// Columns of a tile for which both widths have a micro-kernel.
const COLUMNS: usize = 4;

/// Times the micro-kernel of Q4_K in both widths, on operands in the level-1 cache. Takes about 0.1 ms, most of
/// it to power the upper halves of the registers; 1 ms where 256 bits win. `None` without AVX-512 VNNI.
pub fn measure() -> Option<Width> {
    let wide = kernel(Isa::Avx512, WeightType::Q4K, usize::MAX)?;
    let narrow = kernel(Isa::Vnni256, WeightType::Q4K, usize::MAX)?;
    let panel = vec![0u8; wide.panel_record];
    let act = vec![0u8; wide.act.bytes(wide.shape.block, COLUMNS)];
    let mut out = [[0f32; 16]; COLUMNS];
    let columns = out.each_mut().map(|c| c.as_mut_ptr());
    let time = |kernel: &Kernel| {
        // SAFETY: `rdtsc` reads a counter and touches no memory.
        let start = unsafe { _rdtsc() };
        for _ in 0..REPETITIONS {
            // SAFETY: one record of panel and tile, in formats that both kernels share; sixteen floats in
            // each of the columns; the registry gave the kernels.
            unsafe { kernel.micro[COLUMNS - 1](panel.as_ptr(), act.as_ptr(), 1, columns.as_ptr(), 16, true) };
        }
        // SAFETY: `rdtsc` reads a counter and touches no memory.
        unsafe { _rdtsc() }.saturating_sub(start)
    };
    let mut best = Width { bits512: u64::MAX / 128, bits256: u64::MAX / 128 };
    for _ in 0..SERIES {
        for _ in 0..TURNS {
            best.bits512 = best.bits512.min(time(wide));
            best.bits256 = best.bits256.min(time(narrow));
        }
        if !best.is_narrow() {
            break;
        }
    }
    Some(best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zen5turbo_skip::{Need, skip};

    #[test]
    fn both_widths_are_measured_where_they_can_run() {
        let both = Isa::Avx512.available() && Isa::Vnni256.available();
        assert_eq!(measure().is_some(), both);
        if let Some(w) = measure() {
            assert!(w.bits512 < u64::MAX / 128 && w.bits256 < u64::MAX / 128, "{w:?}");
        }
    }

    #[test]
    fn narrow_registers_must_win_clearly() {
        let narrow = |bits512, bits256| Width { bits512, bits256 }.is_narrow();
        assert!(!narrow(100, 100) && !narrow(100, 90) && !narrow(100, 300));
        assert!(narrow(100, 89));
    }

    #[test]
    fn a_split_data_path_shows() {
        let path = |bits512, bits256| Width { bits512, bits256 }.data_path();
        assert_eq!([path(100, 90), path(100, 104), path(100, 129)], [DataPath::Split; 3]);
        assert_eq!([path(100, 130), path(100, 200)], [DataPath::Full; 2]);
    }

    #[test]
    fn both_widths_take_the_same_operands() {
        let both = [Isa::Avx512, Isa::Vnni256].map(|isa| kernel(isa, WeightType::Q4K, usize::MAX));
        let [Some(wide), Some(narrow)] = both else {
            return skip(Need::Avx512, "this CPU has no AVX-512 VNNI, and so one width");
        };
        assert!(wide.shape == narrow.shape && wide.act == narrow.act);
        assert!(wide.widest_tile() >= COLUMNS && narrow.widest_tile() >= COLUMNS);
    }
}
