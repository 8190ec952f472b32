//! What two subcommands or more share. Imports no subcommand.

pub mod bandwidth;
pub mod chart;
pub mod interleave;
pub mod interrupt;
pub mod llama_bench;
pub mod llama_program;
pub mod llama_server;
pub mod page;
pub mod page_cache;
pub mod process;
pub mod programs;
pub mod record;
pub mod root;
pub mod smaps;
pub mod statistics;
pub mod text;
