//! `zen5turbo`, the companion command of libzen5turbo.so. A library, so that the folder `fuzz` reaches its readers.

mod ab;
mod abi;
mod bios;
mod common;
mod doctor;
mod elf;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod glibc;
mod interposition;
mod knobs;
mod library;
mod live;
mod loader;
mod manual;
mod maps;
mod report;
mod run;
mod setup;
mod shim;
mod shim_stats;
mod slice;
mod stats;
mod threads;
mod top;
mod tune;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

// The rest of the crate names these without the folder: `crate::text`.
use common::{
    bandwidth, chart, interleave, interrupt, llama_bench, llama_program, llama_server, page, page_cache, process,
    programs, record, root, smaps, statistics, text,
};

/// The companion of libzen5turbo.so, which makes an unmodified llama.cpp faster on AMD Zen 5
#[derive(Parser, Debug)]
#[command(name = "zen5turbo", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Doctor(doctor::Args),
    Run(Box<run::Args>),
    Setup(Box<setup::Args>),
    Ab(Box<ab::Args>),
    Slice(slice::Args),
    Tune(tune::Args),
    Bios(bios::Args),
    Report(report::Args),
    Stats(stats::Args),
    Top(top::Args),
    Man(manual::ManArgs),
    Completions(manual::CompletionArgs),
    /// What a ggml library says of its structures, as JSON; for doctor, which asks in a process of its own
    #[command(hide = true)]
    Abi(abi::Args),
    /// Computes products in ggml when told to; for tune, which compares two of these
    #[command(hide = true)]
    TuneWorker(tune::WorkerArgs),
}

/// The command, with the arguments of this process.
#[must_use]
pub fn run_command() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Doctor(args) => doctor::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Setup(args) => setup::run(&args),
        Command::Ab(args) => ab::run(*args),
        Command::Slice(args) => slice::run(&args),
        Command::Tune(args) => tune::run(&args),
        Command::Bios(args) => bios::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Stats(args) => stats::run(&args),
        Command::Top(args) => top::run(&args),
        Command::Man(args) => manual::man::<Cli>(&args),
        Command::Completions(args) => manual::completions::<Cli>(&args),
        Command::Abi(args) => abi::run(&args),
        Command::TuneWorker(args) => tune::work(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("zen5turbo: {error:#}");
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
