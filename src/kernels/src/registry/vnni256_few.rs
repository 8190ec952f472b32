//! The kernel for few columns of Q3_K in 256-bit registers.

use super::*;
use crate::isa::vnni256::Vnni256;
use crate::pack::{Q3K, pack_records};

/// Most columns. Folding scales into the codes costs more than it saves for few columns. Zen 4, 2026-11-30, times without and
/// with it: four columns 213 us and 259, twelve 411 and 459, sixteen 519 and 519, 64 columns 1777 and 1569.
const MOST_COLUMNS: usize = 16;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn pack(src: *const u8, stride: usize, blocks: usize, panel: *mut u8) {
    for b in 0..blocks {
        let rows = Rows::new::<Q3K>(src, stride, b);
        pack_records::<Q3K, Vnni256, false>(
            &rows,
            panel.add(b * const { WeightType::Q3K.shape().panel_record(false) }),
        );
    }
}

pub(super) static KERNEL: Kernel = {
    let shape = WeightType::Q3K.shape();
    Kernel {
        shape,
        act: shape.act(false),
        pack,
        panel_record: shape.panel_record(false),
        domain: Domain { most_columns: MOST_COLUMNS, ..Domain::ALL },
        ..vnni256::with::<Q3K>(vnni256::micro(shape), &[])
    }
};
