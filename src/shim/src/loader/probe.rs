//! Checks whether a loaded ggml has the structures that this library was compiled for.
//!
//! The numbers of types and operations differ between releases, so they are not compared. A number that is found in a
//! tensor is looked up once by `ggml_type_name` or `ggml_op_name`. These functions do not check their argument, so they
//! only get numbers that ggml itself wrote.

use std::ffi::{CStr, c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use crate::ggml::KNOWN_RELEASES;
use crate::ggml::abi::Tensor;
use crate::ggml::checked::{MAX_NODES, is_address, object};
use crate::ggml::functions::{ggml_backend_cpu_set_use_ref, ggml_barrier};
use crate::ggml::layout::CoreFunctions;
use crate::log;
use crate::reason::Reason;
use crate::stats;
use crate::stats::OpKind;
use zen5turbo_kernels::formats::WeightType;
use zen5turbo_kernels::ops::{Glu, Operation, Unary};

/// The matrix products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatrixOp {
    /// `MUL_MAT`.
    MulMat,
    /// `MUL_MAT_ID`.
    MulMatId,
}

impl MatrixOp {
    /// The operation under which it is counted.
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
    /// A view of a tensor, or a tensor that is not computed. ggml skips it, and asks no hook.
    View,
    /// An operation that is no product, and that this library may compute. It writes nothing but its result.
    Other(Operation),
    /// An operation that is always left to ggml, and writes nothing but its result.
    Ordinary,
    /// An operation of the program's own, which may write anywhere.
    Opaque,
}

/// In [`Abi::ops`], the number of the first [`Op::Other`].
const FIRST_OTHER: u8 = 7;

/// Numbers of units and functions that are remembered. ggml 0.26 has 22 functions and 7 units.
const FUNCTIONS: usize = 64;

/// The checked functions of one copy of ggml.
pub struct Abi {
    functions: CoreFunctions,
    longer_names: usize,
    /// Whether `ggml_compute_params` has `use_ref`.
    pub has_use_ref: bool,
    /// Per operation number: 0 if not asked yet, else the number of an [`Op`] as in [`Abi::op`].
    ops: [AtomicU8; 256],
    /// Per type number: 0 if not asked yet, 1 if no kernel has the type, else its index in [`WeightType::ALL`] plus 2.
    types: [AtomicU8; 256],
    /// Per number of a gated linear unit, and of a function of one element: 0 if not asked yet, 1 if it is not known here,
    /// else its number plus 2.
    units: [AtomicU8; FUNCTIONS],
    unaries: [AtomicU8; FUNCTIONS],
    /// Whether the layout of a real tensor fits: 0 if not compared yet, 1 if it fits, 2 if not.
    checked: AtomicU8,
}

impl Abi {
    /// Finds ggml's functions and compares sizes; `None` when a function is missing or a structure
    /// differs.
    ///
    /// # Safety
    /// `find` returns addresses of one ggml's functions by their names, and its library stays loaded.
    pub unsafe fn probe(find: &dyn Fn(&CStr) -> Option<*mut c_void>) -> Option<Self> {
        // SAFETY: `find` gives the functions of a ggml that stays loaded, by the contract of this function.
        let functions = unsafe { CoreFunctions::find(find) }?;
        let longer_names = functions.sizes().longer_names()?;
        Some(Abi {
            functions,
            longer_names,
            has_use_ref: find(ggml_backend_cpu_set_use_ref.symbol()).is_some(),
            ops: [const { AtomicU8::new(0) }; 256],
            types: [const { AtomicU8::new(0) }; 256],
            units: [const { AtomicU8::new(0) }; FUNCTIONS],
            unaries: [const { AtomicU8::new(0) }; FUNCTIONS],
            checked: AtomicU8::new(0),
        })
    }

    /// Bytes that the name of a tensor has beyond those of [`Tensor`].
    #[inline]
    pub fn longer_names(&self) -> usize {
        self.longer_names
    }

    /// ggml's own barrier.
    #[inline]
    pub fn barrier(&self) -> ggml_barrier {
        self.functions.barrier
    }

    /// Whether the fields of this ggml's tensors lie where [`Tensor`] has them. The first call compares them with `t`.
    ///
    /// # Safety
    /// `t` is a tensor of this copy of ggml.
    #[inline]
    pub unsafe fn fits(&self, t: *const Tensor) -> bool {
        match self.checked.load(Ordering::Relaxed) {
            // SAFETY: `t` is a tensor of this copy, by the contract of this function.
            0 => unsafe { self.check(t) },
            n => n == 1,
        }
    }

    /// # Safety
    /// `t` is a tensor of this copy of ggml.
    #[cold]
    unsafe fn check(&self, t: *const Tensor) -> bool {
        // SAFETY: `t` is a tensor of this copy, by the contract of this function, and `probe` has compared the sizes.
        let fits = unsafe { self.functions.fields_fit(t) };
        self.checked.store(if fits { 1 } else { 2 }, Ordering::Relaxed);
        // The program and each of its libraries have an `Abi` of their own; the user gets one line.
        static TOLD: AtomicBool = AtomicBool::new(false);
        if !fits && !TOLD.swap(true, Ordering::Relaxed) {
            stats::event(Reason::AbiMismatch);
            log::line(format_args!(
                "the tensors of this ggml are not laid out as in the versions this library knows ({KNOWN_RELEASES}); \
                 nothing is taken over, ggml computes as usual"
            ));
        }
        fits
    }

    /// The nodes of a graph; `None` when the number of nodes is not a possible one. A node is `None` when its address
    /// cannot be that of a tensor.
    ///
    /// # Safety
    /// `cgraph` is a graph of this copy of ggml, or an address where no object can lie.
    pub unsafe fn nodes<'a>(&self, cgraph: *mut c_void) -> Option<impl Iterator<Item = Option<&'a Tensor>>> {
        // SAFETY: an address that passes the check is that of a graph of this copy, by the contract of this function.
        let n = if is_address(cgraph.cast::<usize>()) { unsafe { (self.functions.graph_n_nodes)(cgraph) } } else { -1 };
        let node = self.functions.graph_node;
        // SAFETY: the graph is one of this copy, which has told `n` for it, and `i` is below `n`.
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
            5 => Op::Attention,
            6 => Op::View,
            n => Operation::ALL.get(usize::from(n - FIRST_OTHER)).map_or(Op::Opaque, |&other| Op::Other(other)),
        }
    }

    #[cold]
    fn ask_op(&self, number: c_int) -> Op {
        // SAFETY: the number comes from a tensor of this ggml, which therefore knows it.
        let (code, op) = match Self::name(number, |number| unsafe { self.functions.op_name(number) }) {
            Some("MUL_MAT") => (3, Op::Matrix(MatrixOp::MulMat)),
            Some("MUL_MAT_ID") => (4, Op::Matrix(MatrixOp::MulMatId)),
            Some("FLASH_ATTN_EXT") => (5, Op::Attention),
            Some("NONE" | "VIEW" | "RESHAPE" | "PERMUTE" | "TRANSPOSE") => (6, Op::View),
            Some(n) if !n.starts_with("MAP_CUSTOM") && !n.starts_with("CUSTOM") => match Operation::named(n) {
                Some(other) => (FIRST_OTHER + other as u8, Op::Other(other)),
                None => (1, Op::Ordinary),
            },
            _ => (2, Op::Opaque),
        };
        if let Some(c) = self.ops.get(number as usize) {
            c.store(code, Ordering::Relaxed);
        }
        op
    }

    /// The gated linear unit of a GLU of this ggml, by its first parameter.
    #[inline]
    pub fn glu(&self, number: i32) -> Option<Glu> {
        // SAFETY: the number comes from a GLU of this ggml, which therefore knows it.
        let ask = || unsafe { self.functions.glu_op_name(number) }.and_then(Glu::named);
        let code = Self::remembered(&self.units, number, || ask().map(|glu| glu as u8))?;
        Glu::ALL.get(usize::from(code)).copied()
    }

    /// The function of a UNARY of this ggml, by its first parameter.
    #[inline]
    pub fn unary(&self, number: i32) -> Option<Unary> {
        // SAFETY: the number comes from a UNARY of this ggml, which therefore knows it.
        let ask = || unsafe { self.functions.unary_op_name(number) }.and_then(Unary::named);
        let code = Self::remembered(&self.unaries, number, || ask().map(|unary| unary as u8))?;
        Unary::ALL.get(usize::from(code)).copied()
    }

    /// What `ask` returns, which is asked for each number once.
    #[inline]
    fn remembered(known: &[AtomicU8; FUNCTIONS], number: i32, ask: impl FnOnce() -> Option<u8>) -> Option<u8> {
        let slot = known.get(usize::try_from(number).ok()?)?;
        match slot.load(Ordering::Relaxed) {
            0 => {
                let found = ask();
                slot.store(found.map_or(1, |code| code + 2), Ordering::Relaxed);
                found
            }
            1 => None,
            code => Some(code - 2),
        }
    }

    /// The name that `ask` returns for a number of a tensor. A missing name is counted.
    fn name(number: c_int, ask: impl FnOnce(c_int) -> Option<&'static str>) -> Option<&'static str> {
        // No release has more than 256 operations or types.
        let name = u8::try_from(number).ok().and_then(|n| ask(n.into()));
        if name.is_none() {
            stats::event_once(Reason::GgmlAnswerOdd);
        }
        name
    }

    /// The name of a type number of a tensor.
    fn type_name(&self, number: c_int) -> Option<&'static str> {
        // SAFETY: the number comes from a tensor of this ggml, which therefore knows it.
        Self::name(number, |number| unsafe { self.functions.types.name(number) })
    }

    /// Whether a type number is that of 32-bit integers.
    pub fn is_i32(&self, number: c_int) -> bool {
        self.type_name(number) == Some("i32")
    }

    /// The weight type of a type number; `None` when no kernel has the type, or when its blocks differ from the blocks
    /// that the kernels were written for.
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
        let name = self.type_name(number);
        // SAFETY: the number comes from a tensor of this ggml, which therefore knows it.
        let block = unsafe { self.functions.types.block(number) };
        if let (Ok(n), Some(name)) = (u8::try_from(number), name) {
            stats::set_type_name(n, name);
        }
        let named = WeightType::ALL.iter().position(|t| Some(t.ggml_name()) == name);
        let found = named.filter(|&i| WeightType::ALL[i].block() == block);
        if named != found {
            stats::event_once(Reason::GgmlAnswerOdd);
        }
        self.types[number as usize].store(found.map_or(1, |i| i as u8 + 2), Ordering::Relaxed);
        found.map(|i| WeightType::ALL[i])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Otherwise the graph's plan would not know that this library computes them.
    #[test]
    fn a_view_is_never_computed() {
        for name in ["NONE", "VIEW", "RESHAPE", "PERMUTE", "TRANSPOSE"] {
            assert_eq!(Operation::named(name), None, "{name}");
        }
    }
}
