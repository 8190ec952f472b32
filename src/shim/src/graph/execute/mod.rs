//! One thread's part of what a plan takes over.

pub mod attention;
pub mod claim_pieces;
pub mod product;
