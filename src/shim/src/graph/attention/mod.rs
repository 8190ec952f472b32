//! Attention (`FLASH_ATTN_EXT`): which ones are computed here, and one thread's part of them.
//!
//! Query heads that share a head of keys and values are computed together, several tokens at a time. Many tokens are cut by
//! heads and tokens ([`Order::Heads`]). Few tokens read keys and values once, so they are cut by keys, and the heads of a key,
//! which lie beside each other, are computed one after the other ([`Order::Keys`]); what the parts give is put together at the end.
//!
//! `decide` takes an attention over as a `job`, which is part of a graph's plan ([`Attentions`]); [`super::execute`] computes it.

mod decide;
mod heads;
mod job;
mod list;
mod order;

pub use job::Job;
pub use list::{Attentions, Node};
pub use order::{Order, part};
