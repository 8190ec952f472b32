//! Keeping threads out of each other's cache lines.

/// Keeps what one thread writes away from what others read.
#[repr(align(64))]
#[derive(Default)]
pub struct Padded<T>(pub T);
