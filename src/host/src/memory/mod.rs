//! Memory: mappings and pages (`map`), the page cache (`page_cache`, `samples`), how much memory may be used (`budget`),
//! descriptors of our own (`marked_file`), and transparent huge pages (`thp`).

pub mod budget;
pub mod map;
pub mod marked_file;
pub mod page_cache;
pub mod samples;
pub mod thp;

pub use budget::{Budget, Pressure};
pub use map::{FileId, Pages, Region};
pub use marked_file::MarkedFile;
pub use thp::Thp;
