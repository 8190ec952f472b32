//! What this machine can do at most: streaming reads and copies, latencies, clock, multiply-adds.
//!
//! All are measured, in the run that uses them: clock rates and memory bandwidth of one machine
//! differ from day to day (boost, neighbours on a shared host), and data sheets give neither the
//! bandwidth of one thread nor that of a file mapping. The best of several repetitions counts, for a
//! peak is what the machine reaches undisturbed.

pub mod chase;
pub mod memory;
pub mod pair;
pub mod rate;
pub mod stream;
mod together;
