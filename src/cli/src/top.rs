//! `zen5turbo top`: running programs under the shim, as they run.

pub mod frame;
mod live;
mod plain;
mod view;
mod words;

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};

use crate::bandwidth::Kept;
use crate::live as segment;
use crate::root::Root;
use frame::{Frame, Reading};
use plain::Seen;

/// Show what the shim does in running programs: tokens per second, bytes per second, operations, huge pages
///
/// The counters are those that the program itself counts with, in shared memory that only its user may read: looking
/// costs the program nothing. A graph of one column is one token of one sequence; with several models or backends in a program
/// it may compute more than one such graph for a token. Weights per second are bytes of weights that products read, by the
/// clock and by the time that products took; what they are compared with is measured only when asked for (key b,
/// --bandwidth), since that takes bandwidth from the program, and kept in ~/.cache/zen5turbo/bandwidth.json.
///
/// Keys: q or Ctrl-C quits, arrows choose a program. Exit status of --once: 1 when there is no such program.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Print one snapshot as text and end; also when stdout is no terminal
    #[arg(long)]
    once: bool,
    /// Print one snapshot as a JSON object: schema, version, bandwidth, programs
    #[arg(long)]
    json: bool,
    /// Seconds between readings, which rates are over
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = interval)]
    interval: f64,
    /// Measure first how fast this machine reads memory: 0.3 s that disturb running programs
    #[arg(long)]
    bandwidth: bool,
    /// Only this process
    #[arg(value_name = "PID")]
    pid: Option<u32>,
}

fn interval(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds @ 0.05..=3600.0) => Ok(seconds),
        _ => Err("expected seconds from 0.05 to 3600".into()),
    }
}

/// Shows the programs until a key ends it, or once.
pub fn run(args: &Args) -> Result<ExitCode> {
    let limit = if args.bandwidth { Kept::measure() } else { Kept::last() };
    let root = Root::new(Path::new("/"));
    if !args.once && !args.json && std::io::stdout().is_terminal() {
        return live::run(&root, args, limit);
    }
    let programs = snapshot(&root, args)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&plain::json(&programs, limit.as_ref()))?);
    } else {
        print!("{}", plain::text(&programs, limit.as_ref()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Two readings of every program, an interval apart. One that has ended meanwhile is left out.
fn snapshot(root: &Root, args: &Args) -> Result<Vec<Seen>> {
    let read = |pid| Reading::of(root, pid).map_err(|absent| anyhow!("process {pid}: {absent}"));
    let first: Vec<(u32, Reading)> = match args.pid {
        Some(pid) => vec![(pid, read(pid)?)],
        None => segment::find(root).into_iter().filter_map(|pid| told(pid, read(pid))).collect(),
    };
    if first.is_empty() {
        bail!(words::NO_PROGRAM);
    }
    thread::sleep(Duration::from_secs_f64(args.interval));
    let seen = |(pid, before): (u32, Reading)| {
        let now = Reading::of(root, pid).ok()?;
        Some(Seen { frame: Frame::new(pid, &now, Some(&before)), statistics: now.statistics })
    };
    let programs: Vec<Seen> = first.into_iter().filter_map(seen).collect();
    if programs.is_empty() {
        bail!(
            "the programs ended while they were looked at; expected them to run for --interval seconds: try a shorter one"
        );
    }
    Ok(programs)
}

/// What cannot be read does not keep the others from being shown.
fn told(pid: u32, reading: Result<Reading>) -> Option<(u32, Reading)> {
    match reading {
        Ok(reading) => Some((pid, reading)),
        Err(error) => {
            eprintln!("zen5turbo: {error}");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_a_number_of_seconds() {
        assert_eq!(interval("0.5"), Ok(0.5));
        for bad in ["0", "-1", "x", "nan", "inf", "4000"] {
            assert!(interval(bad).is_err(), "{bad}");
        }
    }
}
