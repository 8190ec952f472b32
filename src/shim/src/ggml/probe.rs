//! Does the loaded ggml have the structures this library was compiled for?
//!
//! Numbers of types and operations move between releases, so they are never compared: a number met
//! in a tensor is looked up once through `ggml_type_name` or `ggml_op_name` (which is why only
//! numbers that ggml itself made are ever passed to them: it does not check its bounds).

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use super::abi::{Barrier, OBJECT_SIZE, Tensor};
use super::checked::{MAX_NODES, is_address, name_of, object};
use super::copies::function;
use crate::log;
use crate::reason::Reason;
use crate::stats;
use crate::stats::OpKind;
use zen5turbo_kernels::formats::WeightType;

/// The matrix products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatrixOp {
    /// `MUL_MAT`.
    MulMat,
    /// `MUL_MAT_ID`.
    MulMatId,
}

impl MatrixOp {
    /// As what it is counted.
    pub const fn counted(self) -> OpKind {
        match self {
            Self::MulMat => OpKind::MulMat,
            Self::MulMatId => OpKind::MulMatId,
        }
    }
}

/// What an operation number means here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A matrix product.
    Matrix(MatrixOp),
    /// `FLASH_ATTN_EXT`.
    Attention,
    /// Writes nothing but its result.
    Ordinary,
    /// May write anywhere (user-defined operations).
    Opaque,
}

/// The functions of one copy of ggml, checked.
pub struct Abi {
    op_name: unsafe extern "C" fn(c_int) -> *const c_char,
    type_name: unsafe extern "C" fn(c_int) -> *const c_char,
    type_size: unsafe extern "C" fn(c_int) -> usize,
    blck_size: unsafe extern "C" fn(c_int) -> i64,
    get_data: unsafe extern "C" fn(*const Tensor) -> *mut c_void,
    get_name: unsafe extern "C" fn(*const Tensor) -> *const c_char,
    graph_n_nodes: unsafe extern "C" fn(*mut c_void) -> c_int,
    graph_node: unsafe extern "C" fn(*mut c_void, c_int) -> *mut Tensor,
    /// `void ggml_barrier(threadpool)`, ggml's own.
    pub barrier: Barrier,
    /// Whether `ggml_compute_params` has `use_ref`.
    pub has_use_ref: bool,
    /// Per operation number: 0 not asked yet, else an [`Op`] plus 1.
    ops: [AtomicU8; 256],
    /// Per type number: 0 not asked yet, 1 none of ours, else index in [`WeightType::ALL`] plus 2.
    types: [AtomicU8; 256],
    /// Whether a real tensor was compared: 0 not yet, 1 fits, 2 does not.
    checked: AtomicU8,
}

/// `GGML_TYPE_F32` in every release.
pub const TYPE_F32: c_int = 0;

/// Compares the size of a tensor and what type 0 is with what this library was compiled for.
fn structures_fit(find: &dyn Fn(&CStr) -> Option<*mut c_void>) -> bool {
    let functions = || Some((find(c"ggml_tensor_overhead")?, find(c"ggml_type_name")?, find(c"ggml_type_size")?));
    let Some((overhead, name, size)) = functions() else { return false };
    // SAFETY: ggml's functions with their signatures; 0 is a type in every release.
    unsafe {
        let overhead: unsafe extern "C" fn() -> usize = function(overhead);
        let name: unsafe extern "C" fn(c_int) -> *const c_char = function(name);
        let size: unsafe extern "C" fn(c_int) -> usize = function(size);
        overhead() == OBJECT_SIZE + size_of::<Tensor>() && name_of(name, TYPE_F32) == Some("f32") && size(TYPE_F32) == 4
    }
}

impl Abi {
    /// Finds ggml's functions and compares sizes; `None` when a function is missing or a structure
    /// differs.
    pub fn probe(find: &dyn Fn(&CStr) -> Option<*mut c_void>) -> Option<Self> {
        // SAFETY: the symbols are ggml's, whose signatures these are, in every release that has
        // ggml_cpu_extra_compute_forward.
        let abi = unsafe {
            Abi {
                op_name: function(find(c"ggml_op_name")?),
                type_name: function(find(c"ggml_type_name")?),
                type_size: function(find(c"ggml_type_size")?),
                blck_size: function(find(c"ggml_blck_size")?),
                get_data: function(find(c"ggml_get_data")?),
                get_name: function(find(c"ggml_get_name")?),
                graph_n_nodes: function(find(c"ggml_graph_n_nodes")?),
                graph_node: function(find(c"ggml_graph_node")?),
                barrier: function(find(c"ggml_barrier")?),
                has_use_ref: find(c"ggml_backend_cpu_set_use_ref").is_some(),
                ops: [const { AtomicU8::new(0) }; 256],
                types: [const { AtomicU8::new(0) }; 256],
                checked: AtomicU8::new(0),
            }
        };
        structures_fit(find).then_some(abi)
    }

    /// Whether the fields of tensors are where [`Tensor`] has them: compared once, with `t`.
    ///
    /// # Safety
    /// `t` is a tensor of this copy of ggml.
    #[inline]
    pub unsafe fn fits(&self, t: *const Tensor) -> bool {
        match self.checked.load(Ordering::Relaxed) {
            // SAFETY: by contract.
            0 => unsafe { self.check(t) },
            n => n == 1,
        }
    }

    #[cold]
    unsafe fn check(&self, t: *const Tensor) -> bool {
        // SAFETY: by contract; the size was compared by `probe`, so the fields are readable.
        let fits = unsafe { (self.get_data)(t) == (*t).data && (self.get_name)(t) == (&raw const (*t).name).cast() };
        self.checked.store(if fits { 1 } else { 2 }, Ordering::Relaxed);
        // The program and its libraries each ask for themselves; the user is told once.
        static TOLD: AtomicBool = AtomicBool::new(false);
        if !fits && !TOLD.swap(true, Ordering::Relaxed) {
            stats::event(Reason::AbiMismatch);
            log::line(format_args!(
                "the tensors of this ggml are not laid out as in the versions this library knows (0.2 to 0.26); \
                 nothing is taken over, ggml computes as usual"
            ));
        }
        fits
    }

    /// The nodes of a graph; `None` where its number of nodes is none. A node is `None` where it is no tensor.
    ///
    /// # Safety
    /// `cgraph` is a graph of this copy of ggml, or an address where nothing can lie.
    pub unsafe fn nodes<'a>(&self, cgraph: *mut c_void) -> Option<impl Iterator<Item = Option<&'a Tensor>>> {
        // SAFETY: the function is ggml's, the graph its own.
        let n = if is_address(cgraph.cast::<usize>()) { unsafe { (self.graph_n_nodes)(cgraph) } } else { -1 };
        let node = self.graph_node;
        // SAFETY: as above; `i` is below the number of nodes.
        (0..=MAX_NODES).contains(&n).then(|| (0..n).map(move |i| unsafe { object(node(cgraph, i).cast_const()) }))
    }

    /// What the operation number of a tensor means.
    #[inline]
    pub fn op(&self, number: c_int) -> Op {
        match self.ops.get(number as usize).map_or(0, |c| c.load(Ordering::Relaxed)) {
            0 => self.ask_op(number),
            1 => Op::Ordinary,
            2 => Op::Opaque,
            3 => Op::Matrix(MatrixOp::MulMat),
            4 => Op::Matrix(MatrixOp::MulMatId),
            _ => Op::Attention,
        }
    }

    #[cold]
    fn ask_op(&self, number: c_int) -> Op {
        let (code, op) = match self.name(self.op_name, number) {
            Some("MUL_MAT") => (3, Op::Matrix(MatrixOp::MulMat)),
            Some("MUL_MAT_ID") => (4, Op::Matrix(MatrixOp::MulMatId)),
            Some("FLASH_ATTN_EXT") => (5, Op::Attention),
            Some(n) if !n.starts_with("MAP_CUSTOM") && !n.starts_with("CUSTOM") => (1, Op::Ordinary),
            _ => (2, Op::Opaque),
        };
        if let Some(c) = self.ops.get(number as usize) {
            c.store(code, Ordering::Relaxed);
        }
        op
    }

    /// What `function` calls this number of a tensor; counted where it has no name.
    fn name(&self, function: unsafe extern "C" fn(c_int) -> *const c_char, number: c_int) -> Option<&'static str> {
        // No release has more operations or types.
        let known = usize::try_from(number).is_ok_and(|n| n < self.ops.len());
        // SAFETY: the number comes from a tensor of this ggml. Names are constants of a library that stays.
        let name = known.then(|| unsafe { name_of(function, number) }).flatten();
        if name.is_none() {
            stats::event_once(Reason::GgmlAnswerOdd);
        }
        name
    }

    /// Whether a type number is that of 32-bit integers.
    pub fn is_i32(&self, number: c_int) -> bool {
        self.name(self.type_name, number) == Some("i32")
    }

    /// The weight type of a type number; `None` when there is no kernel for it or its blocks differ
    /// from what the kernels were written for.
    #[inline]
    pub fn weight_type(&self, number: c_int) -> Option<WeightType> {
        match self.types.get(number as usize)?.load(Ordering::Relaxed) {
            0 => self.ask_type(number),
            1 => None,
            n => Some(WeightType::ALL[usize::from(n) - 2]),
        }
    }

    #[cold]
    fn ask_type(&self, number: c_int) -> Option<WeightType> {
        let name = self.name(self.type_name, number);
        // SAFETY: the number comes from a tensor of this ggml.
        let (size, block) = unsafe { ((self.type_size)(number), (self.blck_size)(number)) };
        if let (Ok(n), Some(name)) = (u8::try_from(number), name) {
            stats::set_type_name(n, name);
        }
        let named = WeightType::ALL.iter().position(|t| Some(t.ggml_name()) == name);
        let found = named.filter(|&i| WeightType::ALL[i].block() == (block as usize, size));
        if named != found {
            stats::event_once(Reason::GgmlAnswerOdd);
        }
        self.types[number as usize].store(found.map_or(1, |i| i as u8 + 2), Ordering::Relaxed);
        found.map(|i| WeightType::ALL[i])
    }
}
