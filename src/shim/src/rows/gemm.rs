//! `ggml_gemm_*_8x8_*`: products of weights that llama.cpp has repacked, eight rows to a block, and of activations that
//! it has quantised, four columns to a block. llama.cpp repacks weights only with `ZEN5TURBO_REPACK=keep` and in builds
//! with BLAS. A call computes some rows of a product, in one thread, and does not depend on other calls. So each call
//! may be left to ggml.
//!
//! x86 builds export two more pairs of such functions, for Q5_K and Q6_K. They are not hooked, because ggml repacks
//! these types on ARM only.
//!
//! Single columns (`ggml_gemv_*_8x8_*`) are left to ggml, because every unpacked row is used only once. Time for each
//! weight (256 rows, K=2048): unpacking alone, which does not depend on the columns, takes 0.048 ns for q4_0, 0.036 for
//! q2_K and 0.052 for mxfp4; ggml's own functions take 0.026, 0.023 and 0.032 in all. Whole programs with one thread,
//! tokens/s with ggml's functions and with kernels of this library on rows that are not repacked: q4_K 80 and 78, q4_0
//! 68 and 69, but q2_K 78 and 92. (AMD EPYC, Zen 4, 2026-11-22.)

use std::ffi::c_int;

use zen5turbo_kernels::kernel::Kernel;
use zen5turbo_kernels::repacked::Product;

use super::fast_path;
use super::memory::Memory;
use crate::gate::guard;
use crate::ggml::rows::Gemm;

/// The product of these arguments; `None` when ggml computes it.
fn product(
    kernel: &Kernel,
    [n, nr, nc]: [c_int; 3],
    (s, bs): (*mut f32, usize),
    [vx, vy]: [*const u8; 2],
) -> Option<Product> {
    let size = |v: c_int| usize::try_from(v).ok();
    let product = Product {
        k: size(n)?,
        rows: size(nc)?,
        columns: size(nr)?,
        weights: vx,
        activations: vy,
        out: s,
        out_stride: bs,
    };
    let there = !s.is_null() && !vx.is_null() && !vy.is_null();
    (there && bs >= product.rows && product.fits(kernel) && product.pays()).then_some(product)
}

/// Computes a product. Returns false when no memory is left.
///
/// # Safety
/// `product` was made of the arguments of a call from ggml.
pub unsafe fn compute(kernel: &Kernel, product: &Product) -> bool {
    let Some(memory) = Memory::take(product.scratch_bytes(kernel)) else { return false };
    // SAFETY: ggml passed these matrices, by the contract of this function. Only this thread uses the memory, which is
    // as large as the kernel needs.
    unsafe { product.multiply(kernel, memory.start()) };
    true
}

/// The function that replaces function `I` of ggml.
///
/// # Safety
/// Called by ggml with its own arguments, see [`Gemm`].
pub unsafe extern "C-unwind" fn gemm<const I: usize>(
    n: c_int,
    s: *mut f32,
    bs: usize,
    vx: *const u8,
    vy: *const u8,
    nr: c_int,
    nc: c_int,
) {
    // SAFETY: `decide` has stored a kernel for function `I`, and this function was reached through `target`.
    let kernel: &'static Kernel = unsafe { fast_path::kernel(I) };
    if let Some(product) = product(kernel, [n, nr, nc], (s, bs), [vx, vy]) {
        // After a panic, ggml's function writes the whole result again.
        // SAFETY: the product was made of ggml's arguments.
        if guard::guarded(false, || unsafe { compute(kernel, &product) }) {
            fast_path::count(I);
            return;
        }
    }
    // SAFETY: the original is called with its own arguments.
    unsafe { fast_path::original::<Gemm>(I)(n, s, bs, vx, vy, nr, nc) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zen5turbo_kernels::formats::WeightType;
    use zen5turbo_kernels::isa::Isa;
    use zen5turbo_kernels::repacked;
    use zen5turbo_skip::{Need, skip};

    #[test]
    fn what_is_not_expected_is_left_to_ggml() {
        let Some(kernel) = repacked::kernel(Isa::Avx2, WeightType::Q4K) else {
            return skip(Need::Avx2, "this CPU has no AVX2, without which no product is taken");
        };
        let (mut s, x) = ([0f32; 1], [0u8; 1]);
        let (s, x, null) = (s.as_mut_ptr(), x.as_ptr(), std::ptr::null());
        let of = |n, s, bs, vx, vy, nr, nc| product(kernel, [n, nr, nc], (s, bs), [vx, vy]).is_some();
        assert!(of(512, s, 24, x, x, 12, 24));
        assert!(of(512, s, 25, x, x, 12, 24));
        for n in [0, -256, c_int::MIN, 255, 32, c_int::MAX, 1 << 20] {
            assert!(!of(n, s, 24, x, x, 12, 24), "{n}");
        }
        for bad in [0, -8, c_int::MIN, 1, 2, 9, 22, c_int::MAX] {
            assert!(!of(512, s, usize::MAX, x, x, bad, 24), "{bad}");
            assert!(!of(512, s, usize::MAX, x, x, 12, bad), "{bad}");
        }
        assert!(!of(512, s, 23, x, x, 12, 24), "columns of the result overlap");
        assert!(!of(512, std::ptr::null_mut(), 24, x, x, 12, 24));
        assert!(!of(512, s, 24, null, x, 12, 24) && !of(512, s, 24, x, null, 12, 24));
    }
}
