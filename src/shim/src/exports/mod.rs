//! The symbols this library exports, and nothing else.

pub mod blas;
pub mod buffers;
pub mod bufts;
pub mod capi;
pub mod direct;
pub mod mapping;
mod next;
// A test program keeps the C library's own: the constructor that readies these does not run there.
#[cfg(not(test))]
pub mod copies;
#[cfg(not(test))]
pub mod heap;
pub mod ops;
