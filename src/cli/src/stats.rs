//! `zen5turbo stats`: a statistics file as a table.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use crate::engagement::Stats;
use crate::text;

/// Show a file written by ZEN5TURBO_STATS=FILE as a table
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The JSON file
    file: PathBuf,
}

/// Prints the file; its errors are the only failure.
pub fn run(args: &Args) -> Result<ExitCode> {
    print!("{}", render(&Stats::read(&args.file)?));
    Ok(ExitCode::SUCCESS)
}

fn render(stats: &Stats) -> String {
    let or = |value: &Option<String>| value.clone().unwrap_or_else(|| "?".into());
    let pid = stats.pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
    let mut out = text::facts(&[
        ("program", format!("{}{pid}", or(&stats.program))),
        ("shim", or(&stats.version)),
        ("CPU", or(&stats.cpu)),
        ("gate", format!("{}: {}", or(&stats.gate_mode), or(&stats.gate_decision))),
        ("kernel tier", or(&stats.tier)),
    ]);
    for (name, value) in stats.config.iter().filter(|(_, value)| !value.is_empty()) {
        out += &format!("{name}={value}\n");
    }
    for (path, status) in &stats.ggml {
        out += &format!("ggml copy    {path}: {status}\n");
    }
    if let Some(threads) = stats.threads.line_of_all() {
        out += &text::facts(&[("threads", threads)]);
    }
    if let Some(barriers) = stats.barriers {
        out += &text::facts(&[("barriers", barriers.line())]);
    }
    let mut table = text::table();
    table.set_header(["operation", "type", "taken", "time", "weights read", "GMAC/s", "kernels", "declined"]);
    for ((op, kind), c) in &stats.ops {
        let kernels: Vec<String> = c.kernels.iter().map(|(k, v)| format!("{k}: {v}")).collect();
        let declined: Vec<String> = c.declined.iter().map(|(k, v)| format!("{k} {v}")).collect();
        // MAC per nanosecond is GMAC/s.
        let rate = if c.ns > 0 { format!("{:.1}", c.mac as f64 / c.ns as f64) } else { "-".into() };
        table.add_row([
            op.clone(),
            kind.clone(),
            c.taken.to_string(),
            format!("{:.3} s", c.ns as f64 / 1e9),
            text::bytes(c.bytes),
            rate,
            kernels.join("\n"),
            declined.join("\n"),
        ]);
    }
    text::right(&mut table, 2..=5);
    if stats.computed == Some(false) {
        out += "Nothing was computed: no graph had ended in this process when the file was written. Programs that only list \
                devices or models leave such a file.\n";
    } else if stats.ops.is_empty() {
        out += "No operation reached the shim: nothing was taken over and nothing declined. `zen5turbo doctor PROGRAM` tells why.\n";
    } else {
        out += &format!("{table}\n");
        out += &format!("{} calls taken over, {} left to the original\n", stats.taken(), stats.declined());
    }
    for (event, n) in &stats.events {
        out += &format!("event        {event}: {n}\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_operations_says_that_nothing_was_taken_over() {
        for text in ["{}", r#"{"computed":true}"#] {
            let out = render(&Stats::parse(text).unwrap());
            assert!(out.contains("nothing was taken over"), "{out}");
        }
    }

    #[test]
    fn a_file_of_a_program_that_computed_nothing_says_so() {
        let out = render(&Stats::parse(r#"{"state":"active","computed":false,"ops":{}}"#).unwrap());
        assert!(out.contains("Nothing was computed") && !out.contains("taken over"), "{out}");
    }

    #[test]
    fn threads_are_told_where_graphs_got_fewer_than_asked() {
        let of = |capped: u64| {
            let text = format!(
                r#"{{"threads":{{"asked":8,"used":2,"budget":2,"capped":{capped}}},"threads_limit":"CPUs allowed: 0-1"}}"#
            );
            render(&Stats::parse(&text).unwrap())
        };
        let line = "threads      asked 8, used 2 (CPUs allowed: 0-1); 5 graphs got fewer than asked\n";
        assert!(of(5).contains(line), "{}", of(5));
        assert!(!of(0).contains("threads"), "{}", of(0));
    }

    #[test]
    fn operations_are_rows_with_rate_kernels_and_reasons() {
        let stats = Stats::parse(
            r#"{"ops":{"MUL_MAT":{"q8_0":{"taken":4,"ns":1000,"mac":50000,"bytes":2097152,
               "kernels":{"prefill":"q8_0_avx2"},"declined":{"permuted_src0":2}}}}}"#,
        )
        .unwrap();
        let out = render(&stats);
        for part in ["MUL_MAT", "q8_0", "50.0", "2.0 MiB", "prefill: q8_0_avx2", "permuted_src0 2"] {
            assert!(out.contains(part), "{part} in\n{out}");
        }
    }
}
