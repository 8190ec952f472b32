//! `zen5turbo stats`: a statistics file as a table.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use zen5turbo_telemetry::Document;

use crate::shim_stats::{self, Barriers, Threads, or_unknown, single_functions};
use crate::text;

/// Show a file written by ZEN5TURBO_STATS=FILE as a table
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The JSON file
    file: PathBuf,
}

/// Prints the file; its errors are the only failure.
pub fn run(args: &Args) -> Result<ExitCode> {
    print!("{}", render(&shim_stats::read(&args.file)?));
    Ok(ExitCode::SUCCESS)
}

fn render(stats: &Document) -> String {
    let about = &stats.about;
    let or = |value: &str| or_unknown(value).to_owned();
    let pid = if about.pid == 0 { String::new() } else { format!(" (pid {})", about.pid) };
    let mut out = text::facts(&[
        ("program", format!("{}{pid}", or(&about.program))),
        ("shim", or(&about.version)),
        ("CPU", or(&about.cpu.brand)),
        ("gate", format!("{}: {}", or(&about.gate.mode), or(&about.gate.decision))),
        ("kernel tier", or(&about.tier)),
    ]);
    for (name, value) in about.config.iter().filter(|(_, value)| !value.is_empty()) {
        out += &format!("{name}={value}\n");
    }
    for copy in &about.ggml {
        out += &format!("ggml copy    {}: {}\n", copy.path, copy.status);
    }
    if let Some(threads) = Threads::of(stats).line_of_all() {
        out += &text::facts(&[("threads", threads)]);
    }
    if let Some(barriers) = Barriers::of_one_column(stats) {
        out += &text::facts(&[("barriers", barriers.line())]);
    }
    let mut table = text::table();
    table.set_header(["operation", "type", "taken", "time", "weights read", "GMAC/s", "kernels", "declined"]);
    for (op, kind, c) in stats.operations() {
        let kernels: Vec<String> = c.kernels.iter().map(|(k, v)| format!("{k}: {v}")).collect();
        let declined: Vec<String> = c.declined.iter().map(|(k, v)| format!("{k} {v}")).collect();
        // MAC per nanosecond is GMAC/s.
        let rate = if c.ns > 0 { format!("{:.1}", c.mac as f64 / c.ns as f64) } else { "-".into() };
        table.add_row([
            op.to_owned(),
            kind.to_owned(),
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
    } else if stats.operations().next().is_none() && stats.other_ops.is_empty() && single_functions(stats) == 0 {
        out += "No operation reached the shim: nothing was taken over and nothing declined. `zen5turbo doctor PROGRAM` tells why.\n";
    } else {
        if stats.operations().next().is_some() {
            out += &format!("{table}\n");
        } else if stats.other_ops.is_empty() {
            out += "No product reached the shim. `zen5turbo doctor PROGRAM` tells why.\n";
        }
        out += &singles(stats);
        out += &format!("{} calls taken over, {} left to the original\n", stats.taken(), stats.declined());
        out += &others(stats);
    }
    for (event, n) in &stats.events {
        out += &format!("event        {event}: {n}\n");
    }
    out
}

/// The functions that were taken over one by one, for rows and for repacked weights.
fn singles(stats: &Document) -> String {
    let taken: Vec<_> = stats.direct.iter().flatten().filter(|(_, function)| function.taken > 0).collect();
    if taken.is_empty() {
        return String::new();
    }
    let mut table = text::table();
    table.set_header(["single function", "calls taken over"]);
    for (name, function) in taken {
        table.add_row([name.clone(), function.taken.to_string()]);
    }
    text::right(&mut table, 1..=1);
    format!("{table}\n")
}

/// The operations that are no products and were taken over, in a table of their own. Most others are left to ggml, which is
/// nothing to look into: the file has them.
fn others(stats: &Document) -> String {
    let taken: Vec<_> = stats.other_ops.iter().filter(|(_, op)| op.taken > 0).collect();
    if taken.is_empty() {
        return String::new();
    }
    let mut table = text::table();
    table.set_header(["other operation", "taken", "read and written", "left to ggml"]);
    for (op, c) in taken {
        let declined: Vec<String> = c.declined.iter().map(|(k, v)| format!("{k} {v}")).collect();
        table.add_row([op.clone(), c.taken.to_string(), text::bytes(c.bytes), declined.join("\n")]);
    }
    text::right(&mut table, 1..=2);
    format!("{table}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shim_stats::parse;

    #[test]
    fn a_file_without_operations_says_that_nothing_was_taken_over() {
        for text in ["{}", r#"{"computed":true}"#] {
            let out = render(&parse(text).unwrap());
            assert!(out.contains("nothing was taken over"), "{out}");
        }
    }

    #[test]
    fn a_file_of_a_program_that_computed_nothing_says_so() {
        let out = render(&parse(r#"{"state":"active","computed":false,"ops":{}}"#).unwrap());
        assert!(out.contains("Nothing was computed") && !out.contains("taken over"), "{out}");
    }

    #[test]
    fn functions_that_were_taken_over_one_by_one_are_no_nothing() {
        let text =
            r#"{"computed":true,"direct":{"dequantize_row_q8_0":{"taken":265},"quantize_row_q8_K":{"taken":0}}}"#;
        let out = render(&parse(text).unwrap());
        assert!(!out.contains("nothing was taken over") && !out.contains("quantize_row_q8_K"), "{out}");
        assert!(out.contains("dequantize_row_q8_0") && out.contains("265"), "{out}");
        assert!(out.contains("No product reached the shim"), "{out}");
    }

    #[test]
    fn threads_are_told_where_graphs_got_fewer_than_asked() {
        let of = |capped: u64| {
            let text = format!(
                r#"{{"threads":{{"asked":8,"used":2,"budget":2,"capped":{capped}}},"threads_limit":"CPUs allowed: 0-1"}}"#
            );
            render(&parse(&text).unwrap())
        };
        let line = "threads      asked 8, used 2 (CPUs allowed: 0-1); 5 graphs got fewer than asked\n";
        assert!(of(5).contains(line), "{}", of(5));
        assert!(!of(0).contains("threads"), "{}", of(0));
    }

    #[test]
    fn operations_that_are_no_products_have_a_table_of_their_own() {
        let stats = r#"{"other_ops":{"MUL":{"taken":7,"bytes":1048576,"declined":{"shape_not_supported":2}},
            "ADD":{"taken":0,"bytes":0,"declined":{"stock_is_faster":9}}}}"#;
        let out = render(&parse(stats).unwrap());
        for part in ["other operation", "MUL", "1.0 MiB", "shape_not_supported 2"] {
            assert!(out.contains(part), "{part} in\n{out}");
        }
        assert!(!out.contains("stock_is_faster"), "{out}");
    }

    #[test]
    fn operations_are_rows_with_rate_kernels_and_reasons() {
        let stats = parse(
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
