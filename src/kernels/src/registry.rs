//! The list of kernels: every weight type on every ISA. To add a type: one file in [`crate::pack`], its line in
//! [`WeightType`] and its line here.

use crate::formats::{Codes, Order, SPACED, Shape, WeightType};
use crate::isa::{DataPath, Isa, has_bf16};
use crate::kernel::{Domain, GEMV_LEAST_K, Kernel};
use crate::micro::dp::Structure;
use crate::pack::{Pack, Rows};
use crate::prefetch::GemvPrefetch;

/// The parts of a shape that change a micro-kernel's code. Types with the same parts share a micro-kernel.
struct Of<const BLOCK: usize, const SUB: usize, const MIN: bool, const CODES: u8>;

const WIDE: u8 = 0;
const NARROW: u8 = 1;
const SIGNED: u8 = 2;
const FLOAT: u8 = 3;
const PAIRS: u8 = 4;
const WHOLE: u8 = 5;
const FOLDED: u8 = 6;

impl<const BLOCK: usize, const SUB: usize, const MIN: bool, const CODES: u8> Structure for Of<BLOCK, SUB, MIN, CODES> {
    const SHAPE: Shape = Shape {
        block: BLOCK,
        sub: SUB,
        // only Q2_K has folded codes and a minimum: for sixteen elements
        sums: if CODES == FOLDED && MIN { 16 } else { SUB },
        min: MIN,
        offset: 0,
        codes: match CODES {
            WIDE => Codes::Wide,
            NARROW => Codes::Narrow,
            WHOLE => Codes::Whole,
            FOLDED => Codes::Folded,
            _ => Codes::Signed,
        },
    };
}

/// An array of `$f::<Weight>()` for all weight types.
macro_rules! every_weight {
    ($f:ident) => {{
        use crate::pack::*;
        [
            $f::<Q4_0>(),
            $f::<Q4_1>(),
            $f::<Q5_0>(),
            $f::<Q5_1>(),
            $f::<Q8_0>(),
            $f::<Q2K>(),
            $f::<Q3K>(),
            $f::<Q4K>(),
            $f::<Q5K>(),
            $f::<Q6K>(),
            $f::<Iq4Nl>(),
            $f::<Iq4Xs>(),
            $f::<Mxfp4>(),
            $f::<Iq2Xxs>(),
            $f::<Iq2Xs>(),
            $f::<Iq2S>(),
            $f::<Iq3Xxs>(),
            $f::<Iq3S>(),
            $f::<Iq1S>(),
            $f::<Iq1M>(),
            $f::<Tq1_0>(),
            $f::<Tq2_0>(),
            $f::<Nvfp4>(),
            $f::<Q1_0>(),
            $f::<Q2_0>(),
            $f::<F16>(),
            $f::<Bf16>(),
            $f::<F32>(),
        ]
    }};
}

/// A module with the kernels of one ISA. `$attr` enables its target features. `$block32` and `$super256` are the generic
/// micro-kernels, `$nc` the tile widths, `$fc` the tile widths of the float types, `$gc` the columns of their products
/// without panels.
macro_rules! isa_kernels {
    ($name:ident, $isa:expr, $lanes:ty, $(#[$attr:meta])?, $quantize:path,
     $block32:ident, $super256:ident, $codes:ident, [$($nc:literal),*],
     [$($fc:literal),*], [$($gc:literal),*]) => {
        mod $name {
            use super::*;
            use crate::gemv::GemvFn;
            use crate::micro::MicroFn;
            use crate::pack::FloatWeight;

            $(#[$attr])?
            unsafe fn block32<T: Structure, const NC: usize>(
                panel: *const u8, act: *const u8, blocks: usize, dst: *const *mut f32, rows: usize, first: bool,
            ) {
                $block32!($lanes, T, NC, (panel, act, blocks, dst, rows, first))
            }

            $(#[$attr])?
            unsafe fn super256<T: Structure, const NC: usize>(
                panel: *const u8, act: *const u8, blocks: usize, dst: *const *mut f32, rows: usize, first: bool,
            ) {
                $super256!($lanes, T, NC, (panel, act, blocks, dst, rows, first))
            }

            $(#[$attr])?
            unsafe fn pack<W: Pack>(src: *const u8, stride: usize, blocks: usize, panel: *mut u8) {
                for b in 0..blocks {
                    let rows = Rows::new::<W>(src, stride, b);
                    let bytes = const { panel_record::<W>() };
                    W::pack::<$lanes>(&rows, panel.add(b * bytes));
                }
            }

            const ACC16: bool = <$lanes as crate::isa::Lanes>::ACC16;

            /// The structure of products on this ISA. That of pairs of `bf16` is their own.
            const fn shape<W: Pack>() -> Shape {
                match W::SHAPE.codes {
                    Codes::Bf16Pairs => W::SHAPE,
                    _ => W::TYPE.shape_on(ACC16),
                }
            }

            const fn panel_record<W: Pack>() -> usize {
                W::RECORDS * shape::<W>().panel_record(ACC16)
            }

            $(#[$attr])?
            unsafe fn values<const NC: usize>(
                panel: *const u8, act: *const u8, blocks: usize, dst: *const *mut f32, rows: usize, first: bool,
            ) {
                crate::micro::float::values::<$lanes, NC>(panel, act, blocks, dst, rows, first)
            }

            $(#[$attr])?
            unsafe fn gemv<W: FloatWeight, const NC: usize>(
                weights: *const u8, stride: usize, rows: usize, k: usize,
                act: *const u8, act_stride: usize, dst: *const *mut f32, prefetch: GemvPrefetch,
            ) {
                crate::gemv::float::values::<$lanes, W, NC>(weights, stride, rows, k, act, act_stride, dst, prefetch)
            }

            const fn table_gemv<W: FloatWeight>() -> &'static [GemvFn] {
                const { &[$(gemv::<W, $gc>),*] }
            }

            const fn table32<const SUB: usize, const MIN: bool, const CODES: u8>() -> &'static [MicroFn] {
                const { &[$(block32::<Of<32, SUB, MIN, CODES>, $nc>),*] }
            }

            const fn table256<const SUB: usize, const MIN: bool, const CODES: u8>() -> &'static [MicroFn] {
                const { &[$(super256::<Of<256, SUB, MIN, CODES>, $nc>),*] }
            }

            pub(super) const fn micro(s: Shape) -> &'static [MicroFn] {
                match (s.block, s.sub, s.min, $codes(s.codes)) {
                    (32, 32, false, WIDE) => table32::<32, false, WIDE>(),
                    (32, 32, false, SIGNED) => table32::<32, false, SIGNED>(),
                    (32, 32, true, WIDE) => table32::<32, true, WIDE>(),
                    (32, 32, true, NARROW) => table32::<32, true, NARROW>(),
                    (32, 16, false, NARROW) => table32::<16, false, NARROW>(),
                    (256, 16, false, NARROW) => table256::<16, false, NARROW>(),
                    (256, 16, true, NARROW) => table256::<16, true, NARROW>(),
                    (256, 32, true, WIDE) => table256::<32, true, WIDE>(),
                    (256, 32, true, NARROW) => table256::<32, true, NARROW>(),
                    (256, 32, false, WIDE) => table256::<32, false, WIDE>(),
                    (256, 256, false, WHOLE | FOLDED) => table256::<256, false, WHOLE>(),
                    (256, 256, true, FOLDED) => table256::<256, true, FOLDED>(),
                    (256, 32, false, SIGNED) => table256::<32, false, SIGNED>(),
                    (256, 16, false, SIGNED) => table256::<16, false, SIGNED>(),
                    (_, _, false, FLOAT) => const { &[$(values::<$fc>),*] },
                    _ => panic!("no micro-kernel for this shape"),
                }
            }

            pub(super) const fn kernel<W: Pack>() -> Kernel {
                let gemv = match W::TYPE {
                    WeightType::F16 => table_gemv::<crate::pack::F16>(),
                    WeightType::Bf16 => table_gemv::<crate::pack::Bf16>(),
                    WeightType::F32 => table_gemv::<crate::pack::F32>(),
                    _ => &[],
                };
                with::<W>(micro(shape::<W>()), gemv)
            }

            pub(super) const fn with<W: Pack>(
                micro: &'static [MicroFn], gemv: &'static [GemvFn],
            ) -> Kernel {
                Kernel {
                    isa: $isa,
                    weight: W::TYPE,
                    shape: shape::<W>(),
                    act: shape::<W>().act(ACC16),
                    quantize: $quantize,
                    pack: pack::<W>,
                    micro,
                    pair: &[],
                    gemv,
                    fused: &[],
                    gemv_prefetch: &[],
                    domain: Domain::ALL,
                    panel_record: panel_record::<W>(),
                }
            }

            pub(super) static KERNELS: [Kernel; WeightType::ALL.len()] = every_weight!(kernel);
        }
    };
}

/// A module with the kernel for BF16 of the ISA `$base` on CPUs with AVX512_BF16.
macro_rules! bf16_kernel {
    ($name:ident, $base:ident, $lanes:ty, #[$attr:meta], [$($nc:literal),*], [$($gc:literal),*]) => {
        mod $name {
            use super::*;

            #[$attr]
            unsafe fn pairs<const NC: usize>(
                panel: *const u8, act: *const u8, blocks: usize, dst: *const *mut f32, rows: usize, first: bool,
            ) {
                crate::micro::float::pairs::<$lanes, NC>(panel, act, blocks, dst, rows, first)
            }

            #[$attr]
            unsafe fn gemv<const NC: usize>(
                weights: *const u8, stride: usize, rows: usize, k: usize,
                act: *const u8, act_stride: usize, dst: *const *mut f32, prefetch: GemvPrefetch,
            ) {
                crate::gemv::float::pairs::<$lanes, NC>(weights, stride, rows, k, act, act_stride, dst, prefetch)
            }

            pub(super) const fn kernel() -> Kernel {
                $base::with::<crate::pack::Bf16Pairs>(&[$(pairs::<$nc>),*], &[$(gemv::<$gc>),*])
            }

            pub(super) static KERNEL: Kernel = kernel();
        }
    };
}

macro_rules! dp_block32 {
    ($lanes:ty, $t:ty, $nc:ident, $args:tt) => { crate::micro::dp::block32::<$lanes, $t, $nc> $args };
}
macro_rules! dp_super256 {
    ($lanes:ty, $t:ty, $nc:ident, $args:tt) => { crate::micro::dp::super256::<$lanes, $t, $nc> $args };
}
macro_rules! madd_block32 {
    ($lanes:ty, $t:ty, $nc:ident, $args:tt) => { crate::micro::madd::block32::<$t, $nc> $args };
}
macro_rules! madd_super256 {
    ($lanes:ty, $t:ty, $nc:ident, $args:tt) => { crate::micro::madd::super256::<$t, $nc> $args };
}

/// The code class as a micro-kernel parameter.
const fn codes(c: Codes) -> u8 {
    match c {
        Codes::Wide => WIDE,
        Codes::Narrow => NARROW,
        Codes::Signed => SIGNED,
        Codes::Float(_) => FLOAT,
        Codes::Bf16Pairs => PAIRS,
        Codes::Whole => WHOLE,
        Codes::Folded => FOLDED,
    }
}

isa_kernels!(
    scalar, Isa::Scalar, crate::isa::scalar::Scalar, , crate::act::quantize_scalar,
    dp_block32, dp_super256, codes, [1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4]
);
isa_kernels!(
    avx2, Isa::Avx2, crate::isa::avx2::Avx2, #[target_feature(enable = "avx2,fma,f16c")], crate::act::quantize_avx2,
    madd_block32, madd_super256, codes, [1, 2, 3, 4], [1, 2, 3, 4, 5, 6], [1, 2, 3, 4]
);
isa_kernels!(
    vnni256, Isa::Vnni256, crate::isa::vnni256::Vnni256,
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")], crate::act::quantize_avx512,
    dp_block32, dp_super256, codes, [1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], [1, 2, 3, 4]
);
isa_kernels!(
    avx512, Isa::Avx512, crate::isa::avx512::Avx512,
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")], crate::act::quantize_avx512,
    dp_block32, dp_super256, codes, [1, 2, 3, 4, 5, 6, 7, 8],
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16], [1, 2, 3, 4, 5, 6]
);
bf16_kernel!(
    vnni256_bf16, vnni256, crate::isa::vnni256::Vnni256,
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")],
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], [1, 2, 3, 4]
);
bf16_kernel!(
    avx512_bf16, avx512, crate::isa::avx512::Avx512,
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")],
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16], [1, 2, 3, 4, 5, 6]
);

// below the macros, which they use
mod avx512_fused;
mod avx512_gemv;
mod avx512_pair;
mod f16_as_bf16;
mod one_order;
mod vnni256_few;

/// The kernels of an ISA. Of two kernels for a product, the later one is faster.
const fn lists(isa: Isa) -> [&'static [Kernel]; 7] {
    use core::slice::from_ref;
    match isa {
        Isa::Scalar => [&scalar::KERNELS, &[], &[], &[], &[], &[], &[]],
        Isa::Avx2 => [&avx2::KERNELS, &[], &[], &[], &[], &[], &[]],
        Isa::Vnni256 => {
            [&vnni256::KERNELS, from_ref(&vnni256_bf16::KERNEL), from_ref(&vnni256_few::KERNEL), &[], &[], &[], &[]]
        }
        Isa::Avx512 => [
            &avx512::KERNELS,
            from_ref(&avx512_bf16::KERNEL),
            &avx512_pair::KERNELS,
            from_ref(&avx512_pair::BF16),
            &avx512_fused::KERNELS,
            &avx512_gemv::KERNELS,
            &avx512_gemv::TWO,
        ],
    }
}

/// The kernels of one ISA and weight type, from the fastest on.
type Choice = [Option<&'static Kernel>; 7];

/// The choices by ISA and weight type. So a product asks seven kernels at most.
static CHOICES: [[Choice; WeightType::ALL.len()]; Isa::ALL.len()] = {
    let mut all = [[[None; 7]; WeightType::ALL.len()]; Isa::ALL.len()];
    let mut isa = 0;
    while isa < all.len() {
        let lists = lists(Isa::ALL[isa]);
        let mut l = 0;
        while l < lists.len() {
            let mut i = 0;
            while i < lists[l].len() {
                let kernel = &lists[l][i];
                all[isa][kernel.weight as usize][lists.len() - 1 - l] = Some(kernel);
                i += 1;
            }
            l += 1;
        }
        isa += 1;
    }
    all
};

/// Whether this CPU can run a kernel of an available ISA.
fn runs(kernel: &Kernel) -> bool {
    kernel.shape.codes != Codes::Bf16Pairs || has_bf16()
}

/// The kernels of `isa` that this CPU can run: one for each of [`WeightType::ALL`], in that order, and behind them faster
/// ones for some types, numbers of columns or CPUs. `None` where the CPU lacks the ISA.
pub fn kernels(isa: Isa) -> Option<Vec<&'static Kernel>> {
    isa.available().then(|| lists(isa).into_iter().flatten().filter(|kernel| runs(kernel)).collect())
}

/// The fastest kernel for short rows of one weight type and a number of columns, on CPUs with [`DataPath::Full`].
pub fn kernel(isa: Isa, weight: WeightType, columns: usize) -> Option<&'static Kernel> {
    kernel_on(DataPath::Full, isa, weight, (0, columns))
}

/// The fastest kernel for one weight type and `columns` columns of `k` elements. `None` where the CPU lacks the ISA.
pub fn kernel_on(
    path: DataPath,
    isa: Isa,
    weight: WeightType,
    (k, columns): (usize, usize),
) -> Option<&'static Kernel> {
    let choice = isa.available().then_some(&CHOICES[isa as usize][weight as usize])?;
    choice.iter().flatten().copied().find(|kernel| kernel.domain.contains(path, k, columns) && runs(kernel))
}

/// The kernel that rounds F16 weights and activations to BF16. `None` where there is none, and for few columns, for which
/// exact products are faster. [`kernel_on`] never gives it.
pub fn f16_as_bf16(path: DataPath, isa: Isa, columns: usize) -> Option<&'static Kernel> {
    f16_as_bf16::kernel(path, isa, columns)
}

/// The fastest kernel of those that give a result the same bits for every number of columns and every cut of the matrix, if rows
/// are not cut: with [`Blocking::in_one_piece`](crate::kernel::Blocking::in_one_piece). `None` where the CPU lacks the ISA.
pub fn in_one_order(
    path: DataPath,
    isa: Isa,
    weight: WeightType,
    (k, columns): (usize, usize),
) -> Option<&'static Kernel> {
    one_order::for_weights(path, isa, weight, (k, columns))
}

/// The same for matrices that are read once and by few columns, such as keys. The bits are not those of [`in_one_order`].
pub fn keys_in_one_order(
    path: DataPath,
    isa: Isa,
    weight: WeightType,
    (k, columns): (usize, usize),
) -> Option<&'static Kernel> {
    one_order::for_keys(path, isa, weight, (k, columns))
}
