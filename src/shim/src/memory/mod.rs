//! The memory under the weights.
//!
//! llama.cpp maps a model file and reads the weights from the page cache, in pages of 4 KiB. Here
//! the mapping is placed at an address that huge pages can lie at ([`weights::map`]), the graphs tell
//! which parts of it matrix products read ([`weights::used`]), and after the first graph a thread
//! in the background ([`promoter`]) replaces these parts by huge pages with the same bytes. Whatever
//! the program does to the mapping goes through [`changes`], which knows what must not happen to a
//! replaced page.

pub mod changes;
pub mod counters;
mod fit;
mod laps;
mod mapping;
pub mod pace;
pub mod promoter;
pub mod reader;
pub mod registry;
#[cfg(test)]
mod tests;
pub mod weights;
