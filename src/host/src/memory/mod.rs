//! Memory: mappings and pages (`map`), and how much of it may be used (`budget`),
//! and transparent huge pages (`thp`).

pub mod budget;
pub mod map;
pub mod thp;

pub use budget::{Budget, Pressure};
pub use map::{FileId, Pages, Region};
pub use thp::Thp;
