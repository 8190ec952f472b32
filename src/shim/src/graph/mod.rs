//! Plans the operations of a graph, and computes them.
//!
//! One thread of the program calls `ggml_graph_compute`. Before ggml starts the other threads, [`plan`] walks the
//! nodes. For every matrix product and every attention it decides: is it computed here, by which kernel, cut into which
//! pieces, with which scratch memory. Everything that can fail happens there.
//!
//! The threads then find the plan by the graph's work buffer ([`context`]), which no other graph uses at the same time.
//! So all threads of a graph read the same decision.
//!
//! Operations of other kinds ([`ops`]) need no plan.

mod attention;
pub mod blas_device;
pub mod blas_route;
pub mod buffer_types;
mod by_columns;
mod claims;
mod context;
mod dense;
mod execute;
mod expert_pieces;
mod experts;
mod groups;
mod index;
pub mod lifecycle;
pub mod operation;
mod ops;
mod padded;
mod plan;
mod policy;
#[cfg(test)]
mod scaling_tests;
