//! `zen5turbo report`: one page from records of any age and machine.
//!
//! Nothing is lost: every file below the paths is either in the page or in its list of what was left out, with the reason.

mod contents;
mod derive;
mod gather;
mod html;
mod markdown;
mod page;
mod pairs;
mod plot;
mod read;
mod sections;

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};

use sections::Price;

/// Make one page from records: HTML that needs nothing else, or Markdown
///
/// Reads what `ab` (--csv, --json, --jsonl), `ab --serve`, `tune`, `bios record` and the benches of scripts/record.sh
/// write. Files that cannot be read are listed in the page with the reason, and on stderr. Exit status: 0 written,
/// 1 error: there is no record at the paths, or the page cannot be written.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Records, or folders of records
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// What to make
    #[arg(long, value_enum, default_value = "html")]
    format: Format,
    /// File to write [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Price of the machine for an hour: the page says what a million tokens cost
    #[arg(long, value_name = "PER_HOUR", value_parser = price)]
    price: Option<f64>,
    /// Currency of the price
    #[arg(long, value_name = "NAME", default_value = "USD", requires = "price")]
    currency: String,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// One file, for light and dark, phones and paper
    Html,
    /// Tables only
    Markdown,
}

/// Reads, and writes the page.
pub fn run(args: &Args) -> Result<ExitCode> {
    let gathered = gather::gather(&args.paths)?;
    for problem in gathered.left_out.iter().filter_map(|file| file.problem()) {
        eprintln!("zen5turbo: left out: {problem}");
    }
    ensure!(
        !gathered.files.is_empty(),
        "no record was found at {}; expected what `zen5turbo ab`, `tune`, `bios record` or scripts/record.sh write",
        args.paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    );
    let price = args.price.map(|per_hour| Price { per_hour, currency: args.currency.clone() });
    let page = sections::page(&gathered, price.as_ref())?;
    let text = match args.format {
        Format::Html => html::render(&page),
        Format::Markdown => markdown::render(&page),
    };
    match &args.output {
        Some(path) => fs::write(path, text).with_context(|| {
            format!("cannot write the page {}; expected a place with room: name another with --output", path.display())
        })?,
        None => match std::io::stdout().write_all(text.as_bytes()) {
            // A reader that has seen enough, such as `head`.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
            written => written.context("cannot write to stdout")?,
        },
    }
    Ok(ExitCode::SUCCESS)
}

fn price(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(price) if price.is_finite() && price > 0.0 => Ok(price),
        _ => Err("expected a number above 0, such as 0.85".to_owned()),
    }
}
