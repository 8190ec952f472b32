//! Keeps threads out of each other's cache lines.

/// A value in a cache line of its own, so that a thread that writes it does not disturb threads that read other values.
#[repr(align(64))]
#[derive(Default)]
pub struct Padded<T>(pub T);
