//! The live statistics of a program under the shim: a small shared memory, published by the shim and
//! read by `zen5turbo top` and `zen5turbo doctor PID`.
//!
//! It is a memfd, so nothing of it is left when the process ends, however it ends. Others find it through
//! `/proc/PID/fd`, which the kernel opens to the same user (and to root) only; its mode is 0600 as well.
//! Under a seccomp filter, which may kill at memfd_create, it is a file without a name in `/dev/shm`.
//! The counters in it are the very ones that the shim counts with: publishing costs nothing but their
//! place. The names that belong to the numbers are a text beside them, written again when one is added.

mod layout;
mod publish;
mod read;

pub use layout::{
    Barriers, Buffers, Cell, Copies, Counters, Graphs, NAME, OPS, Prefetch, REASONS, Segment, TEXT_BYTES, TYPES,
};
pub use layout::{GRAPH_CLASSES, OTHER_OPS, Threads, VERSION, Weights};
pub use publish::Published;
pub use read::{Snapshot, Unreadable, begins_like_one, is_segment, may_be_segment, parse, read};

/// Bytes of a segment, and how an honest one begins.
#[cfg(feature = "fuzzing")]
pub(crate) const BYTES: usize = size_of::<Segment<u64>>();
#[cfg(feature = "fuzzing")]
pub(crate) const HONEST: [u64; 3] = [layout::MAGIC, VERSION, BYTES as u64];

#[cfg(test)]
mod tests;
