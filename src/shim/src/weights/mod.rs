//! The memory of the weights: where the model file is mapped, when it is read, and which weights are copied.
//!
//! llama.cpp maps a model file and reads the weights from the page cache, in pages of 4 KiB. This folder changes three
//! things:
//!
//! - [`mapping`] maps the file at an address that is aligned for huge pages.
//! - [`reader`] reads the file before the products need it.
//! - [`copies`] chooses weights to be copied to huge pages or to another NUMA node, when that pays. The graphs report
//!   which weights the kernels of this library read. After the first graph, a background thread ([`copier`]) copies
//!   these weights to memory of this library, and the next graphs read the copies.
//!
//! All files use one table of the program's mappings ([`sources`]). [`laps`] and [`fit`] handle models that do not fit
//! in memory.

pub mod copier;
pub mod copies;
pub mod counters;
mod fit;
mod laps;
pub mod mapping;
pub mod pace;
pub mod reader;
pub mod sources;
#[cfg(test)]
mod tests;
