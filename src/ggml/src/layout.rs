//! Does a loaded ggml have the structures of [`crate::abi`]? The library itself is asked; versions are not compared.
//!
//! The preload library asks when it meets a copy of ggml, `zen5turbo doctor` asks a file in a process of its own.

use std::ffi::{CStr, c_int, c_void};
use std::mem::offset_of;

use crate::abi::{NAME_BYTES, TENSOR_OVERHEAD, TYPE_F32, Tensor};
use crate::functions::{
    ggml_barrier, ggml_cpu_extra_compute_forward, ggml_get_data, ggml_get_name, ggml_glu_op_name, ggml_graph_n_nodes,
    ggml_graph_node, ggml_op_name, ggml_set_name, ggml_tensor_overhead, ggml_unary_op_name,
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
    /// Only where a tensor has another size than the known one.
    set_name: Option<ggml_set_name>,
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
    /// Bytes of a tensor's name, with the NUL; asked only where a tensor is larger than [`Tensor`].
    pub name_bytes: usize,
}

/// `GGML_MAX_NAME` is at most this, wherever it was seen; larger ones are not looked for.
const LONGEST_NAMES: usize = 1024;

impl Sizes {
    /// Those of the structures in [`crate::abi`].
    pub const KNOWN: Self =
        Self { tensor_overhead: TENSOR_OVERHEAD, type_zero: Some("f32"), type_zero_bytes: 4, name_bytes: NAME_BYTES };

    /// How many bytes longer than in [`Tensor`] names are, where that is all that differs from the known structures: all
    /// fields before the name lie as known then, and `extra` lies so much further. `None` where more differs.
    #[must_use]
    pub fn longer_names(&self) -> Option<usize> {
        let longer = self.tensor_overhead.checked_sub(TENSOR_OVERHEAD)?;
        let known = Self { tensor_overhead: TENSOR_OVERHEAD + longer, name_bytes: NAME_BYTES + longer, ..Self::KNOWN };
        (longer.is_multiple_of(16) && *self == known).then_some(longer)
    }
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
                set_name: ggml_set_name.find(find),
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
        let (tensor_overhead, type_zero, type_zero_bytes) =
            unsafe { ((self.tensor_overhead)(), self.types.name(TYPE_F32), self.types.block(TYPE_F32).1) };
        let larger = (TENSOR_OVERHEAD + 1..=TENSOR_OVERHEAD + LONGEST_NAMES).contains(&tensor_overhead);
        let name_bytes = if larger { self.name_bytes() } else { NAME_BYTES };
        Sizes { tensor_overhead, type_zero, type_zero_bytes, name_bytes }
    }

    /// How many bytes of a very long name this ggml keeps, with the NUL; 0 where that cannot be asked.
    fn name_bytes(&self) -> usize {
        /// Larger than any tensor that is asked about, with a name that is longer than those bytes.
        const ROOM: usize = 4 * LONGEST_NAMES;
        let Some(set_name) = self.set_name else { return 0 };
        let long = [&[b'n'; ROOM][..], &[0]].concat();
        let mut words = vec![0usize; 2 * ROOM / size_of::<usize>()];
        let tensor: *mut Tensor = words.as_mut_ptr().cast();
        // SAFETY: the function is ggml's, by the contract of `find`, and writes a name of at most `ROOM` bytes and a NUL into
        // a tensor. The words have room for both, and the name ends with NUL.
        let _ = unsafe { set_name(tensor, long.as_ptr().cast()) };
        words.iter().flat_map(|word| word.to_ne_bytes()).filter(|&byte| byte == b'n').count() + 1
    }

    /// Whether `data` and `name` of a tensor lie where [`Tensor`] has them.
    ///
    /// # Safety
    /// `t` is a tensor of this ggml, whose [`Sizes::longer_names`] is not `None`.
    #[must_use]
    pub unsafe fn fields_fit(&self, t: *const Tensor) -> bool {
        // SAFETY: `t` is a tensor of this ggml, at least as large as `Tensor`, by the contract of this function. So all its
        // fields are readable, wherever they lie.
        unsafe { (self.get_data)(t) == (*t).data && (self.get_name)(t) == (&raw const (*t).name).cast() }
    }

    /// Where this ggml looks for fields in a tensor that is made here; `None` when its tensors have another size.
    #[must_use]
    pub fn places(&self) -> Option<Places> {
        let size = size_of::<Tensor>() + self.sizes().longer_names()?;
        // Every word holds its own distance from the start.
        let words: Vec<usize> = (0..size).step_by(size_of::<usize>()).collect();
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

    extern "C-unwind" fn overhead_of_80() -> usize {
        TENSOR_OVERHEAD + 16
    }
    /// As ggml with `GGML_MAX_NAME=N`.
    unsafe extern "C-unwind" fn set_name<const N: usize>(t: *mut Tensor, text: *const c_char) -> *mut Tensor {
        // SAFETY: the tests pass room for a tensor with such a name, and a text that ends with NUL.
        unsafe {
            let name = (&raw mut (*t).name).cast::<c_char>();
            let mut i = 0;
            while i < N - 1 && *text.add(i) != 0 {
                *name.add(i) = *text.add(i);
                i += 1;
            }
            *name.add(i) = 0;
        }
        t
    }

    #[test]
    fn longer_names_are_measured_and_nothing_else_may_differ() {
        let ggml = |set_name: Option<*mut c_void>| {
            let find = |symbol: &CStr| match symbol.to_bytes() {
                b"ggml_set_name" => set_name,
                b"ggml_tensor_overhead" => Some(overhead_of_80 as *mut c_void),
                b"ggml_get_data" => Some(data as *mut c_void),
                b"ggml_get_name" => Some(name as *mut c_void),
                b"ggml_type_size" => Some(four as *mut c_void),
                b"ggml_blck_size" => Some(one as *mut c_void),
                _ => Some(f32_name as *mut c_void),
            };
            // SAFETY: functions with the signatures of ggml's, in this program.
            unsafe { CoreFunctions::find(&find) }.expect("all functions are there")
        };
        let fits = ggml(Some(set_name::<80> as *mut c_void));
        assert_eq!(fits.sizes().longer_names(), Some(16));
        assert_eq!(fits.places(), Some(Places::KNOWN));
        // The tensor is larger for another reason, or the reason cannot be asked.
        for other in [Some(set_name::<64> as *mut c_void), Some(set_name::<96> as *mut c_void), None] {
            assert_eq!(ggml(other).sizes().longer_names(), None);
        }
        for odd in [8, 1040] {
            let sizes = Sizes { tensor_overhead: TENSOR_OVERHEAD + odd, name_bytes: NAME_BYTES + 16, ..Sizes::KNOWN };
            assert_eq!(sizes.longer_names(), None);
        }
    }

    #[test]
    fn what_the_backend_keeps_lies_behind_the_name() {
        let mut words = [0usize; 64];
        words[(256 + 64) / 8] = 7;
        words[(256 + 80) / 8] = 9;
        // SAFETY: words that are as many as a tensor with a name of 80 bytes has, and zeroes are valid in all its fields.
        let tensor: &Tensor = unsafe { &*words.as_ptr().cast() };
        // SAFETY: the field is read within the words.
        unsafe { assert_eq!((tensor.extra(0).addr(), tensor.extra(16).addr()), (7, 9)) };
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
