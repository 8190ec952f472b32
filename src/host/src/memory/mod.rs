//! Memory: mappings and pages (`map`), the page cache (`page_cache`, `samples`), how much memory may be used (`budget`),
//! and transparent huge pages (`thp`).

pub mod budget;
pub mod map;
pub mod page_cache;
pub mod samples;
pub mod thp;

pub use budget::{Budget, Pressure};
pub use map::{FileId, Pages, Region};
pub use thp::Thp;
