//! The memory that the weights lie in.
//!
//! llama.cpp maps a model file and reads the weights from the page cache, in pages of 4 KiB. Here the mapping is placed at an
//! address that huge pages can lie at ([`mapping::map`]), and the file is read ahead of the products ([`reader`]). Where it
//! pays, the graphs tell which weights products of ours read ([`copies::want`]), and after the first graph a thread in the
//! background ([`copier`]) copies these to memory of ours, from where the next graphs read them. All of them share one table of
//! the program's mappings ([`sources`]).

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
