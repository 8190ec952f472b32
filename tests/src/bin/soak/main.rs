//! `soak`: keeps llama-server under the shim and under load, and looks whether anything drifts.
//!
//! In this order, all of it within `--duration`:
//! 1. Stock alone, on two or three of its own paths: how far apart are their log-probabilities of a given text?
//! 2. A first server under the shim answers fixed prompts; its answers and log-probabilities are the reference,
//!    and the latter must not be further from stock than stock's paths are from each other.
//! 3. A second one is put under load by several clients, in cycles. After each cycle nothing else runs while the
//!    fixed prompts are asked again: the same tokens and log-probabilities, to the last bit, as from the first server.
//!    (Under load the composition of a batch may change the order of sums; the README of llama-server says so of
//!    stock. So answers under load are compared and reported, not required to be the same.) In longer cycles, and in the last one, the memory
//!    of the server is squeezed for a while, so that copies of weights are given back and made again.
//! 4. SIGTERM: exit status 0, complete statistics without an unexpected reason, every task in the log.
//!
//! Writes `report.jsonl` (a line a minute), `summary.json` and the servers' logs. Exit status 1 and one line that
//! says what was found and expected when something is wrong.

mod answers;
mod client;
mod distance;
mod load;
mod log;
mod options;
mod phases;
mod report;
mod server;
mod statistics;
mod watch;

use clap::Parser;

fn main() -> std::process::ExitCode {
    let options = options::Options::parse();
    match phases::soak(&options) {
        Ok(summary) => {
            println!("soak: {summary}");
            std::process::ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("soak: {error:#}; reports and logs: {}", options.out.display());
            std::process::ExitCode::FAILURE
        }
    }
}
