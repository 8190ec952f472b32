//! What the library tells of itself, for the one who writes it and for the one who reads it.
//!
//! libzen5turbo.so counts into a [`live`] segment and writes the statistics [`document`]; the command `zen5turbo` reads both. The
//! names of [`Reason`]s, of operations and of the document's members, and the layout of the segment, are written here once.
//! The feature `read`, which the command has, adds reading to the document.

pub mod document;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod json;
pub mod live;
pub mod member;
pub mod operation;
pub mod reason;

pub use document::Document;
pub use json::Json;
pub use member::Member;
pub use operation::{GRAPHS_BY_COLUMNS, OpKind};
pub use reason::Reason;
