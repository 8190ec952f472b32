//! The measurement as text.

use super::figures::{HIGHEST_RATE, title};
use super::measured::{Measured, Row};
use super::options::Scenario;
use super::plan::{Plan, words};
use crate::ab::report::{interval, noise, threads};
use crate::shim_stats;
use crate::statistics::Verdict;
use crate::text;

/// Tables, how to read them, and what the shim did.
pub fn render(plan: &Plan, measured: &Measured) -> String {
    let at = &plan.circumstances;
    let mut out = format!("{}  {}  Linux {}\n", at.date, at.cpu, at.kernel);
    for arm in &plan.arms {
        out += &format!("{:<15} {}\n", arm.name, arm.describe());
    }
    let kind = measured.model_type.as_deref().unwrap_or("type not known");
    out += &format!("\n{} ({kind}), {}\n", plan.model.path.display(), threads(plan.threads));
    let rows = measured.rows(plan);
    for &scenario in &plan.scenarios {
        let mine: Vec<&Row> = rows.iter().filter(|row| row.scenario == scenario).collect();
        out += &format!("\n{}\n", heading(plan, scenario));
        out += &values(plan, &mine);
        out += &ratios(plan, &mine);
        out += &requests(plan, measured, scenario);
    }
    for (arm, stats) in &measured.stats {
        out += &format!("engaged in the servers of {}: {}\n", plan.arms[*arm].name, shim_stats::summary(stats));
    }
    out += &format!("\n{}\n", legend(plan, measured).join("\n"));
    for warning in plan.notes.iter().chain(&measured.warnings) {
        out += &format!("note: {warning}\n");
    }
    out
}

fn heading(plan: &Plan, scenario: Scenario) -> String {
    let more = match (scenario, plan.rate) {
        (Scenario::SingleStream, _) => "one client, a request after the answer to the one before".to_owned(),
        (Scenario::Offline, _) => format!("{} requests at once", plan.requests),
        (Scenario::Server, Some(rate)) => format!("arrivals by chance, {rate} a second"),
        (Scenario::Server, None) => "arrivals by chance; latencies are those at the arm's own highest rate".to_owned(),
    };
    format!("{}: {more}", scenario.name())
}

fn values(plan: &Plan, rows: &[&Row]) -> String {
    if rows.is_empty() {
        return "no value was measured\n".to_owned();
    }
    let mut table = text::table();
    let mut header = vec!["median (min..max)".to_owned()];
    header.extend(plan.arms.iter().map(|arm| arm.name.clone()));
    table.set_header(header);
    for row in rows {
        let mut cells = vec![title(row.name).to_owned()];
        cells.extend(row.values.iter().map(|values| text::spread(values)));
        table.add_row(cells);
    }
    format!("{table}\n")
}

fn ratios(plan: &Plan, rows: &[&Row]) -> String {
    let mut table = text::table();
    table.set_header(["arm / better stock", "of", "pairs", "ratio", "interval", "A/A", "result"]);
    let mut any = false;
    for row in rows {
        let Some(compared) = &row.compared else { continue };
        for (arm, comparison) in compared.arms.iter().enumerate() {
            let Some(c) = comparison else { continue };
            any = true;
            table.add_row([
                format!("{} / {}", plan.arms[arm].name, plan.arms[compared.reference].name),
                title(row.name).to_owned(),
                c.ratios.len().to_string(),
                format!("{:.3}", c.median),
                interval(c.interval.as_ref()),
                noise(compared.noise.as_ref()),
                words(row.name, c.verdict).to_owned(),
            ]);
        }
    }
    if any { format!("{table}\n") } else { String::new() }
}

/// What became of the requests, a row for each arm.
fn requests(plan: &Plan, measured: &Measured, scenario: Scenario) -> String {
    let mut table = text::table();
    table.set_header([
        "arm",
        "requests",
        "answered",
        "hung up",
        "ended early",
        "errors",
        "lost tokens",
        "prompt tokens",
        "from the cache",
    ]);
    for (arm, of) in plan.arms.iter().enumerate() {
        let c = measured.counts(arm, scenario);
        let cached = 100.0 * c.prompt_tokens_cached as f64 / c.prompt_tokens.max(1) as f64;
        let counts = [c.requests, c.answered, c.cancelled, c.stopped, c.errors, c.lost_tokens, c.prompt_tokens];
        let mut cells = vec![of.name.clone()];
        cells.extend(counts.map(|count| count.to_string()));
        cells.push(format!("{cached:.0} %"));
        table.add_row(cells);
    }
    text::right(&mut table, 1..=8);
    format!("{table}\n")
}

/// How to read the figures, a line each.
fn legend(plan: &Plan, measured: &Measured) -> Vec<String> {
    let tokens = measured.prompt_tokens;
    vec![
        format!("Load: {}; {} to {} tokens a prompt, median {}.", plan.load_rule(), tokens.least, tokens.most, tokens.median),
        "First token: from the moment at which a request is due. Between tokens: from each event of the stream with tokens to the next. Percentiles are those of the requests, or tokens, of one server (nearest rank: of fewer than 100 the 99th is the largest), and the table has the median of these over the pairs.".to_owned(),
        format!(
            "Highest rate: requests/s at which 99 % of the first tokens come within {} ms, 99 % of the times between tokens are within {} ms, and no request fails; rates 9 % apart, {} requests and {} s at least for each.",
            plan.bounds.first_token_ms, plan.bounds.between_tokens_ms, plan.requests, plan.rate_seconds
        ),
        "Ratio: pair by pair to the better of stock (named; by its median), then the median. Of times less is better. Interval: percentile block bootstrap, never narrower than the exact binomial interval.".to_owned(),
        format!("Pairs: {}.", plan.looks.rule(0.0)),
        format!("Order: {}. Arrivals and prompts are the same for all arms.", plan.order_rule()),
        "A/A: stock's default against itself in the same pairs, and its interval mirrored at 1. A difference is stated only when the interval holds neither 1 nor anything of that.".to_owned(),
    ]
}

/// Whether a verdict says that there is a difference.
pub fn is_claim(verdict: Verdict) -> bool {
    crate::ab::summary::is_claim(verdict)
}

/// One sentence for each comparison that shows a difference, and one for all the others.
pub fn findings(plan: &Plan, rows: &[Row]) -> Vec<String> {
    let mut found = Vec::new();
    let mut others = 0;
    for (row, compared) in rows.iter().filter_map(|row| Some((row, row.compared.as_ref()?))) {
        for (arm, c) in compared.arms.iter().enumerate().filter_map(|(arm, c)| Some((arm, c.as_ref()?))) {
            if !is_claim(c.verdict) {
                others += 1;
                continue;
            }
            let of = if row.name == HIGHEST_RATE { "highest rate" } else { title(row.name) };
            found.push(format!(
                "{}, {of}: {} has {:.3} times that of {} ({}): {}.",
                row.scenario.name(),
                plan.arms[arm].name,
                c.median,
                plan.arms[compared.reference].name,
                interval(c.interval.as_ref()),
                words(row.name, c.verdict),
            ));
        }
    }
    match (found.is_empty(), others) {
        (_, 0) => {}
        (true, _) => found.push("These runs support no difference between the arms.".to_owned()),
        (false, n) => found.push(format!("{n} other comparisons: no difference that these runs support.")),
    }
    found
}
