//! The symbols this library exports, and nothing else.

pub mod bufts;
pub mod capi;
pub mod mapping;
mod next;
pub mod ops;
