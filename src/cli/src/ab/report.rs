//! The measurement as text.

use comfy_table::CellAlignment;

use super::measured::Measured;
use super::plan::Plan;
use super::quality::Text;
use super::summary::{Row, is_claim, rows, words};
use crate::shim_stats;
use crate::statistics::{Comparison, Interval};
use crate::text;

/// Tables, how to read them, and what the shim did.
pub fn render(plan: &Plan, measured: &Measured, quality: Option<&Text>) -> String {
    let at = &plan.circumstances;
    let mut out = format!("{}  {}  Linux {}\n", at.date, at.cpu, at.kernel);
    for arm in &plan.arms {
        out += &format!("{:<15} {}\n", arm.name, arm.describe());
    }
    for (arm, (build, commit)) in &measured.builds {
        if plan.arms[*arm].role == super::arm::Role::Compared {
            out += &format!("{:<15} llama.cpp build {build}, commit {commit}\n", plan.arms[*arm].name);
        }
    }
    let rows = rows(plan, measured);
    for (model, file) in plan.models.iter().enumerate() {
        let kind = measured.types.get(&model).map_or("not measured", String::as_str);
        out += &format!("\n{} ({kind})\n", file.path.display());
        let mine: Vec<&Row> = rows.iter().filter(|row| row.model == model).collect();
        if mine.is_empty() {
            out += "no pair was finished\n";
            continue;
        }
        out += &values(plan, &mine);
        out += &ratios(plan, &mine);
        out += &memory(plan, measured, model);
        out += &answers(plan, measured, model, quality);
        for ((_, arm, tests), stats) in measured.stats.iter().filter(|((m, ..), _)| *m == model) {
            out +=
                &format!("engaged in the {tests} runs of {}: {}\n", plan.arms[*arm].name, shim_stats::summary(stats));
        }
    }
    out += &format!("\n{}\n", legend(plan).join("\n"));
    for warning in plan.notes.iter().chain(&measured.warnings) {
        out += &format!("note: {warning}\n");
    }
    out
}

/// How to read the figures, a line each.
pub fn legend(plan: &Plan) -> Vec<String> {
    vec![
        "Values: median (min..max). load: from the start of a process to its end, without the computing. first token: from the start of a process to the end of its prompt. memory: largest resident set.".to_owned(),
        "Ratio: pair by pair to the better of stock (named; by its median), then the median. For load, first token and memory less is better.".to_owned(),
        "Interval: percentile block bootstrap of the paired ratios' median, never narrower than the exact binomial interval.".to_owned(),
        format!("Pairs: {}.", plan.looks.rule(plan.precision)),
        format!("Order: {}.", plan.order_rule()),
        "A/A: stock's default against itself in the same pairs, and its interval mirrored at 1. A difference is stated only when the interval holds neither 1 nor anything of that.".to_owned(),
    ]
}

fn values(plan: &Plan, rows: &[&Row]) -> String {
    let mut table = text::table();
    let mut header = vec!["test".to_owned(), "threads".to_owned(), "pairs".to_owned()];
    header.extend(plan.arms.iter().map(|arm| arm.name.clone()));
    table.set_header(header);
    for row in rows {
        let mut cells = vec![
            format!("{} {}", row.test, row.test.unit()),
            row.threads.to_string(),
            row.values[row.reference].len().to_string(),
        ];
        cells.extend(row.values.iter().map(|v| text::spread(v)));
        table.add_row(cells);
    }
    for index in 1..=2 {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{table}\n")
}

fn ratios(plan: &Plan, rows: &[&Row]) -> String {
    let mut table = text::table();
    table.set_header(["test", "threads", "arm / better stock", "ratio", "interval", "A/A", "result"]);
    for row in rows {
        for (arm, comparison) in row.compared.iter().enumerate() {
            let Some(c) = comparison else { continue };
            table.add_row([
                row.test.to_string(),
                row.threads.to_string(),
                format!("{} / {}", plan.arms[arm].name, plan.arms[row.reference].name),
                format!("{:.3}", c.median),
                interval(c.interval.as_ref()),
                noise(row.noise.as_ref()),
                words(row.test, c.verdict).to_owned(),
            ]);
        }
    }
    format!("{table}\n")
}

/// `low..high`, or a dash.
pub fn interval(interval: Option<&Interval>) -> String {
    interval.map_or("-".into(), |i| format!("{:.3}..{:.3}", i.low, i.high))
}

/// The band of stock against itself.
pub fn noise(noise: Option<&Comparison>) -> String {
    noise.and_then(|n| n.interval).map_or("-".into(), |i| {
        let (low, high) = i.around_one();
        format!("{low:.3}..{high:.3}")
    })
}

/// Column titles of the memory table.
pub const MEMORY: [&str; 8] = [
    "arm",
    "resident",
    "anonymous",
    "of files",
    "transparent huge",
    "huge of files",
    "reserved huge",
    "model cached after",
];

/// The memory table's cells, a row for each arm.
pub fn memory_rows(plan: &Plan, measured: &Measured, model: usize) -> Vec<[String; 8]> {
    let mine = measured.memory.iter().filter(|((m, _), _)| *m == model);
    mine.map(|((_, arm), (peaks, cached))| {
        // A run that ended before the first sample, or a kernel without smaps_rollup.
        let size = |bytes| if peaks.rss == 0 { "-".to_owned() } else { text::bytes(bytes) };
        [
            plan.arms[*arm].name.clone(),
            size(peaks.rss),
            size(peaks.anonymous),
            size(peaks.file),
            size(peaks.anonymous_huge),
            size(peaks.file_huge),
            size(peaks.reserved_huge),
            cached.map_or("?".into(), text::bytes),
        ]
    })
    .collect()
}

fn memory(plan: &Plan, measured: &Measured, model: usize) -> String {
    let rows = memory_rows(plan, measured, model);
    if rows.is_empty() {
        return String::new();
    }
    let mut table = text::table();
    table.set_header(MEMORY);
    table.add_rows(rows);
    format!("memory at its peak, by kind of page, in one unmeasured run of each arm\n{table}\n")
}

/// Column titles of the quality table.
pub const QUALITY: [&str; 4] = ["arm", "KL divergence from stock's default", "same top token", "perplexity"];

/// The quality table's cells, a row for each arm.
pub fn quality_rows(plan: &Plan, measured: &Measured, model: usize) -> Vec<[String; 4]> {
    let figure = |f: Option<(f64, f64)>, digits: usize, unit: &str| {
        // Rounding errors make some divergences a little less than nothing.
        f.map_or("-".to_owned(), |(v, e)| format!("{:.digits$} ± {e:.digits$}{unit}", v.max(0.0)))
    };
    let mine = measured.quality.iter().filter(|q| q.model == model);
    mine.map(|q| {
        [
            plan.arms[q.arm].name.clone(),
            figure(q.divergence, 5, ""),
            figure(q.same_top, 2, " %"),
            figure(q.perplexity, 3, ""),
        ]
    })
    .collect()
}

fn answers(plan: &Plan, measured: &Measured, model: usize, quality: Option<&Text>) -> String {
    let rows = quality_rows(plan, measured, model);
    let Some(quality) = quality.filter(|_| !rows.is_empty()) else { return String::new() };
    let mut table = text::table();
    table.set_header(QUALITY);
    table.add_rows(rows);
    format!("answers on {} (± standard error)\n{table}\n", quality.describe())
}

/// `1 thread`, `2 threads`.
pub fn threads(n: u32) -> String {
    format!("{n} thread{}", if n == 1 { "" } else { "s" })
}

/// One sentence for each comparison that shows a difference, and one for all the others.
pub fn findings(plan: &Plan, rows: &[Row]) -> Vec<String> {
    let mut found = Vec::new();
    let mut others = 0;
    for row in rows {
        for (arm, comparison) in row.compared.iter().enumerate() {
            let Some(c) = comparison else { continue };
            if !is_claim(c.verdict) {
                others += 1;
                continue;
            }
            found.push(format!(
                "{}, {} on {}: {} is {:.3} times {} ({}): {}.",
                plan.models[row.model].name(),
                row.test,
                threads(row.threads),
                plan.arms[arm].name,
                c.median,
                plan.arms[row.reference].name,
                interval(c.interval.as_ref()),
                words(row.test, c.verdict),
            ));
        }
    }
    match (found.is_empty(), others) {
        (_, 0) => {}
        (true, _) => found.push("These runs support no difference between the arms.".to_owned()),
        (false, n) => found.push(format!(
            "{n} other comparison{}: no difference that these runs support.",
            if n == 1 { "" } else { "s" }
        )),
    }
    found
}
