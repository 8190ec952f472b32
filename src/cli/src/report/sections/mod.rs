//! What stands in the page, in its order.

mod files;
mod memory;
mod rest;
mod speeds;

use std::cmp::Reverse;

use anyhow::Result;

use super::contents::{Arm, Cpu, Speed, Spread};
use super::gather::Gathered;
use super::page::{Block, Cell, Page, Section, Table};
use crate::text;
use speeds::Class;

/// What the machine costs.
#[derive(Clone, Debug)]
pub struct Price {
    pub per_hour: f64,
    pub currency: String,
}

/// A measured arm.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    pub speed: &'a Speed,
    pub arm: &'a Arm,
}

impl Row<'_> {
    fn is_speed(&self) -> bool {
        self.speed.unit == "tokens/s"
    }

    /// The same of two rows: one is the later measurement of the other.
    fn key(&self) -> (&Cpu, &str, &str, u32, &str, &str, &str) {
        let Speed { at, model, test, threads, unit, build, .. } = self.speed;
        (&at.cpu, model, test, *threads, unit, &self.arm.name, build)
    }
}

/// The page.
pub fn page(gathered: &Gathered, price: Option<&Price>) -> Result<Page> {
    let contents = &gathered.contents;
    let mut rows: Vec<Row<'_>> =
        contents.speeds.iter().flat_map(|speed| speed.arms.iter().map(move |arm| Row { speed, arm })).collect();
    // By date within what is the same.
    rows.sort_by(|a, b| (order(a), a.key(), &a.speed.at.date).cmp(&(order(b), b.key(), &b.speed.at.date)));
    let is_last = |i: usize| rows.get(i + 1).is_none_or(|next| next.key() != rows[i].key());
    let (mut newest, mut earlier) = (Vec::new(), Vec::new());
    for (i, row) in rows.iter().enumerate() {
        if is_last(i) { &mut newest } else { &mut earlier }.push(*row);
    }
    let mut sections = vec![speeds::glance(&newest)];
    sections.extend(speeds::by_cpu(&newest, &earlier)?);
    sections.extend(rest::served(&contents.served));
    sections.push(memory::bandwidth(&newest, contents));
    sections.push(memory::power(&newest, contents));
    sections.extend(price.map(|price| memory::cost(&newest, price)));
    sections.push(memory::streams(&contents.memory));
    sections.push(rest::kernels(contents));
    sections.extend(rest::machines(&contents.benches));
    sections.push(reading());
    sections.push(files::files(gathered));
    sections.retain(|section| !section.blocks.is_empty());
    Ok(Page { title: "zen5turbo report".to_owned(), lead: lead(gathered), sections })
}

/// The order of CPUs: by brand, newer ones first.
type Newer<'a> = (&'a str, Reverse<Option<(u32, u32)>>);

fn newer(cpu: &Cpu) -> Newer<'_> {
    (&cpu.brand, Reverse(cpu.model))
}

/// CPU; kind of test, threads, test, model; the shim before other programs.
fn order<'a>(row: &Row<'a>) -> (Newer<'a>, Class, u32, u32, &'a str, &'a str, bool) {
    let Speed { at, test, threads, model, .. } = row.speed;
    let digits = test.trim_start_matches(|c: char| !c.is_ascii_digit()).split(|c: char| !c.is_ascii_digit()).next();
    let tokens = digits.and_then(|digits| digits.parse().ok()).unwrap_or(0);
    (newer(&at.cpu), speeds::class(row.speed), *threads, tokens, test, model, !speeds::is_shim(row))
}

/// A table for each CPU, below its name.
fn by_cpu(section: &mut Section, titles: &[&str], rows: Vec<(&Cpu, Vec<Cell>)>) {
    let mut rows = rows.into_iter().peekable();
    while let Some((cpu, first)) = rows.next() {
        let mut table = Table::new(titles);
        table.rows.push(first);
        while let Some((_, row)) = rows.next_if(|(next, _)| *next == cpu) {
            table.rows.push(row);
        }
        section.blocks.push(Block::Heading(cpu.to_string()));
        section.table(table);
    }
}

fn lead(gathered: &Gathered) -> Vec<String> {
    let days: Vec<&str> = gathered.files.iter().filter_map(|file| file.date.get(..10)).collect();
    let span = match (days.iter().min(), days.iter().max()) {
        (Some(first), Some(last)) if first == last => format!(" of {first}"),
        (Some(first), Some(last)) => format!(" from {first} to {last}"),
        _ => String::new(),
    };
    let mut lead = vec![format!(
        "{}{span}: stock llama.cpp and the same programs with zen5turbo. Only figures of one row were measured together; a machine that others share gives other figures on another day.",
        count(gathered.files.len(), "record")
    )];
    let bad = gathered.left_out.iter().filter(|file| file.problem().is_some()).count();
    if bad > 0 {
        lead.push(format!("{} could not be read; the reasons are at the end of the page.", count(bad, "file")));
    }
    lead
}

fn reading() -> Section {
    let lines = [
        "Stock: the better of stock's two layouts (--repack 0 and 1), by its median over all pairs.",
        "Values are medians. A ratio is the median of the ratios pair by pair, arm over stock; in brackets its interval, at least 95 %: percentile block bootstrap, never narrower than the exact binomial interval. No interval: too few pairs.",
        "A/A: what stock shows against itself in the same pairs, mirrored at 1; grey in the plots. A difference is stated only where the interval holds neither 1 nor anything of that.",
        "pp512: a prompt of 512 tokens; tg64: 64 tokens generated one after the other; generation: the same in turns with streaming reads. For seconds and MiB less is better.",
        "A CPU of which a record has the brand alone got family and model from other records of the same day, where these name one CPU only.",
    ];
    let mut section = Section::new("How to read this");
    section.blocks.push(Block::List(lines.map(str::to_owned).to_vec()));
    section
}

/// `1 record`, `2 records`.
fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Median and range.
fn spread(values: &Spread) -> Cell {
    if values.low == values.high {
        return Cell::number(text::number(values.median));
    }
    Cell::number(format!(
        "{} ({}..{})",
        text::number(values.median),
        text::number(values.low),
        text::number(values.high)
    ))
}

/// Without what every model's file name ends with.
fn short(model: &str) -> &str {
    model.trim_end_matches(".gguf").trim_start_matches("random weights, ")
}
