//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

/// Keeps llama-server under load, with the shim, and checks answers, memory, descriptors and mappings.
#[derive(Parser, Debug)]
pub struct Options {
    /// All of it, e.g. 24h, 30m, 2m or 90s
    #[arg(long, value_parser = duration, default_value = "24h")]
    pub duration: Duration,
    /// Folder for report.jsonl, summary.json and logs; made when it is missing
    #[arg(long)]
    pub out: PathBuf,
    /// A model whose context can be shifted (no sliding window)
    #[arg(long)]
    pub model: PathBuf,
    /// Context of each slot, in tokens
    #[arg(long, default_value_t = 4096)]
    pub context: usize,
    /// Slots of the server
    #[arg(long, default_value_t = 4)]
    pub slots: usize,
    /// Clients that ask at the same time; more than slots, so that some wait
    #[arg(long, default_value_t = 6)]
    pub clients: u64,
    /// Threads of the server
    #[arg(long, default_value_t = 2)]
    pub threads: usize,
    /// Begins the random numbers of the load
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// The same without the shim: what stock itself does (log-probabilities are not compared)
    #[arg(long)]
    pub stock: bool,
}

/// `24h`, `30m`, `90s`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration; expected a number and h, m or s, such as 24h, 30m, 90s");
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let seconds = match unit {
        "h" => 3600,
        "m" => 60,
        "s" => 1,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    Ok(Duration::from_secs(number.checked_mul(seconds).filter(|&s| s > 0).ok_or_else(wrong)?))
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn durations_have_a_number_and_a_unit() {
        assert_eq!(["24h", "30m", "90s"].map(|t| duration(t).unwrap().as_secs()), [86_400, 1800, 90]);
        assert!(["", "h", "12", "1.5h", "-1m", "0s", "5é"].iter().all(|t| duration(t).is_err()));
    }
}
