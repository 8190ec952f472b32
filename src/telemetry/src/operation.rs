//! The operations that are counted, and the classes of graphs.

use crate::live::{GRAPH_CLASSES, OPS};

const _: () = assert!(OpKind::ALL.len() == OPS);

/// An operation of ggml that the library computes.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpKind {
    /// `GGML_OP_MUL_MAT`.
    MulMat = 0,
    /// `GGML_OP_MUL_MAT_ID`.
    MulMatId = 1,
    /// `GGML_OP_FLASH_ATTN_EXT`, counted by the type of its keys.
    FlashAttnExt = 2,
}

impl OpKind {
    /// Every kind, in the order of its number.
    pub const ALL: [Self; 3] = [Self::MulMat, Self::MulMatId, Self::FlashAttnExt];

    /// The name that `ggml_op_name` gives it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MulMat => "MUL_MAT",
            Self::MulMatId => "MUL_MAT_ID",
            Self::FlashAttnExt => "FLASH_ATTN_EXT",
        }
    }
}

/// Graphs by the columns of activations that met weights, in the order of their counters.
pub const GRAPHS_BY_COLUMNS: [&str; GRAPH_CLASSES] = ["0", "1", "2-16", "many"];
