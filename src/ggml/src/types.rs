//! The numbers of ggml's types (`enum ggml_type` of ggml.h). They are part of the format of model files, and therefore never
//! change. Names and block sizes stand with [`WeightType`] and [`Blocks`].

use std::ffi::{CStr, c_char, c_int, c_void};

use zen5turbo_kernels::act::blocks::Blocks;
use zen5turbo_kernels::formats::WeightType;

use crate::checked::ggml_name;
use crate::functions::{ggml_blck_size, ggml_type_name, ggml_type_size};

/// The number of a weight type.
#[must_use]
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
        WeightType::Iq2Xxs => 16,
        WeightType::Iq2Xs => 17,
        WeightType::Iq3Xxs => 18,
        WeightType::Iq4Nl => 20,
        WeightType::Iq3S => 21,
        WeightType::Iq2S => 22,
        WeightType::Iq4Xs => 23,
        WeightType::Bf16 => 30,
        WeightType::Mxfp4 => 39,
        WeightType::Iq1S => 19,
        WeightType::Iq1M => 29,
        WeightType::Tq1_0 => 34,
        WeightType::Tq2_0 => 35,
        WeightType::Nvfp4 => 40,
        WeightType::Q1_0 => 41,
        WeightType::Q2_0 => 42,
    }
}

/// The number of a format of activations.
#[must_use]
pub const fn blocks_number(blocks: Blocks) -> c_int {
    match blocks {
        Blocks::Q8_0 => 8,
        Blocks::Q8_1 => 9,
        Blocks::Q8K => 15,
    }
}

/// What one ggml tells about its types.
#[derive(Clone, Copy)]
pub struct TypeFunctions {
    name: ggml_type_name,
    size: ggml_type_size,
    elements: ggml_blck_size,
}

impl TypeFunctions {
    /// The names of the functions.
    pub(crate) const NAMES: [&str; 3] = [ggml_type_name.name(), ggml_type_size.name(), ggml_blck_size.name()];

    /// `None` when one of them is missing.
    ///
    /// # Safety
    /// `find` returns addresses of one ggml's functions by their names, and its library stays loaded.
    #[must_use]
    pub unsafe fn find(find: &dyn Fn(&CStr) -> Option<*mut c_void>) -> Option<Self> {
        // SAFETY: `find` gives ggml's functions, by the contract of this function.
        unsafe {
            Some(Self {
                name: ggml_type_name.find(find)?,
                size: ggml_type_size.find(find)?,
                elements: ggml_blck_size.find(find)?,
            })
        }
    }

    /// The name of a type; `None` where the answer is no name.
    ///
    /// # Safety
    /// This ggml knows the number: `ggml_type_name` does not check its bounds.
    #[must_use]
    pub unsafe fn name(&self, number: c_int) -> Option<&'static str> {
        // SAFETY: the number is known, by the contract of this function. The name is a constant of a library that stays
        // loaded, by the contract of `find`.
        unsafe { name_of(self.name, number) }
    }

    /// Elements and bytes of a block.
    ///
    /// # Safety
    /// This ggml knows the number: the functions do not check their bounds.
    #[must_use]
    pub unsafe fn block(&self, number: c_int) -> (usize, usize) {
        // SAFETY: the number is known, by the contract of this function.
        let (elements, bytes) = unsafe { ((self.elements)(number), (self.size)(number)) };
        // An `int` in old releases: the upper half of the register may hold anything.
        (elements as u32 as usize, bytes)
    }

    /// Whether `number` has this name and this block.
    ///
    /// # Safety
    /// This ggml knows the number: its functions do not check their bounds.
    #[must_use]
    pub unsafe fn are(&self, number: c_int, name: &str, block: (usize, usize)) -> bool {
        // SAFETY: the number is known, by the contract of this function.
        unsafe { self.name(number) == Some(name) && self.block(number) == block }
    }
}

/// The name that `function` gives to `number`; `None` where the answer is no name.
///
/// # Safety
/// `function` is `ggml_type_name` or `ggml_op_name` of a library that lives for `'a`, and knows the number.
pub(crate) unsafe fn name_of<'a>(
    function: unsafe extern "C-unwind" fn(c_int) -> *const c_char,
    number: c_int,
) -> Option<&'a str> {
    // SAFETY: ggml's function is called with a number that it knows, by the contract of this function. It returns null or a
    // string constant of its library.
    unsafe { ggml_name(function(number)) }
}
