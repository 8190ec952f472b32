//! The options of `ab --serve`.

use std::path::PathBuf;

use clap::ValueEnum;

/// The three ways to load a server, as MLPerf names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Scenario {
    /// One client: a request follows the answer to the one before
    SingleStream,
    /// All requests at once
    Offline,
    /// Requests arrive by chance, at a rate
    Server,
}

impl Scenario {
    /// Its name in records.
    pub fn key(self) -> &'static str {
        match self {
            Scenario::SingleStream => "single_stream",
            Scenario::Offline => "offline",
            Scenario::Server => "server",
        }
    }

    /// Its name for readers.
    pub fn name(self) -> &'static str {
        match self {
            Scenario::SingleStream => "single stream",
            Scenario::Offline => "offline",
            Scenario::Server => "server",
        }
    }
}

/// What is asked of llama-server, and how.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Serving")]
pub struct ServeArgs {
    /// Measure llama-server under load instead of llama-bench: one client, arrivals by chance, all at once
    #[arg(long, conflicts_with_all = [
        "pp", "tg", "depth", "batch_size", "ubatch_size", "batch", "max_pairs", "precision", "cold", "quality", "chunks", "csv",
        "html", "no_load",
    ])]
    pub serve: bool,
    /// Which scenarios
    #[arg(
        long,
        value_name = "NAME,NAME",
        value_delimiter = ',',
        requires = "serve",
        hide_possible_values = true,
        default_value = "single-stream,offline,server"
    )]
    pub scenarios: Vec<Scenario>,
    /// Slots of the server, which is how many answers it makes at once
    #[arg(long, value_name = "N", requires = "serve", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub clients: u32,
    /// Requests of a scenario in a run; of the server scenario at least so many for each rate
    #[arg(long, value_name = "N", requires = "serve", default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub requests: u32,
    /// Tokens of an answer
    #[arg(long, value_name = "N", requires = "serve", default_value_t = 64, value_parser = clap::value_parser!(u32).range(2..=100_000))]
    pub answer_tokens: u32,
    /// Words of a prompt: between these two, short ones more often
    #[arg(long, value_name = "LOW,HIGH", requires = "serve", default_value = "40,400", value_parser = words)]
    pub prompt_words: (u32, u32),
    /// What prompts are taken from: a text, or a folder of .md and .txt files [default: llama.cpp's pages, else a text of ours]
    #[arg(long, value_name = "PATH", requires = "serve")]
    pub text: Option<PathBuf>,
    /// Share of the prompts that begin with the same 100 words, as with a system prompt
    #[arg(long, value_name = "SHARE", requires = "serve", default_value_t = 0.5, value_parser = share)]
    pub shared: f64,
    /// Share of the clients that hang up half-way, in the server scenario
    #[arg(long, value_name = "SHARE", requires = "serve", default_value_t = 0.1, value_parser = share)]
    pub cancel: f64,
    /// Requests a second of the server scenario [default: search for the highest rate within the bounds]
    #[arg(long, value_name = "RATE", requires = "serve", value_parser = rate)]
    pub rate: Option<f64>,
    /// Shortest time for one rate, seconds: a high rate gets more requests
    #[arg(long, value_name = "S", requires = "serve", default_value_t = 20.0, value_parser = positive)]
    pub rate_seconds: f64,
    /// Bound of the 99th percentile of the time to the first token, ms (MLPerf's for Llama 2 70B)
    #[arg(long, value_name = "MS", requires = "serve", default_value_t = 2000.0, value_parser = positive)]
    pub first_token_ms: f64,
    /// Bound of the 99th percentile of the time between tokens, ms (MLPerf's for Llama 2 70B)
    #[arg(long, value_name = "MS", requires = "serve", default_value_t = 200.0, value_parser = positive)]
    pub between_tokens_ms: f64,
    /// Chooses prompts, arrivals and who hangs up; the same for all arms
    #[arg(long, value_name = "N", requires = "serve", default_value_t = 1)]
    pub seed: u64,
    /// Port of the servers [default: a free one for each]
    #[arg(long, value_name = "N", requires = "serve", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
}

fn words(text: &str) -> Result<(u32, u32), String> {
    let (low, high) = text.split_once(',').unwrap_or((text, text));
    match (low.trim().parse(), high.trim().parse()) {
        (Ok(low), Ok(high)) if 1 <= low && low <= high && high <= 1_000_000 => Ok((low, high)),
        _ => Err("expected two numbers of words, the smaller one first, such as 40,400".to_owned()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if (0.0..=1.0).contains(&value) => Ok(value),
        _ => Err("expected a share from 0 to 1, such as 0.5".to_owned()),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if value > 0.0 && value <= 1e6 => Ok(value),
        _ => {
            Err("expected requests per second above 0, such as 0.5; leave --rate out to search for the highest"
                .to_owned())
        }
    }
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if value > 0.0 && value <= 1e9 => Ok(value),
        _ => Err("expected a number above 0, such as 200".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_rate_share_or_range_is_refused_with_what_is_expected() {
        for text in ["0", "-1", "nan", "inf", "fast", ""] {
            assert!(rate(text).unwrap_err().contains("above 0"), "{text}");
            assert!(positive(text).unwrap_err().contains("above 0"), "{text}");
        }
        assert!(share("1.01").is_err() && share("nan").is_err());
        for text in ["400,40", "0,4", "a,b", "4,"] {
            assert!(words(text).unwrap_err().contains("such as 40,400"), "{text}");
        }
        assert_eq!((words("7"), words("40, 400")), (Ok((7, 7)), Ok((40, 400))));
        assert_eq!((rate("0.5"), share("0")), (Ok(0.5), Ok(0.0)));
    }
}
