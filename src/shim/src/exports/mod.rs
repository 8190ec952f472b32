//! The symbols this library exports, and nothing else. A program that fuzzes parts of it must not have those that
//! stand for libc's or start something; the rest refers to `direct`.

#[cfg(not(feature = "fuzzing"))]
pub mod blas;
#[cfg(not(feature = "fuzzing"))]
pub mod buffers;
#[cfg(not(feature = "fuzzing"))]
pub mod bufts;
#[cfg(not(feature = "fuzzing"))]
pub mod capi;
pub mod direct;
#[cfg(not(feature = "fuzzing"))]
pub mod mapping;
#[cfg(not(feature = "fuzzing"))]
mod next;
// A test program keeps the C library's own: the constructor that readies these does not run there.
#[cfg(not(any(test, feature = "fuzzing")))]
pub mod copies;
#[cfg(not(any(test, feature = "fuzzing")))]
pub mod heap;
#[cfg(not(feature = "fuzzing"))]
pub mod ops;
#[cfg(not(feature = "fuzzing"))]
pub mod threads;
