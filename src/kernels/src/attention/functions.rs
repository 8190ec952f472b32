//! The functions of attention: a set for each instruction set.

use super::online_softmax::OnlineSoftmaxFn;
use super::values::WeightedFn;
use crate::formats::WeightType;
use crate::isa::Isa;

/// Most queries that functions of float values are made for.
const TOGETHER: usize = 6;

/// The functions of one instruction set.
#[derive(Debug)]
pub(super) struct Functions {
    pub online_softmax: OnlineSoftmaxFn,
    /// The same, whose weights do not depend on how keys are cut into tiles.
    pub one_order_softmax: OnlineSoftmaxFn,
    pub exp: unsafe fn(f32) -> f32,
    pub halves: Sums,
    pub bf16: Sums,
    pub floats: Sums,
    /// The functions for types in blocks that need no widening first.
    pub blocks: fn(WeightType) -> Option<&'static Sums>,
    pub widen_halves: WidenFn,
    pub widen_bf16: WidenFn,
}

/// Widens 16-bit floats to `f32`; their number is a multiple of sixteen.
pub(super) type WidenFn = unsafe fn(*const u8, *mut f32, usize);

/// A number of vectors of sixteen elements, and the functions for so many vectors at a time: for 1, 2, ... queries.
pub(super) type Group = (usize, &'static [WeightedFn]);

/// The functions that add values of one type: wide ones, and narrow ones for the end of a row.
#[derive(Debug)]
pub(super) struct Sums {
    wide: Group,
    narrow: Group,
}

impl Sums {
    /// The functions for `queries` queries where `vectors` vectors are left. The narrow ones may take more queries, so that a
    /// value is widened less often.
    pub fn choose(&self, queries: usize, vectors: usize) -> Group {
        let turns = |group: Group| queries.div_ceil(group.1.len());
        if vectors >= self.wide.0 && turns(self.wide) <= turns(self.narrow) { self.wide } else { self.narrow }
    }
}

/// A module with the functions of one ISA; `$nv` vectors of values at a time.
macro_rules! isa_functions {
    ($name:ident, $lanes:ty, $nv:literal, $blocks:path, $(#[$attr:meta])?) => {
        mod $name {
            use super::{Functions, Sums, TOGETHER};
            use super::super::online_softmax::{self, RunningMax, Mask, Scale};
            use super::super::values::{self, Floats, Values, Weighted, WeightedFn};
            use crate::isa::{LANES, Lanes};
            use crate::pack::{Bf16, F16, F32, FloatWeight};

            $(#[$attr])?
            unsafe fn online_softmax(scores: *mut f32, n: usize, mask: &Mask, scale: Scale, running: &mut RunningMax) -> f32 {
                online_softmax::online_softmax::<$lanes>(scores, n, mask, scale, running)
            }

            $(#[$attr])?
            unsafe fn one_order_softmax(scores: *mut f32, n: usize, mask: &Mask, scale: Scale, running: &mut RunningMax) -> f32 {
                online_softmax::one_order_softmax::<$lanes>(scores, n, mask, scale, running)
            }

            $(#[$attr])?
            unsafe fn exp(x: f32) -> f32 {
                online_softmax::exp1::<$lanes>(x)
            }

            #[inline(always)]
            unsafe fn widen<W: FloatWeight>(from: *const u8, to: *mut f32, n: usize) {
                for i in (0..n).step_by(LANES) {
                    <$lanes>::storef(to.add(i).cast(), W::widen::<$lanes>(from.add(2 * i)));
                }
            }

            $(#[$attr])?
            unsafe fn widen_halves(from: *const u8, to: *mut f32, n: usize) {
                widen::<F16>(from, to, n)
            }

            $(#[$attr])?
            unsafe fn widen_bf16(from: *const u8, to: *mut f32, n: usize) {
                widen::<Bf16>(from, to, n)
            }

            $(#[$attr])?
            pub(super) unsafe fn add<V: Values<$lanes>, const NQ: usize, const NV: usize>(w: &Weighted) {
                values::add::<$lanes, V, NQ, NV>(w)
            }

            const fn table<W: FloatWeight, const NV: usize>() -> &'static [WeightedFn; TOGETHER] {
                const {
                    &[
                        add::<Floats<W>, 1, NV>, add::<Floats<W>, 2, NV>, add::<Floats<W>, 3, NV>,
                        add::<Floats<W>, 4, NV>, add::<Floats<W>, 5, NV>, add::<Floats<W>, 6, NV>,
                    ]
                }
            }

            const fn sums<W: FloatWeight>() -> Sums {
                Sums { wide: ($nv, table::<W, $nv>()), narrow: (1, table::<W, 1>()) }
            }

            pub(super) static FUNCTIONS: Functions = Functions {
                online_softmax,
                one_order_softmax,
                exp,
                halves: sums::<F16>(),
                bf16: sums::<Bf16>(),
                floats: sums::<F32>(),
                blocks: $blocks,
                widen_halves,
                widen_bf16,
            };
        }
    };
}

isa_functions!(scalar, crate::isa::scalar::Scalar, 2, super::no_blocks,);
isa_functions!(avx2, crate::isa::avx2::Avx2, 1, super::no_blocks, #[target_feature(enable = "avx2,fma,f16c")]);
isa_functions!(
    vnni256, crate::isa::vnni256::Vnni256, 2, super::no_blocks,
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
);
isa_functions!(
    avx512, crate::isa::avx512::Avx512, 4, super::blocks512,
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
);

fn no_blocks(_: WeightType) -> Option<&'static Sums> {
    None
}

fn blocks512(t: WeightType) -> Option<&'static Sums> {
    use super::blocks::{Block, Blocks, Iq4Nl, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};
    use avx512::add;
    const fn sums<B: Block>() -> &'static Sums {
        const {
            &Sums {
                wide: (
                    4,
                    &[
                        add::<Blocks<B>, 1, 4>,
                        add::<Blocks<B>, 2, 4>,
                        add::<Blocks<B>, 3, 4>,
                        add::<Blocks<B>, 4, 4>,
                        add::<Blocks<B>, 5, 4>,
                    ],
                ),
                narrow: (
                    2,
                    &[
                        add::<Blocks<B>, 1, 2>,
                        add::<Blocks<B>, 2, 2>,
                        add::<Blocks<B>, 3, 2>,
                        add::<Blocks<B>, 4, 2>,
                        add::<Blocks<B>, 5, 2>,
                        add::<Blocks<B>, 6, 2>,
                        add::<Blocks<B>, 7, 2>,
                        add::<Blocks<B>, 8, 2>,
                    ],
                ),
            }
        }
    }
    Some(match t {
        WeightType::Q8_0 => sums::<Q8_0>(),
        WeightType::Q4_0 => sums::<Q4_0>(),
        WeightType::Q4_1 => sums::<Q4_1>(),
        WeightType::Q5_0 => sums::<Q5_0>(),
        WeightType::Q5_1 => sums::<Q5_1>(),
        WeightType::Iq4Nl => sums::<Iq4Nl>(),
        _ => return None,
    })
}

/// The functions of `isa`; `None` where the CPU lacks it.
pub(super) fn functions(isa: Isa) -> Option<&'static Functions> {
    let functions = match isa {
        Isa::Scalar => &scalar::FUNCTIONS,
        Isa::Avx2 => &avx2::FUNCTIONS,
        Isa::Vnni256 => &vnni256::FUNCTIONS,
        Isa::Avx512 => &avx512::FUNCTIONS,
    };
    isa.available().then_some(functions)
}
