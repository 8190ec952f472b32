//! A graph in execution: what is known of its nodes, who computes which, and how.
//!
//! `ggml_graph_compute` is called by one thread; before it starts the others, [`plan`] walks the
//! nodes and decides for every matrix product and attention: taken or declined, with which kernel, cut into which
//! pieces, with which scratch. Everything that can fail happens there. The threads then find the
//! plan by the graph's work buffer ([`context`]), which is theirs alone while the graph runs, and
//! all of them read the same decision.

mod attention;
pub mod blas_device;
pub mod blas_route;
pub mod buffer_types;
mod by_columns;
mod context;
mod dense;
mod execute;
mod expert_pieces;
mod experts;
mod groups;
mod index;
pub mod lifecycle;
pub mod operation;
mod padded;
mod plan;
mod policy;
