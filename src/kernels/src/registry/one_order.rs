//! Kernels that add in one order, whatever the number of columns is: the bits of a result do not depend on how many columns
//! are computed together.
//!
//! Products by panels and fused ones add in the same order, see [`crate::micro`]. Products by rows do not. Quantised types
//! have no such kernel here; float types have either panels only, or rows only.

use super::*;
use crate::formats::Values;

const fn by_panels(kernel: Kernel) -> Kernel {
    Kernel { gemv: &[], gemv_prefetch: &[], ..kernel }
}

/// Rows only, of any number of columns.
const fn by_rows(kernel: Kernel) -> Kernel {
    Kernel { micro: &[], pair: &[], ..kernel }
}

/// The kernels of one float type on one ISA.
struct Float {
    /// Panels, from the fastest on.
    panels: [Option<Kernel>; 2],
    rows: Kernel,
}

macro_rules! float {
    ($kernel:expr) => {
        Float { panels: [None, Some(by_panels($kernel))], rows: by_rows($kernel) }
    };
    ($kernel:expr, $pair:expr) => {
        Float { panels: [Some(by_panels($pair)), Some(by_panels($kernel))], rows: by_rows($kernel) }
    };
}

/// F16, BF16 and F32; BF16 on CPUs with AVX512_BF16.
type Floats = ([Float; 3], Option<Float>);

macro_rules! floats {
    ($isa:ident, $bf16:expr) => {{
        use crate::pack::{Bf16, F16, F32};
        ([float!($isa::kernel::<F16>()), float!($isa::kernel::<Bf16>()), float!($isa::kernel::<F32>())], $bf16)
    }};
}

static SCALAR: Floats = floats!(scalar, None);
static AVX2: Floats = floats!(avx2, None);
static VNNI256: Floats = floats!(vnni256, Some(float!(vnni256_bf16::kernel())));
static AVX512: Floats = {
    use crate::pack::{Bf16, F16, F32};
    let floats = [
        float!(avx512::kernel::<F16>(), avx512_pair::kernel::<F16>()),
        float!(avx512::kernel::<Bf16>(), avx512_pair::kernel::<Bf16>()),
        float!(avx512::kernel::<F32>(), avx512_pair::kernel::<F32>()),
    ];
    (floats, Some(float!(avx512_bf16::kernel(), avx512_pair::bf16())))
};

/// The kernels of a float type; `None` of a quantised one.
fn float(isa: Isa, weight: WeightType) -> Option<&'static Float> {
    let (floats, pairs) = match isa {
        Isa::Scalar => &SCALAR,
        Isa::Avx2 => &AVX2,
        Isa::Vnni256 => &VNNI256,
        Isa::Avx512 => &AVX512,
    };
    match weight {
        WeightType::F16 => Some(&floats[0]),
        WeightType::Bf16 => Some(pairs.as_ref().filter(|_| has_bf16()).unwrap_or(&floats[1])),
        WeightType::F32 => Some(&floats[2]),
        _ => None,
    }
}

/// See [`super::in_one_order`].
pub(super) fn for_weights(
    path: DataPath,
    isa: Isa,
    weight: WeightType,
    (k, columns): (usize, usize),
) -> Option<&'static Kernel> {
    let contains = |kernel: &&'static Kernel| kernel.domain.contains(path, k, columns);
    match float(isa, weight).filter(|_| isa.available()) {
        Some(float) => float.panels.iter().flatten().find(contains),
        None => {
            let choice = isa.available().then_some(&CHOICES[isa as usize][weight as usize])?;
            let by_rows = |kernel: &Kernel| matches!(kernel.act.values, Values::Rows(_));
            choice.iter().flatten().copied().filter(|kernel| !by_rows(kernel)).find(contains)
        }
    }
}

/// See [`super::keys_in_one_order`].
pub(super) fn for_keys(
    path: DataPath,
    isa: Isa,
    weight: WeightType,
    (k, columns): (usize, usize),
) -> Option<&'static Kernel> {
    match float(isa, weight).filter(|_| isa.available() && k >= GEMV_LEAST_K) {
        Some(float) => Some(&float.rows),
        None => for_weights(path, isa, weight, (k, columns)),
    }
}
