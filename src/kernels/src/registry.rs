//! Which kernels exist: every weight type on every ISA. Adding a type is one file in
//! [`crate::pack`], its line in [`WeightType`] and its line here.

use crate::fetch::Fetch;
use crate::formats::{Codes, Order, SPACED, Shape, WeightType};
use crate::isa::Isa;
use crate::isa::avx512::Bf16;
use crate::kernel::Kernel;
use crate::micro::dp::Structure;
use crate::pack::{Pack, Rows};
use crate::width::DataPath;

/// The parts of a shape that change a micro-kernel's code; types that agree share it.
struct Of<const BLOCK: usize, const SUB: usize, const MIN: bool, const CODES: u8>;

const WIDE: u8 = 0;
const NARROW: u8 = 1;
const SIGNED: u8 = 2;
const FLOAT: u8 = 3;
const PAIRS: u8 = 4;

impl<const BLOCK: usize, const SUB: usize, const MIN: bool, const CODES: u8> Structure for Of<BLOCK, SUB, MIN, CODES> {
    const SHAPE: Shape = Shape {
        block: BLOCK,
        sub: SUB,
        min: MIN,
        offset: 0,
        codes: match CODES {
            WIDE => Codes::Wide,
            NARROW => Codes::Narrow,
            _ => Codes::Signed,
        },
    };
}

/// The list of all weights, as an array of whatever `$f::<Weight>()` makes.
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
            $f::<F16>(),
            $f::<Bf16>(),
            $f::<F32>(),
        ]
    }};
}

/// A module with the kernels of one ISA. `$attr` enables its target features; `$block32` and
/// `$super256` are the generic micro-kernels, `$nc` the tile widths, `$fc` those of the float types, `$dc` those of
/// their products without panels.
macro_rules! isa_kernels {
    ($name:ident, $isa:expr, $lanes:ty, $(#[$attr:meta])?, $quantize:path,
     $block32:ident, $super256:ident, $codes:ident, [$($nc:literal),*],
     [$($fc:literal),*], [$($dc:literal),*]) => {
        mod $name {
            use super::*;
            use crate::micro::{DirectFn, MicroFn};
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
                    let record = const { W::SHAPE.panel_record(<$lanes as crate::isa::Lanes>::MADD) };
                    W::pack::<$lanes>(&rows, panel.add(b * record));
                }
            }

            $(#[$attr])?
            unsafe fn values<const NC: usize>(
                panel: *const u8, act: *const u8, blocks: usize, dst: *const *mut f32, rows: usize, first: bool,
            ) {
                crate::micro::float::values::<$lanes, NC>(panel, act, blocks, dst, rows, first)
            }

            $(#[$attr])?
            unsafe fn direct<W: FloatWeight, const NC: usize>(
                weights: *const u8, stride: usize, rows: usize, k: usize,
                act: *const u8, act_stride: usize, dst: *const *mut f32, fetch: Fetch,
            ) {
                crate::micro::direct::values::<$lanes, W, NC>(weights, stride, rows, k, act, act_stride, dst, fetch)
            }

            const fn table_direct<W: FloatWeight>() -> &'static [DirectFn] {
                const { &[$(direct::<W, $dc>),*] }
            }

            const fn table32<const MIN: bool, const CODES: u8>() -> &'static [MicroFn] {
                const { &[$(block32::<Of<32, 32, MIN, CODES>, $nc>),*] }
            }

            const fn table256<const SUB: usize, const MIN: bool, const CODES: u8>() -> &'static [MicroFn] {
                const { &[$(super256::<Of<256, SUB, MIN, CODES>, $nc>),*] }
            }

            pub(super) const fn micro(s: Shape) -> &'static [MicroFn] {
                match (s.block, s.sub, s.min, $codes(s.codes)) {
                    (32, 32, false, WIDE) => table32::<false, WIDE>(),
                    (32, 32, false, SIGNED) => table32::<false, SIGNED>(),
                    (32, 32, true, WIDE) => table32::<true, WIDE>(),
                    (32, 32, true, NARROW) => table32::<true, NARROW>(),
                    (256, 16, false, NARROW) => table256::<16, false, NARROW>(),
                    (256, 16, true, NARROW) => table256::<16, true, NARROW>(),
                    (256, 32, true, WIDE) => table256::<32, true, WIDE>(),
                    (256, 32, true, NARROW) => table256::<32, true, NARROW>(),
                    (256, 32, false, SIGNED) => table256::<32, false, SIGNED>(),
                    (_, _, false, FLOAT) => const { &[$(values::<$fc>),*] },
                    _ => panic!("no micro-kernel for this shape"),
                }
            }

            pub(super) const fn kernel<W: Pack>() -> Kernel {
                let direct = match W::TYPE {
                    WeightType::F16 => table_direct::<crate::pack::F16>(),
                    WeightType::Bf16 => table_direct::<crate::pack::Bf16>(),
                    WeightType::F32 => table_direct::<crate::pack::F32>(),
                    _ => &[],
                };
                with::<W>(micro(W::SHAPE), direct)
            }

            pub(super) const fn with<W: Pack>(
                micro: &'static [MicroFn], direct: &'static [DirectFn],
            ) -> Kernel {
                Kernel {
                    isa: $isa,
                    weight: W::TYPE,
                    shape: W::SHAPE,
                    act: W::SHAPE.act(<$lanes as crate::isa::Lanes>::MADD),
                    quantize: $quantize,
                    pack: pack::<W>,
                    micro,
                    pair: &[],
                    direct,
                    fused: &[],
                    ahead: &[],
                    fewest_columns: 0,
                    most_columns: usize::MAX,
                    most_columns_split: usize::MAX,
                    most_k: usize::MAX,
                    panel_record: W::SHAPE.panel_record(<$lanes as crate::isa::Lanes>::MADD),
                }
            }

            pub(super) static KERNELS: [Kernel; WeightType::ALL.len()] = every_weight!(kernel);
        }
    };
}

/// A module with the kernel for BF16 of the ISA `$base` on CPUs with AVX512_BF16.
macro_rules! bf16_kernel {
    ($name:ident, $base:ident, $lanes:ty, #[$attr:meta], [$($nc:literal),*], [$($dc:literal),*]) => {
        mod $name {
            use super::*;

            #[$attr]
            unsafe fn pairs<const NC: usize>(
                panel: *const u8, act: *const u8, blocks: usize, dst: *const *mut f32, rows: usize, first: bool,
            ) {
                crate::micro::float::pairs::<$lanes, NC>(panel, act, blocks, dst, rows, first)
            }

            #[$attr]
            unsafe fn direct<const NC: usize>(
                weights: *const u8, stride: usize, rows: usize, k: usize,
                act: *const u8, act_stride: usize, dst: *const *mut f32, fetch: Fetch,
            ) {
                crate::micro::direct::pairs::<$lanes, NC>(weights, stride, rows, k, act, act_stride, dst, fetch)
            }

            pub(super) const fn kernel() -> Kernel {
                $base::with::<crate::pack::Bf16Pairs>(&[$(pairs::<$nc>),*], &[$(direct::<$dc>),*])
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
mod avx512_pair;
mod avx512_rows;
mod f16_as_bf16;

/// The kernels of `isa` that this CPU can run: one for each of [`WeightType::ALL`], in that order, and
/// behind them better ones for single types, which need more than the tier, or for few columns. `None`
/// where the CPU lacks the tier.
pub fn kernels(isa: Isa) -> Option<Vec<&'static Kernel>> {
    available(isa).map(Iterator::collect)
}

/// Kernels of an ISA: for all CPUs that have it, and for those that have AVX512_BF16.
type Lists = [(&'static [Kernel], Option<&'static Kernel>); 4];

fn available(isa: Isa) -> Option<impl Iterator<Item = &'static Kernel>> {
    let lists: Lists = match isa {
        Isa::Scalar => [(&scalar::KERNELS, None), (&[], None), (&[], None), (&[], None)],
        Isa::Avx2 => [(&avx2::KERNELS, None), (&[], None), (&[], None), (&[], None)],
        Isa::Vnni256 => [(&vnni256::KERNELS, Some(&vnni256_bf16::KERNEL)), (&[], None), (&[], None), (&[], None)],
        Isa::Avx512 => [
            (&avx512::KERNELS, Some(&avx512_bf16::KERNEL)),
            (&avx512_pair::KERNELS, Some(&avx512_pair::BF16)),
            (&avx512_fused::KERNELS, None),
            (&avx512_rows::KERNELS, None),
        ],
    };
    // asking the tokens is what makes it sound to hand the kernels out
    let bf16 = Bf16::new().is_some();
    isa.available().then(|| lists.into_iter().flat_map(move |(all, more)| all.iter().chain(more.filter(|_| bf16))))
}

/// The best kernel for one weight type and number of columns of no great length, where 512-bit operations are not split.
pub fn kernel(isa: Isa, weight: WeightType, columns: usize) -> Option<&'static Kernel> {
    kernel_on(DataPath::Full, isa, weight, (0, columns))
}

/// The best kernel for one weight type and a number of columns of `k` elements.
pub fn kernel_on(
    path: DataPath,
    isa: Isa,
    weight: WeightType,
    (k, columns): (usize, usize),
) -> Option<&'static Kernel> {
    let most = |f: &Kernel| if path == DataPath::Full { f.most_columns } else { f.most_columns_split };
    let fits = |f: &Kernel| f.weight == weight && (f.fewest_columns..=most(f)).contains(&columns) && k <= f.most_k;
    available(isa)?.filter(|f| fits(f)).last()
}

/// The kernel that rounds F16 weights and activations to BF16; `None` where there is none, or so few columns are faster
/// exactly. [`kernel_on`] never gives it.
pub fn f16_as_bf16(path: DataPath, isa: Isa, columns: usize) -> Option<&'static Kernel> {
    f16_as_bf16::kernel(path, isa, columns)
}
