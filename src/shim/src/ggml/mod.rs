//! ggml as this library sees it: the structures it reads, the copies of the library that a process
//! holds, and the check that both fit.

pub mod abi;
pub mod bindings;
pub mod bound;
pub mod checked;
pub mod copies;
pub mod probe;
