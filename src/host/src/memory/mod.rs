//! Memory: mappings and pages (`map`), and how much of it may be used (`budget`).

pub mod budget;
pub mod map;

pub use budget::{Budget, Pressure};
pub use map::{FileId, Pages, Region, transparent_huge_pages};
