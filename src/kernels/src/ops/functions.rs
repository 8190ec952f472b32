//! The functions of each instruction set.

use super::delta_net::DeltaNetFn;
use super::elementwise::{BinaryFn, GluFn, UnaryFn};
use super::norm::NormFn;
use super::order::OrderFn;
use super::rope::{RopeFn, RotationsFn};
use super::soft_max::SoftMaxFn;
use super::ssm_conv::SsmConvFn;
use super::ssm_scan::SsmScanFn;
use super::{Binary, Glu, Unary};
use crate::isa::Isa;

/// The functions of one instruction set.
#[derive(Debug)]
pub struct Functions {
    binary: [BinaryFn; 4],
    glu: [GluFn; 6],
    unary: [UnaryFn; 6],
    /// A row over its root mean square.
    pub rms_norm: NormFn,
    /// A row over its length.
    pub l2_norm: NormFn,
    /// Channels of a convolution.
    pub ssm_conv: SsmConvFn,
    /// Rows of a state.
    pub delta_net: DeltaNetFn,
    /// Rows of a state with one decay.
    pub ssm_scan: SsmScanFn,
    /// A row's soft max.
    pub soft_max: SoftMaxFn,
    /// A row's order.
    pub order: OrderFn,
    /// Sines and cosines of a position.
    pub rotations: RotationsFn,
    /// A row turned by them.
    pub rope: RopeFn,
    /// The exponential, which the other functions use.
    pub exp: UnaryFn,
}

impl Functions {
    /// A function of a row and one number.
    #[must_use]
    pub const fn binary(&self, binary: Binary) -> BinaryFn {
        self.binary[binary as usize]
    }

    /// A gated linear unit.
    #[must_use]
    pub const fn glu(&self, glu: Glu) -> GluFn {
        self.glu[glu as usize]
    }

    /// A function of one row.
    #[must_use]
    pub const fn unary(&self, unary: Unary) -> UnaryFn {
        self.unary[unary as usize]
    }
}

/// A module with the functions of one instruction set.
macro_rules! isa_functions {
    ($name:ident, $lanes:ty, $(#[$attr:meta])?) => {
        mod $name {
            use super::Functions;
            use super::super::delta_net::DeltaNet;
            use super::super::elementwise::{self, Bounds, One, Two, map1, map2, map_one};
            use super::super::rope::{Frequencies, Rope, Rotations};
            use super::super::soft_max::SoftMax;
            use super::super::ssm_conv::SsmConv;
            use super::super::ssm_scan::SsmScan;
            use super::super::{delta_net, norm, order, rope, soft_max, ssm_conv, ssm_scan};

            $(#[$attr])?
            unsafe fn with_one<T: Two>(a: *const f32, b: f32, to: *mut f32, n: usize) {
                map_one::<$lanes, T>(a, b, to, n)
            }

            $(#[$attr])?
            unsafe fn glu<T: Two>(x: *const f32, y: *const f32, to: *mut f32, n: usize, bounds: Bounds) {
                map2::<$lanes, T>(x, y, to, n, bounds)
            }

            $(#[$attr])?
            unsafe fn one<T: One>(x: *const f32, to: *mut f32, n: usize) {
                map1::<$lanes, T>(x, to, n)
            }

            $(#[$attr])?
            unsafe fn rms_norm(x: *const f32, weights: *const f32, to: *mut f32, n: usize, epsilon: f32) {
                norm::rms::<$lanes>(x, weights, to, n, epsilon)
            }

            $(#[$attr])?
            unsafe fn l2_norm(x: *const f32, weights: *const f32, to: *mut f32, n: usize, epsilon: f32) {
                norm::l2::<$lanes>(x, weights, to, n, epsilon)
            }

            $(#[$attr])?
            unsafe fn ssm_conv(conv: &SsmConv, channels: core::ops::Range<usize>) {
                ssm_conv::ssm_conv::<$lanes>(conv, channels)
            }

            $(#[$attr])?
            unsafe fn delta_net(net: &DeltaNet, rows: core::ops::Range<usize>) {
                delta_net::delta_net::<$lanes>(net, rows)
            }

            $(#[$attr])?
            unsafe fn scan(scan: &SsmScan, rows: core::ops::Range<usize>) {
                ssm_scan::ssm_scan::<$lanes>(scan, rows)
            }

            $(#[$attr])?
            unsafe fn soft_max(row: &SoftMax) {
                soft_max::soft_max::<$lanes>(row)
            }

            $(#[$attr])?
            unsafe fn order(x: *const f32, to: *mut i32, n: usize, largest_first: bool) {
                order::order::<$lanes>(x, to, n, largest_first)
            }

            $(#[$attr])?
            unsafe fn rotations(frequencies: &Frequencies, position: i32, to: *mut Rotations) {
                rope::rotations::<$lanes>(frequencies, position, to)
            }

            $(#[$attr])?
            unsafe fn turn(row: &Rope, by: *const Rotations) {
                rope::rope::<$lanes>(row, by)
            }

            // in the order of `Binary`, `Glu` and `Unary`
            pub(super) static FUNCTIONS: Functions = Functions {
                binary: [
                    with_one::<elementwise::Add>,
                    with_one::<elementwise::Sub>,
                    with_one::<elementwise::Mul>,
                    with_one::<elementwise::Div>,
                ],
                glu: [
                    glu::<elementwise::Geglu>,
                    glu::<elementwise::Swiglu>,
                    glu::<elementwise::SwigluOai>,
                    glu::<elementwise::GegluQuick>,
                    glu::<elementwise::SwigluClamp>,
                    glu::<elementwise::GegluErf>,
                ],
                unary: [
                    one::<elementwise::Silu>,
                    one::<elementwise::Gelu>,
                    one::<elementwise::GeluQuick>,
                    one::<elementwise::Sigmoid>,
                    one::<elementwise::Tanh>,
                    one::<elementwise::GeluErf>,
                ],
                rms_norm,
                l2_norm,
                ssm_conv,
                delta_net,
                ssm_scan: scan,
                soft_max,
                order,
                rotations,
                rope: turn,
                exp: one::<elementwise::Exp>,
            };
        }
    };
}

isa_functions!(scalar, crate::isa::scalar::Scalar,);
isa_functions!(avx2, crate::isa::avx2::Avx2, #[target_feature(enable = "avx2,fma,f16c")]);
isa_functions!(
    vnni256, crate::isa::vnni256::Vnni256,
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
);
isa_functions!(
    avx512, crate::isa::avx512::Avx512,
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
);

/// The functions of `isa`; `None` where the CPU lacks it.
#[must_use]
pub fn functions(isa: Isa) -> Option<&'static Functions> {
    let functions = match isa {
        Isa::Scalar => &scalar::FUNCTIONS,
        Isa::Avx2 => &avx2::FUNCTIONS,
        Isa::Vnni256 => &vnni256::FUNCTIONS,
        Isa::Avx512 => &avx512::FUNCTIONS,
    };
    isa.available().then_some(functions)
}
