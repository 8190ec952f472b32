//! The operations of a graph that are no products: elementwise ones, norms, soft max, and those of recurrent layers.
//!
//! A function here computes one row, or a part of it, of `f32`. The caller finds the rows and divides them among threads.
//! [`functions`] gives the functions of an instruction set.

mod delta_net;
mod elementwise;
mod functions;
mod math;
mod norm;
mod order;
mod rope;
mod scalar;
mod soft_max;
mod ssm_conv;
mod ssm_scan;
mod transpose;

pub use delta_net::{DeltaNet, DeltaNetFn};
pub use elementwise::{BinaryFn, Bounds, GluFn, UnaryFn};
pub use functions::{Functions, functions};
pub use norm::NormFn;
pub use order::{ORDERED, OrderFn};
pub use rope::{Frequencies, LARGEST_ANGLE, PAIRS, Rope, RopeFn, RopeParameters, Rotations, RotationsFn};
pub use soft_max::{RowMask, SoftMax, SoftMaxFn};
pub use ssm_conv::{SsmConv, SsmConvFn, TAPS};
pub use ssm_scan::{SsmScan, SsmScanFn};
pub use transpose::transpose;

macro_rules! operations {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// An operation of a graph that is no product.
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Operation {
            $($(#[$doc])* $variant,)*
        }

        impl Operation {
            /// Every operation, in the order of its number.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$variant),*];

            /// The name that `ggml_op_name` gives it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

operations! {
    /// Each element of a row plus one number.
    Add = "ADD",
    /// The same for differences.
    Sub = "SUB",
    /// The same for products.
    Mul = "MUL",
    /// The same for quotients.
    Div = "DIV",
    /// A gated linear unit: see [`Glu`].
    Glu = "GLU",
    /// A function of one element: see [`Unary`].
    Unary = "UNARY",
    /// A row divided by the root of the mean of its squares.
    RmsNorm = "RMS_NORM",
    /// A row divided by the root of the sum of its squares.
    L2Norm = "L2_NORM",
    /// Two tensors, one after the other.
    Concat = "CONCAT",
    /// The convolution along tokens of state-space models.
    SsmConv = "SSM_CONV",
    /// The recurrence of gated delta networks.
    GatedDeltaNet = "GATED_DELTA_NET",
    /// Exponentials of a row over their sum.
    SoftMax = "SOFT_MAX",
    /// The order of a row's numbers.
    Argsort = "ARGSORT",
    /// The recurrence of state-space models.
    SsmScan = "SSM_SCAN",
    /// Pairs of elements turned by angles of the position.
    Rope = "ROPE",
}

impl Operation {
    /// The operation that `ggml_op_name` calls so.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|op| op.name() == name)
    }

    /// Whether every result is a copy, or rounded once as IEEE 754 says: nobody can compute other bits.
    #[must_use]
    pub const fn is_exact(self) -> bool {
        matches!(self, Self::Add | Self::Sub | Self::Mul | Self::Div | Self::Concat)
    }
}

/// Functions of two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    /// `a + b`
    Add,
    /// `a - b`
    Sub,
    /// `a * b`
    Mul,
    /// `a / b`
    Div,
}

/// Gated linear units (<https://arxiv.org/abs/2002.05202>): a function of the gate `x`, times `y`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Glu {
    /// [`Unary::Gelu`].
    Geglu,
    /// [`Unary::Silu`].
    Swiglu,
    /// `x' sigmoid(alpha x') (y' + 1)`, with `x'` and `y'` within a limit.
    SwigluOai,
    /// [`Unary::GeluQuick`].
    GegluQuick,
    /// [`Unary::Silu`] of `x'`, times `y'`, within a limit.
    SwigluClamp,
    /// [`Unary::GeluErf`].
    GegluErf,
}

impl Glu {
    /// Every unit, in the order of its number.
    pub const ALL: [Self; 6] =
        [Self::Geglu, Self::Swiglu, Self::SwigluOai, Self::GegluQuick, Self::SwigluClamp, Self::GegluErf];

    /// The unit that `ggml_glu_op_name` calls so.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "GEGLU" => Self::Geglu,
            "SWIGLU" => Self::Swiglu,
            "SWIGLU_OAI" => Self::SwigluOai,
            "GEGLU_QUICK" => Self::GegluQuick,
            "SWIGLU_CLAMP" => Self::SwigluClamp,
            "GEGLU_ERF" => Self::GegluErf,
            _ => return None,
        })
    }
}

/// Functions of one element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unary {
    /// `x sigmoid(x)`
    Silu,
    /// `x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`
    Gelu,
    /// `x sigmoid(1.702 x)`
    GeluQuick,
    /// `1 / (1 + e^-x)`
    Sigmoid,
    /// The hyperbolic tangent.
    Tanh,
    /// `x / 2 (1 + erf(x / sqrt 2))`
    GeluErf,
}

impl Unary {
    /// Every function, in the order of its number.
    pub const ALL: [Self; 6] = [Self::Silu, Self::Gelu, Self::GeluQuick, Self::Sigmoid, Self::Tanh, Self::GeluErf];

    /// The function that `ggml_unary_op_name` calls so.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "SILU" => Self::Silu,
            "GELU" => Self::Gelu,
            "GELU_QUICK" => Self::GeluQuick,
            "SIGMOID" => Self::Sigmoid,
            "TANH" => Self::Tanh,
            "GELU_ERF" => Self::GeluErf,
            _ => return None,
        })
    }
}
