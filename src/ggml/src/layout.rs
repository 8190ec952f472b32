//! Does a loaded ggml have the structures of [`crate::abi`]? The library itself is asked; versions are not compared.
//!
//! The preload library asks when it meets a copy of ggml, `zen5turbo doctor` asks a file in a process of its own.

use std::ffi::{CStr, c_int, c_void};
use std::mem::offset_of;

use crate::abi::{TENSOR_OVERHEAD, TYPE_F32, Tensor};
use crate::functions::{
    ggml_barrier, ggml_cpu_extra_compute_forward, ggml_get_data, ggml_get_name, ggml_glu_op_name, ggml_graph_n_nodes,
    ggml_graph_node, ggml_op_name, ggml_tensor_overhead, ggml_unary_op_name,
};
use crate::types::{TypeFunctions, name_of};

/// The functions that the preload library cannot do without, beside the hook.
#[derive(Clone, Copy)]
pub struct CoreFunctions {
    /// Names, sizes and blocks of types.
    pub types: TypeFunctions,
    /// How many nodes a graph has.
    pub graph_n_nodes: ggml_graph_n_nodes,
    /// A node of a graph.
    pub graph_node: ggml_graph_node,
    /// The barrier of a graph's threads.
    pub barrier: ggml_barrier,
    op_name: ggml_op_name,
    /// `None` in releases that do not have it.
    unary_op_name: Option<ggml_unary_op_name>,
    /// `None` in releases that do not have it.
    glu_op_name: Option<ggml_glu_op_name>,
    tensor_overhead: ggml_tensor_overhead,
    get_data: ggml_get_data,
    get_name: ggml_get_name,
}

/// The names of [`CoreFunctions`] and of the hook.
pub const NEEDED: [&str; 11] = [
    ggml_tensor_overhead.name(),
    ggml_op_name.name(),
    TypeFunctions::NAMES[0],
    TypeFunctions::NAMES[1],
    TypeFunctions::NAMES[2],
    ggml_get_data.name(),
    ggml_get_name.name(),
    ggml_graph_n_nodes.name(),
    ggml_graph_node.name(),
    ggml_barrier.name(),
    ggml_cpu_extra_compute_forward.name(),
];

/// Sizes that a ggml tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// `ggml_tensor_overhead()`.
    pub tensor_overhead: usize,
    /// The name of type 0; `None` where the answer is no name.
    pub type_zero: Option<&'static str>,
    /// Bytes of a block of type 0.
    pub type_zero_bytes: usize,
}

impl Sizes {
    /// Those of the structures in [`crate::abi`].
    pub const KNOWN: Self = Self { tensor_overhead: TENSOR_OVERHEAD, type_zero: Some("f32"), type_zero_bytes: 4 };
}

/// Where the fields of a tensor lie that a ggml has functions for, in bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// `data`, by `ggml_get_data`.
    pub data: usize,
    /// `name`, by `ggml_get_name`.
    pub name: usize,
}

impl Places {
    /// Those of [`Tensor`].
    pub const KNOWN: Self = Self { data: offset_of!(Tensor, data), name: offset_of!(Tensor, name) };
}

impl CoreFunctions {
    /// `None` when a function is missing. `find` is not asked for the hook, which a caller may have or not.
    ///
    /// # Safety
    /// `find` returns addresses of one ggml's functions by their names, and its library stays loaded.
    #[must_use]
    pub unsafe fn find(find: &dyn Fn(&CStr) -> Option<*mut c_void>) -> Option<Self> {
        // SAFETY: `find` gives the functions of a ggml that stays loaded, by the contract of this function.
        unsafe {
            Some(Self {
                types: TypeFunctions::find(find)?,
                op_name: ggml_op_name.find(find)?,
                unary_op_name: ggml_unary_op_name.find(find),
                glu_op_name: ggml_glu_op_name.find(find),
                graph_n_nodes: ggml_graph_n_nodes.find(find)?,
                graph_node: ggml_graph_node.find(find)?,
                barrier: ggml_barrier.find(find)?,
                tensor_overhead: ggml_tensor_overhead.find(find)?,
                get_data: ggml_get_data.find(find)?,
                get_name: ggml_get_name.find(find)?,
            })
        }
    }

    /// The name of an operation; `None` where the answer is no name.
    ///
    /// # Safety
    /// This ggml knows the number: `ggml_op_name` does not check its bounds.
    #[must_use]
    pub unsafe fn op_name(&self, number: c_int) -> Option<&'static str> {
        // SAFETY: the number is known, by the contract of this function. The name is a constant of a library that stays
        // loaded, by the contract of `find`.
        unsafe { name_of(self.op_name, number) }
    }

    /// The name of a function of one element, the first parameter of a UNARY; `None` where the answer is no name.
    ///
    /// # Safety
    /// This ggml knows the number: `ggml_unary_op_name` does not check its bounds.
    #[must_use]
    pub unsafe fn unary_op_name(&self, number: c_int) -> Option<&'static str> {
        // SAFETY: as in `op_name`.
        self.unary_op_name.and_then(|name| unsafe { name_of(name, number) })
    }

    /// The name of a gated linear unit, the first parameter of a GLU; `None` where the answer is no name.
    ///
    /// # Safety
    /// This ggml knows the number: `ggml_glu_op_name` does not check its bounds.
    #[must_use]
    pub unsafe fn glu_op_name(&self, number: c_int) -> Option<&'static str> {
        // SAFETY: as in `op_name`.
        self.glu_op_name.and_then(|name| unsafe { name_of(name, number) })
    }

    /// The sizes that this ggml tells.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        // SAFETY: the functions are ggml's, by the contract of `find`. The first has no preconditions, and type 0 is a type
        // in every release.
        unsafe {
            Sizes {
                tensor_overhead: (self.tensor_overhead)(),
                type_zero: self.types.name(TYPE_F32),
                type_zero_bytes: self.types.block(TYPE_F32).1,
            }
        }
    }

    /// Whether `data` and `name` of a tensor lie where [`Tensor`] has them.
    ///
    /// # Safety
    /// `t` is a tensor of this ggml, whose sizes are [`Sizes::KNOWN`].
    #[must_use]
    pub unsafe fn fields_fit(&self, t: *const Tensor) -> bool {
        // SAFETY: `t` is a tensor of this ggml, as large as `Tensor`, by the contract of this function. So all its fields
        // are readable, wherever they lie.
        unsafe { (self.get_data)(t) == (*t).data && (self.get_name)(t) == (&raw const (*t).name).cast() }
    }

    /// Where this ggml looks for fields in a tensor that is made here; `None` when its tensors have another size.
    #[must_use]
    pub fn places(&self) -> Option<Places> {
        if self.sizes().tensor_overhead != TENSOR_OVERHEAD {
            return None;
        }
        // Every word holds its own distance from the start.
        let words: Vec<usize> = (0..size_of::<Tensor>()).step_by(size_of::<usize>()).collect();
        let start = words.as_ptr();
        // SAFETY: the functions are ggml's, by the contract of `find`, and read within a tensor. The words are as many bytes
        // as a tensor of this ggml, and live until the call returns.
        let (data, name) = unsafe { ((self.get_data)(start.cast()), (self.get_name)(start.cast())) };
        Some(Places { data: data.addr(), name: name.addr().wrapping_sub(start.addr()) })
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::c_char;

    use super::*;

    extern "C-unwind" fn overhead() -> usize {
        TENSOR_OVERHEAD
    }
    extern "C-unwind" fn other_overhead() -> usize {
        352
    }
    extern "C-unwind" fn f32_name(_: c_int) -> *const c_char {
        c"f32".as_ptr()
    }
    extern "C-unwind" fn four(_: c_int) -> usize {
        4
    }
    extern "C-unwind" fn one(_: c_int) -> i64 {
        1
    }
    unsafe extern "C-unwind" fn data(t: *const Tensor) -> *mut c_void {
        // SAFETY: the tests pass a tensor, or as many bytes.
        unsafe { (*t).data }
    }
    unsafe extern "C-unwind" fn name(t: *const Tensor) -> *const c_char {
        // SAFETY: the tests pass a tensor, or as many bytes.
        unsafe { (&raw const (*t).name).cast() }
    }
    unsafe extern "C-unwind" fn view_offset(t: *const Tensor) -> *mut c_void {
        // SAFETY: the tests pass a tensor, or as many bytes.
        unsafe { std::ptr::without_provenance_mut((*t).view_offs) }
    }

    /// A ggml whose `ggml_tensor_overhead` and `ggml_get_data` are these.
    fn ggml(overhead: *mut c_void, data: *mut c_void) -> CoreFunctions {
        let find = |symbol: &CStr| {
            Some(match symbol.to_bytes() {
                b"ggml_tensor_overhead" => overhead,
                b"ggml_get_data" => data,
                b"ggml_get_name" => name as *mut c_void,
                b"ggml_type_size" => four as *mut c_void,
                b"ggml_blck_size" => one as *mut c_void,
                // The rest is not called.
                _ => f32_name as *mut c_void,
            })
        };
        // SAFETY: functions with the signatures of ggml's, in this program.
        unsafe { CoreFunctions::find(&find) }.expect("all functions are there")
    }

    #[test]
    fn a_ggml_with_the_known_structures_fits() {
        let known = ggml(overhead as *mut c_void, data as *mut c_void);
        assert_eq!(known.sizes(), Sizes::KNOWN);
        assert_eq!(known.places(), Some(Places { data: 248, name: 256 }));
        assert_eq!(known.places(), Some(Places::KNOWN));
        // SAFETY: zeroes are a valid tensor.
        let tensor: Tensor = unsafe { std::mem::zeroed() };
        // SAFETY: the functions read this tensor's fields.
        assert!(unsafe { known.fields_fit(&raw const tensor) });
    }

    #[test]
    fn other_sizes_and_places_are_seen() {
        let larger = ggml(other_overhead as *mut c_void, data as *mut c_void);
        assert_ne!(larger.sizes(), Sizes::KNOWN);
        assert_eq!(larger.places(), None);
        let moved = ggml(overhead as *mut c_void, view_offset as *mut c_void);
        assert_eq!(moved.places(), Some(Places { data: 240, name: 256 }));
    }

    #[test]
    fn every_needed_function_is_looked_for() {
        for absent in NEEDED.iter().filter(|name| **name != ggml_cpu_extra_compute_forward.name()) {
            let find = |symbol: &CStr| (symbol.to_str() != Ok(*absent)).then_some(f32_name as *mut c_void);
            // SAFETY: nothing that was found is called.
            assert!(unsafe { CoreFunctions::find(&find) }.is_none(), "{absent}");
        }
    }
}
