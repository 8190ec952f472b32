//! The symbols this library exports, and nothing else.

pub mod bufts;
pub mod capi;
pub mod ops;
