//! Attention (`FLASH_ATTN_EXT`): which ones are computed here, and how they are cut for the threads.
//!
//! Query heads that share a head of keys and values are computed together, several tokens at a time.
//!
//! - Many tokens are cut by heads and tokens ([`Order::Heads`]).
//! - Few tokens read each key and value once, so they are cut by keys ([`Order::Keys`]). The heads of a key lie beside
//!   each other, and are computed one after the other. The sums of the parts are added up at the end.
//!
//! `decide` makes a `job` for an attention that is computed here. The jobs are part of a graph's plan ([`Attentions`]),
//! and [`super::execute`] computes them.

mod decide;
mod heads;
mod job;
mod list;
mod order;

pub use job::Job;
pub use list::{Attentions, Node};
pub use order::{Order, part};
