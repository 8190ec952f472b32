//! One thread's part of the operations that a plan takes over.

pub mod attention;
pub mod claim_pieces;
pub mod product;
