//! F16 weights that are rounded to BF16 while they are packed, as are the activations. `vdpbf16ps` multiplies twice as many a
//! cycle as FMA. The results are not ggml's. So a user has to ask for these kernels.

use super::*;
use crate::isa::avx512::Avx512;
use crate::pack::{Bf16Pairs, F16, Weight, pack_f16_as_bf16};

/// Fewer columns are computed exactly, without panels. With 33 columns 43 GMAC/s exact, 70 rounded (`kernel-choices`).
const FEWEST_COLUMNS: usize = 33;

/// A [`crate::kernel::PackFn`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")]
unsafe fn pack(src: *const u8, stride: usize, blocks: usize, panel: *mut u8) {
    for b in 0..blocks {
        let rows = Rows::new::<F16>(src, stride, b);
        pack_f16_as_bf16::<Avx512>(&rows, panel.add(b * const { Bf16Pairs::SHAPE.panel_record(false) }));
    }
}

const fn of(bf16: Kernel) -> Kernel {
    let domain = Domain { fewest_columns: FEWEST_COLUMNS, ..bf16.domain };
    Kernel { weight: WeightType::F16, pack, gemv: &[], domain, ..bf16 }
}

static SPLIT: Kernel = of(avx512_bf16::kernel());
static FULL: Kernel = of(avx512_pair::bf16());

/// The kernel for `columns` columns, where this CPU has one.
pub(super) fn kernel(path: DataPath, isa: Isa, columns: usize) -> Option<&'static Kernel> {
    let kernel = if path == DataPath::Full { &FULL } else { &SPLIT };
    (isa == Isa::Avx512 && has_bf16() && columns >= FEWEST_COLUMNS).then_some(kernel)
}
