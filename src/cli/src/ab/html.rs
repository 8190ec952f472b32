//! The measurement as one HTML page.

use anyhow::Result;
use maud::{Markup, PreEscaped, html};

use super::arm::Role;
use super::measured::Measured;
use super::plan::Plan;
use super::quality::Text;
use super::summary::{Row, is_claim, rows, words};
use super::{plot, report};
use crate::page::{self, table};
use crate::shim_stats::summary;
use crate::text;

/// The whole page.
pub fn render(plan: &Plan, measured: &Measured, quality: Option<&Text>) -> Result<String> {
    let rows = rows(plan, measured);
    let at = &plan.circumstances;
    let mut models = Vec::new();
    for model in 0..plan.models.len() {
        let mine: Vec<&Row> = rows.iter().filter(|row| row.model == model).collect();
        models.push(section(plan, measured, model, &mine, quality)?);
    }
    let body = html! {
        h1 { "zen5turbo ab" }
        p class="quiet" { (at.date) ", " (at.cpu) ", Linux " (at.kernel) }
        h2 { "What these runs support" }
        ul { @for finding in report::findings(plan, &rows) { li { (finding) } } }
        @for warning in plan.notes.iter().chain(&measured.warnings) { p { strong { "Note: " } (warning) } }
        @for model in models { (model) }
        h2 { "How to read this" }
        ul { @for line in report::legend(plan) { li { (line) } } }
        h2 { "Arms" }
        (table(&["arm", "how it runs", "llama.cpp"], plan.arms.iter().enumerate().map(|(i, arm)| {
            let build = measured.builds.get(&i).map_or("-".into(), |(n, commit)| format!("build {n}, commit {commit}"));
            [html! { (swatch(plan, i)) (arm.name) }, html! { code { (arm.describe()) } }, html! { (build) }]
        })))
        h2 { "Machine" }
        (table(&["what", "value"], at.machine.iter().map(|(name, value)| [html! { (name) }, html! { (value) }])))
        p class="quiet" { "zen5turbo " (at.version) ", called with " code { (at.args) } }
    };
    Ok(page::document(&format!("zen5turbo ab, {}", at.date), &body))
}

fn section(plan: &Plan, measured: &Measured, model: usize, rows: &[&Row], quality: Option<&Text>) -> Result<Markup> {
    let name = plan.models[model].name();
    let kind = measured.types.get(&model).cloned().unwrap_or_default();
    if rows.is_empty() {
        return Ok(html! { h2 { (name) } p { "No pair was finished." } });
    }
    let plots = rows.iter().map(|row| Ok((*row, plot::points(plan, row)?))).collect::<Result<Vec<_>>>()?;
    let memory = report::memory_rows(plan, measured, model);
    let answers = report::quality_rows(plan, measured, model);
    Ok(html! {
        h2 { (name) " " span class="quiet" { (kind) } }
        h3 { "Ratio to the better of stock" }
        figure {
            (PreEscaped(plot::ratios(plan, rows)?))
            figcaption { "Dot: median of the paired ratios. Line: its interval. Grey: what stock shows against itself (A/A). Load, first token and memory: less is better." }
        }
        (ratio_table(plan, rows))
        h3 { "Values" }
        (value_table(plan, rows))
        h3 { "Every value, by pair" }
        p class="legend" { @for (i, arm) in plan.arms.iter().enumerate() { span { (swatch(plan, i)) (arm.name) (mark(arm.role)) } } }
        div class="plots" {
            @for (row, plot) in &plots {
                figure {
                    figcaption { (row.test) ", " (report::threads(row.threads)) ", " (row.test.unit()) }
                    (PreEscaped(plot))
                }
            }
        }
        @if !memory.is_empty() {
            h3 { "Memory at its peak, by kind of page" }
            (table(&report::MEMORY, memory.iter().map(|cells| cells.each_ref().map(|c| html! { (c) }))))
            p class="quiet" { "One unmeasured run of each arm, sampled." }
        }
        @if let Some(text) = quality.filter(|_| !answers.is_empty()) {
            h3 { "Answers" }
            (table(&report::QUALITY, answers.iter().map(|cells| cells.each_ref().map(|c| html! { (c) }))))
            p class="quiet" { (text.describe()) "; ± standard error." }
        }
        @for ((_, arm, tests), stats) in measured.stats.iter().filter(|((m, ..), _)| *m == model) {
            details { summary { "What engaged in the " (tests) " runs of " (plan.arms[*arm].name) } (summary(stats)) }
        }
    })
}

fn swatch(plan: &Plan, arm: usize) -> Markup {
    page::swatch(plot::colour(plan, arm))
}

fn mark(role: Role) -> &'static str {
    match role {
        Role::Stock => " (rings)",
        Role::Again(_) => " (crosses)",
        Role::Compared => " (dots)",
    }
}

fn ratio_table(plan: &Plan, rows: &[&Row]) -> Markup {
    let lines = rows.iter().flat_map(|row| {
        row.compared.iter().enumerate().filter_map(|(arm, c)| Some((*row, arm, c.as_ref()?))).map(|(row, arm, c)| {
            let class = match (is_claim(c.verdict), c.verdict) {
                (true, crate::statistics::Verdict::Better) => "better",
                (true, _) => "worse",
                (false, _) => "quiet",
            };
            [
                html! { (row.test) },
                html! { (row.threads) },
                html! { (plan.arms[arm].name) " / " (plan.arms[row.reference].name) },
                html! { (format!("{:.3}", c.median)) },
                html! { (report::interval(c.interval.as_ref())) },
                html! { (report::noise(row.noise.as_ref())) },
                html! { span class=(class) { (words(row.test, c.verdict)) } },
            ]
        })
    });
    table(&["test", "threads", "arm / better stock", "ratio", "interval", "A/A", "result"], lines)
}

fn value_table(plan: &Plan, rows: &[&Row]) -> Markup {
    html! {
        div class="scroll" { table {
            thead { tr {
                th { "test" } th { "threads" } th { "pairs" }
                @for arm in &plan.arms { th { (arm.name) } }
            } }
            tbody { @for row in rows { tr {
                td { (row.test) " " span class="quiet" { (row.test.unit()) } }
                td { (row.threads) }
                td { (row.values[row.reference].len()) }
                @for values in &row.values { td { (text::spread(values)) } }
            } } }
        } }
    }
}
