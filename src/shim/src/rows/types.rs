//! The signatures of the functions for single rows, and the numbers that ggml gives to types.

use std::ffi::c_int;

use zen5turbo_kernels::act::blocks::Blocks;
use zen5turbo_kernels::formats::WeightType;

/// `void dequantize_row_*(const block * x, float * y, int64_t k)`
pub type Dequantize = unsafe extern "C" fn(*const u8, *mut f32, i64);
/// `void quantize_row_*(const float * x, void * y, int64_t k)`
pub type Quantize = unsafe extern "C" fn(*const f32, *mut u8, i64);
/// `void ggml_vec_dot_*(int n, float * s, size_t bs, const void * x, size_t bx, const void * y, size_t by, int nrc)`
pub type Dot = unsafe extern "C-unwind" fn(c_int, *mut f32, usize, *const u8, usize, *const u8, usize, c_int);

/// The number of a type in model files (`enum ggml_type` of ggml.h), which therefore never changes.
pub const fn weight_number(weight: WeightType) -> c_int {
    match weight {
        WeightType::F32 => 0,
        WeightType::F16 => 1,
        WeightType::Q4_0 => 2,
        WeightType::Q4_1 => 3,
        WeightType::Q5_0 => 6,
        WeightType::Q5_1 => 7,
        WeightType::Q8_0 => 8,
        WeightType::Q2K => 10,
        WeightType::Q3K => 11,
        WeightType::Q4K => 12,
        WeightType::Q5K => 13,
        WeightType::Q6K => 14,
        WeightType::Iq4Nl => 20,
        WeightType::Iq4Xs => 23,
        WeightType::Bf16 => 30,
        WeightType::Mxfp4 => 39,
    }
}

/// The same for activations.
pub const fn blocks_number(blocks: Blocks) -> c_int {
    match blocks {
        Blocks::Q8_0 => 8,
        Blocks::Q8_1 => 9,
        Blocks::Q8K => 15,
    }
}
