//! F16 weights rounded to BF16 while they are packed, activations too: products by `vdpbf16ps`, twice as many a cycle as
//! by FMA. Not ggml's numbers, so that only who asks for them gets them.

use super::*;
use crate::isa::avx512::Avx512;
use crate::pack::{Bf16Pairs, F16, Weight, pack_f16_as_bf16};

/// Products of fewer columns are computed without panels, exactly. (AMD EPYC, Zen 4, 2026-11-30, weights in memory,
/// K=2048, GMAC/s exact and rounded: N=33 43, 70; N=64 49, 86; N=128 53, 98; N=512 53, 108.)
const FEWEST_COLUMNS: usize = 33;

/// As of [`crate::kernel::PackFn`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")]
unsafe fn pack(src: *const u8, stride: usize, blocks: usize, panel: *mut u8) {
    for b in 0..blocks {
        let rows = Rows::new::<F16>(src, stride, b);
        pack_f16_as_bf16::<Avx512>(&rows, panel.add(b * const { Bf16Pairs::SHAPE.panel_record(false) }));
    }
}

const fn of(bf16: Kernel) -> Kernel {
    Kernel { weight: WeightType::F16, pack, direct: &[], fewest_columns: FEWEST_COLUMNS, ..bf16 }
}

static SPLIT: Kernel = of(avx512_bf16::kernel());
static FULL: Kernel = of(avx512_pair::bf16());

/// The kernel, where this CPU has one for so many columns.
pub(super) fn kernel(path: DataPath, isa: Isa, columns: usize) -> Option<&'static Kernel> {
    let kernel = if path == DataPath::Full { &FULL } else { &SPLIT };
    (isa == Isa::Avx512 && Bf16::new().is_some() && columns >= FEWEST_COLUMNS).then_some(kernel)
}
