//! `streams`: bytes per second that this machine's threads read together, by the pages they read from.
//! The yardstick for token generation, which reads every weight once a token.

use anyhow::Result;
use clap::Parser;
use zen5turbo_bench::memory::{Memory, Pages};
use zen5turbo_peaks::memory::uncached_bytes;
use zen5turbo_peaks::stream::read_rate;

/// Streaming reads: one line for each kind of pages and number of threads, as CSV
#[derive(Parser, Debug)]
#[command(name = "streams")]
struct Args {
    /// Numbers of threads
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_value = "1")]
    threads: Vec<usize>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    println!("pages,threads,bytes_per_s,huge_share");
    for pages in Pages::ALL {
        let memory = Memory::repeat(&vec![0x5a; 1 << 20], uncached_bytes() >> 20, pages)?;
        for &threads in &args.threads {
            let (rate, _) = read_rate(memory.bytes(), threads);
            println!("{},{threads},{rate:.0},{:.2}", pages.name(), memory.huge_share());
        }
    }
    Ok(())
}
