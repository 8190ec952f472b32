//! The lines and cells of a program, the same on the screen and as text.

use super::frame::{Declined, Frame, Graphs, Operation};
use crate::bandwidth::Kept;
use crate::text;

/// What is not known yet.
const NONE: &str = "-";

/// Name and value of what is told in a line.
pub fn facts(frame: &Frame, limit: Option<&Kept>) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    for graphs in &frame.graphs {
        facts.push(line_of(graphs));
    }
    if frame.graphs.is_empty() {
        facts.push(("graphs", "none computed yet".to_owned()));
    }
    if frame.threads.asked > 0 {
        facts.push(("threads", frame.threads.line()));
    }
    let one_column = frame.graphs.iter().find(|graphs| graphs.columns == "1");
    if let Some(barriers) = one_column.and_then(|graphs| graphs.barriers) {
        facts.push(("barriers", barriers.line()));
    }
    facts.push(("weights", weights(frame, limit)));
    let copies = frame.copies;
    // With the default settings nothing is copied on one NUMA node.
    if copies.wanted > 0 {
        facts.push((
            "huge pages",
            format!(
                "{} of {} that products read, {:.0} %: {} in the page cache, {} copied, {} given back",
                text::bytes(copies.huge()),
                text::bytes(copies.wanted),
                100.0 * copies.share(),
                text::bytes(copies.cached),
                text::bytes(copies.copied),
                text::bytes(copies.given_back)
            ),
        ));
    }
    facts.push(("memory", memory(frame)));
    if frame.buffers > 0 {
        facts.push((
            "buffers",
            format!("{} of large buffers mapped on huge pages since the start", text::bytes(frame.buffers)),
        ));
    }
    if !frame.events.is_empty() {
        let events: Vec<String> = frame.events.iter().map(|(event, n)| format!("{event} {n}")).collect();
        facts.push(("events", events.join(", ")));
    }
    facts
}

fn line_of(graphs: &Graphs) -> (&'static str, String) {
    let rate = number(graphs.per_second);
    let columns = number(graphs.columns_per_second);
    let share = graphs.share.map_or(NONE.to_owned(), percent);
    let total = graphs.count;
    match graphs.columns.as_str() {
        "1" => (
            "generating",
            format!(
                "{rate} graphs of one column a second = tokens/s of one sequence; {share} of the time; {total} so far"
            ),
        ),
        "0" => ("other", format!("{rate} graphs without weights a second; {share} of the time; {total} so far")),
        "2-16" => (
            "batches",
            format!(
                "{rate} graphs of 2 to 16 columns a second, {columns} columns/s; {share} of the time; {total} so far"
            ),
        ),
        _ => (
            "prompts",
            format!("{rate} graphs of more columns a second, {columns} columns/s; {share} of the time; {total} so far"),
        ),
    }
}

fn weights(frame: &Frame, limit: Option<&Kept>) -> String {
    let (clock, product) = (frame.weights_per_second, frame.weights_per_product_second);
    let mut line = format!("{} read, {} while products run", gb(clock), gb(product));
    match limit.and_then(|kept| Some((kept, kept.best()?))) {
        Some((kept, best)) => {
            let of = |rate: Option<f64>| rate.map_or(NONE.to_owned(), |rate| percent(rate / best.rate));
            let threads = if best.threads == 1 { "thread" } else { "threads" };
            line += &format!(
                ": {} and {} of {} ({} {threads}, measured {}{})",
                of(clock),
                of(product),
                gb(Some(best.rate)),
                best.threads,
                kept.date,
                if kept.beside_others { " beside others: too low" } else { "" }
            );
        }
        None => line += " (the machine's limit is not measured: key b, or --bandwidth)",
    }
    line
}

fn memory(frame: &Frame) -> String {
    let usage = &frame.usage;
    format!(
        "{} resident: {} anonymous, {} of files; {} on reserved huge pages; {} CPUs busy",
        text::bytes(usage.rss),
        text::bytes(usage.anonymous),
        text::bytes(usage.file),
        text::bytes(usage.reserved_huge),
        number(frame.cpus)
    )
}

/// A program's row in the list.
pub const PROGRAMS: [&str; 8] =
    ["process", "program", "state", "1-column graphs/s", "columns/s", "weights", "huge pages", "resident"];

/// Its cells.
pub fn program(frame: &Frame) -> [String; 8] {
    [
        frame.pid.to_string(),
        frame.program.clone(),
        frame.state.clone(),
        number(frame.generated_per_second()),
        number(frame.columns_per_second()),
        gb(frame.weights_per_second),
        percent(frame.copies.share()),
        text::bytes(frame.usage.rss),
    ]
}

/// The columns of the operations.
pub const OPERATIONS: [&str; 9] =
    ["operation", "type", "of the time", "calls/s", "weights", "GMAC/s", "time so far", "calls", "kernels"];

/// An operation's cells.
pub fn operation(op: &Operation) -> [String; 9] {
    [
        op.operation.clone(),
        op.kind.clone(),
        op.share.map_or(NONE.to_owned(), percent),
        number(op.calls_per_second),
        gb(op.bytes_per_second),
        number(op.mac_per_second.map(|rate| rate / 1e9)),
        format!("{:.3} s", op.seconds),
        op.calls.to_string(),
        op.kernels.join(", "),
    ]
}

/// The columns of what is left to ggml.
pub const DECLINED: [&str; 4] = ["left to ggml", "type", "calls", "reason"];

/// Its cells.
pub fn declined(declined: &Declined) -> [String; 4] {
    [declined.operation.clone(), declined.kind.clone(), declined.count.to_string(), declined.reason.clone()]
}

/// Where there is no program.
pub const NO_PROGRAM: &str = "no running program with the shim was found; expected one that this user may look into: \
                              start one with zen5turbo run -- PROGRAM ARGS (those of other users are shown to root); \
                              zen5turbo doctor --all tells of programs with ggml that run without it";

fn number(value: Option<f64>) -> String {
    value.map_or(NONE.to_owned(), text::number)
}

fn gb(rate: Option<f64>) -> String {
    rate.map_or(NONE.to_owned(), |rate| format!("{} GB/s", text::number(rate / 1e9)))
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}
