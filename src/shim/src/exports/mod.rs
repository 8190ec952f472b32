//! The symbols this library exports, and nothing else.

pub mod buffers;
pub mod bufts;
pub mod capi;
pub mod ops;
