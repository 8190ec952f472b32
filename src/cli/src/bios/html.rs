//! A comparison as one HTML page.

use anyhow::Result;
use maud::{Markup, PreEscaped, html};

use super::compare::{Compared, Row, findings, is_claim, letter, warnings, words};
use super::record::{CorePair, Group, Record};
use super::{plot, report};
use crate::page::{self, swatch, table};
use crate::statistics::{Verdict, median};
use crate::text;

/// The whole page.
pub fn render(compared: &Compared<'_>) -> Result<String> {
    let mut curves = Vec::new();
    let mut groups: Vec<Group> = compared.rows.iter().map(|row| row.group).collect();
    groups.dedup();
    for group in groups {
        let rows: Vec<&Row> = compared.rows.iter().filter(|row| row.group == group).collect();
        if let Some((title, axis)) = plot::curve_of(group).filter(|_| rows.len() > 1) {
            curves.push((title, plot::curve(title, axis, &rows)?));
        }
    }
    let ratios = plot::ratios(compared)?;
    let letters: Vec<String> = (0..compared.records.len()).map(letter).collect();
    let body = html! {
        h1 { "zen5turbo bios compare" }
        (table(&["record", "label", "date", "CPU", "BIOS", "file"], compared.records.iter().enumerate().map(|(i, stored)| {
            let record = &stored.record;
            [
                html! { (swatch(plot::colour(i))) (letters[i]) },
                html! { (record.label) },
                html! { (record.date) },
                html! { (record.cpu) },
                html! { (report::bios(record)) },
                html! { code { (stored.path.file_name().unwrap_or_default().to_string_lossy()) } },
            ]
        })))
        h2 { "What these records support" }
        ul { @for finding in findings(compared) { li { (finding) } } }
        @for warning in warnings(compared) { p { strong { "Note: " } (warning) } }
        h2 { "Settings that differ" }
        @if compared.changes.is_empty() { p { "None." } } @else { (settings(compared, &letters)) }
        p class="quiet" { (report::equal(compared)) }
        @if compared.comparisons().next().is_some() {
            h2 { "Ratio to A" }
            figure {
                (PreEscaped(ratios))
                figcaption { "Dot: median ratio. Line: its interval. Grey: what a record shows against itself. For ns and W less is better." }
            }
        }
        @if !curves.is_empty() {
            h2 { "Values" }
            p class="legend" { @for (i, stored) in compared.records.iter().enumerate() {
                span { (swatch(plot::colour(i))) (letters[i]) " " (stored.record.label) }
            } }
            div class="plots" {
                @for (title, curve) in &curves { figure { figcaption { (title) } (PreEscaped(curve)) } }
            }
            p class="quiet" { "Dot: median of the undisturbed samples. Line through it: smallest to largest." }
        }
        @if compared.comparisons().next().is_some() { (results(compared, &letters)) }
        @for (i, stored) in compared.records.iter().enumerate() {
            @if !stored.record.pairs.is_empty() {
                h3 { "Core to core, " (letters[i]) " " span class="quiet" { "ns, median of the samples, by CPU" } }
                (matrix(&stored.record, i))
            }
        }
        h2 { "How to read this" }
        ul { @for line in report::legend(compared) { li { (line) } } }
        p class="quiet" { "zen5turbo " (env!("CARGO_PKG_VERSION")) }
    };
    let labels: Vec<&str> = compared.records.iter().map(|stored| stored.record.label.as_str()).collect();
    Ok(page::document(&format!("zen5turbo bios: {}", labels.join(", ")), &body))
}

/// `first` and the letters of the records, with `last` after them.
fn header(first: &[&str], letters: &[String], last: &[&str]) -> Vec<String> {
    let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    [words(first), letters.to_vec(), words(last)].concat()
}

fn settings(compared: &Compared<'_>, letters: &[String]) -> Markup {
    let rows = compared.changes.iter().map(|change| {
        let readings = change.readings.iter().map(|reading| html! { (report::reading(reading.as_ref())) });
        std::iter::once(html! { (change.id) }).chain(readings).collect::<Vec<_>>()
    });
    table(&header(&["setting"], letters, &[]), rows)
}

fn results(compared: &Compared<'_>, letters: &[String]) -> Markup {
    let rows = compared.comparisons().map(|(row, i, c)| {
        let class = match (is_claim(c.verdict), c.verdict) {
            (true, Verdict::Better) => "better",
            (true, _) => "worse",
            (false, _) => "quiet",
        };
        let mut cells = vec![html! { (row.name) " " span class="quiet" { (row.unit) } }];
        cells.extend(row.values.iter().map(|values| html! { (text::spread(values)) }));
        cells.extend([
            html! { (report::ratio(compared, i, c)) },
            html! { (report::interval(c)) },
            html! { (report::noise(row, i)) },
            html! { span class=(class) { (words(row, i, c.verdict)) } },
        ]);
        cells
    });
    table(&header(&["result"], letters, &["ratio", "interval", "noise", ""]), rows)
}

/// Core-to-core latencies, the darker the slower.
fn matrix(record: &Record, number: usize) -> Markup {
    let mut cpus: Vec<usize> = record.pairs.iter().flat_map(|pair| pair.cpus).collect();
    cpus.sort_unstable();
    cpus.dedup();
    let of = |a: usize, b: usize| {
        let pair = record.pairs.iter().find(|CorePair { cpus, .. }| *cpus == [a, b] || *cpus == [b, a])?;
        median(&pair.samples)
    };
    let most = record.pairs.iter().filter_map(|pair| median(&pair.samples)).fold(1.0, f64::max);
    let colour = crate::chart::variable(plot::colour(number));
    let shade = |ns: f64| format!("background:color-mix(in srgb, var({colour}) {:.0}%, transparent)", 60.0 * ns / most);
    html! {
        div class="scroll" { table {
            thead { tr { th { "CPU" } @for b in &cpus { th { (b) } } } }
            tbody { @for &a in &cpus { tr {
                th { (a) }
                @for &b in &cpus {
                    @match of(a, b) {
                        Some(ns) => td style=(shade(ns)) { (text::number(ns)) },
                        None => td class="quiet" { "-" },
                    }
                }
            } } }
        } }
    }
}
