//! Kernels that multiply two panels side by side, for CPUs with [`DataPath::Full`].

use super::*;
use crate::isa::avx512::Avx512;
use crate::micro::pair::{self, PairFn};

/// Fewer columns are one tile of the kernels of one panel.
const FEWEST_COLUMNS: usize = 9;

macro_rules! product {
    ($features:literal, $name:ident$(<$t:ident>)?) => {
        #[target_feature(enable = $features)]
        unsafe fn $name<$($t: Structure,)? const NC: usize>(
            panel: *const u8,
            apart: usize,
            act: *const u8,
            blocks: usize,
            dst: *const *mut f32,
            first: bool,
        ) {
            pair::$name::<Avx512, $($t,)? NC>(panel, apart, act, blocks, dst, first)
        }
    };
}
product!("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c", block32<T>);
product!("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c", super256<T>);
product!("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c", values);
product!("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c", pairs);

const fn table32<T: Structure>() -> &'static [PairFn] {
    const { &[block32::<T, 1>, block32::<T, 2>, block32::<T, 3>, block32::<T, 4>, block32::<T, 5>, block32::<T, 6>] }
}

const fn table256<T: Structure>() -> &'static [PairFn] {
    const { &[super256::<T, 1>, super256::<T, 2>, super256::<T, 3>, super256::<T, 4>, super256::<T, 5>, super256::<T, 6>] }
}

/// `$f` of 1, 2, ... 12 columns.
macro_rules! twelve {
    ($f:ident) => {
        &[$f::<1>, $f::<2>, $f::<3>, $f::<4>, $f::<5>, $f::<6>, $f::<7>, $f::<8>, $f::<9>, $f::<10>, $f::<11>, $f::<12>]
    };
}

/// The functions for a shape. The class of its codes makes no difference here.
const fn table(shape: Shape) -> &'static [PairFn] {
    match (shape.codes, shape.block, shape.sub, shape.min) {
        (Codes::Float(_), ..) => twelve!(values),
        (Codes::Bf16Pairs, ..) => twelve!(pairs),
        (_, 32, 16, false) => table32::<Of<32, 16, false, WIDE>>(),
        (_, 32, _, false) => table32::<Of<32, 32, false, WIDE>>(),
        (_, 32, _, true) => table32::<Of<32, 32, true, WIDE>>(),
        (_, _, 32, false) => table256::<Of<256, 32, false, WIDE>>(),
        (_, _, 256, false) => table256::<Of<256, 256, false, WHOLE>>(),
        (_, _, 256, true) => table256::<Of<256, 256, true, FOLDED>>(),
        (_, _, 32, true) => table256::<Of<256, 32, true, WIDE>>(),
        (_, _, _, false) => table256::<Of<256, 16, false, WIDE>>(),
        (_, _, _, true) => table256::<Of<256, 16, true, WIDE>>(),
    }
}

const fn of(one_panel: Kernel) -> Kernel {
    let domain = Domain { fewest_columns: FEWEST_COLUMNS, full_path_only: true, ..Domain::ALL };
    Kernel { pair: table(one_panel.shape), domain, ..one_panel }
}

pub(super) const fn kernel<W: Pack>() -> Kernel {
    of(avx512::kernel::<W>())
}

pub(super) static KERNELS: [Kernel; WeightType::ALL.len()] = every_weight!(kernel);

pub(super) const fn bf16() -> Kernel {
    of(avx512_bf16::kernel())
}

pub(super) static BF16: Kernel = bf16();
