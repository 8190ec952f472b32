//! Speed for each GB/s of memory bandwidth, each watt, and each unit of money.

use super::super::contents::{Contents, Memory};
use super::super::derive::{cost as cost_of, memory_under, power_under};
use super::super::page::{Block, Cell, Section, Tone};
use super::speeds::{Class, class};
use super::{Price, Row, short};
use crate::text;

/// Generation, which memory bounds, for each GB/s that the memory gives.
pub fn bandwidth(newest: &[Row<'_>], contents: &Contents) -> Section {
    let mut section = Section::new("Tokens per second for each GB/s of memory");
    let titles = [
        "model",
        "test",
        "#threads",
        "arm",
        "#tokens/s",
        "#memory, GB/s",
        "#tokens/s per GB/s",
        "#stock's",
        "#weights read, GB/s",
        "day",
        "memory from",
    ];
    let mut rows = Vec::new();
    let mut without = 0;
    for row in newest.iter().filter(|row| row.is_speed() && class(row.speed) == Class::Generation) {
        let Some(memory) = memory_under(row.speed, contents) else {
            without += 1;
            continue;
        };
        let rate = memory.rate.median;
        let read = row.arm.bytes_per_token.map(|bytes| bytes * row.arm.values.median / 1e9);
        rows.push((
            &row.speed.at.cpu,
            of(
                row,
                [
                    Cell::number(text::number(row.arm.values.median)),
                    Cell::number(text::number(rate)),
                    Cell::number(text::number(row.arm.values.median / rate)),
                    Cell::number(text::number(row.speed.stock.1.median / rate)),
                    match read {
                        Some(read) => Cell::number(format!("{} ({:.0} %)", text::number(read), 100.0 * read / rate)),
                        None => Cell::number("not recorded").tone(Tone::Quiet),
                    },
                    Cell::words(row.speed.at.day()),
                    Cell::words(source(memory)),
                ],
            ),
        ));
    }
    if rows.is_empty() {
        section.text(if contents.memory.is_empty() {
            "Not measured: no record has a streaming rate of memory; zen5turbo bios record and scripts/record.sh make one."
        } else {
            "Not measured: no record has both generation and a streaming rate of the same CPU, day and number of threads."
        });
    } else {
        section.text("Tokens generated per second over the rate at which as many threads stream from memory (the fastest kind of pages), in the same file, else on the same CPU and day. In brackets: the part of that rate at which weights were read.");
        if without > 0 {
            section.text(format!(
                "Not measured for {}: no streaming rate of the same CPU, day and number of threads.",
                super::count(without, "other row")
            ));
        }
    }
    super::by_cpu(&mut section, &titles, rows);
    section
}

/// The cells that name a row, and those behind them.
fn of<const N: usize>(row: &Row<'_>, figures: [Cell; N]) -> Vec<Cell> {
    let names = [
        Cell::words(short(&row.speed.model)),
        Cell::words(&row.speed.test),
        Cell::number(row.speed.threads.to_string()),
        Cell::words(&row.arm.name),
    ];
    names.into_iter().chain(figures).collect()
}

fn source(memory: &Memory) -> String {
    format!("{}, {} pages", memory.at.file_name(), memory.pages)
}

/// The rates themselves.
pub fn streams(memory: &[Memory]) -> Section {
    let mut section = Section::new("Streaming reads from memory");
    let mut sorted: Vec<&Memory> = memory.iter().collect();
    sorted.sort_by_key(|m| (super::newer(&m.at.cpu), &m.at.date, &m.at.file, &m.pages, m.threads));
    let rows = sorted.into_iter().map(|memory| {
        let cells = vec![
            Cell::words(&memory.pages),
            Cell::number(memory.threads.to_string()),
            super::spread(&memory.rate),
            Cell::words(memory.at.day()),
            Cell::words(memory.at.file_name()),
        ];
        (&memory.at.cpu, cells)
    });
    super::by_cpu(
        &mut section,
        &["pages", "#threads", "#GB/s, median (smallest..largest)", "day", "file"],
        rows.collect(),
    );
    section
}

/// Speed for each watt, where RAPL told the power.
pub fn power(newest: &[Row<'_>], contents: &Contents) -> Section {
    let mut section = Section::new("Tokens per second for each watt");
    let titles = [
        "model",
        "test",
        "#threads",
        "arm",
        "#tokens/s",
        "#power, W",
        "#tokens/s per W",
        "#stock's",
        "day",
        "power from",
    ];
    let mut rows = Vec::new();
    for row in newest.iter().filter(|row| row.is_speed()) {
        let Some((watts, power)) = power_under(row.speed, contents).filter(|(watts, _)| *watts > 0.0) else { continue };
        rows.push((
            &row.speed.at.cpu,
            of(
                row,
                [
                    Cell::number(text::number(row.arm.values.median)),
                    Cell::number(text::number(watts)),
                    Cell::number(text::number(row.arm.values.median / watts)),
                    Cell::number(text::number(row.speed.stock.1.median / watts)),
                    Cell::words(row.speed.at.day()),
                    Cell::words(format!("{}, {}", power.at.file_name(), power.name)),
                ],
            ),
        ));
    }
    if !rows.is_empty() {
        section.text("The power is that of all packages while all cores multiplied (RAPL), not that of the test itself: the most that they take, the same for stock and zen5turbo.");
        super::by_cpu(&mut section, &titles, rows);
        return section;
    }
    let mut reasons: Vec<String> = contents
        .benches
        .iter()
        .flat_map(|bench| bench.unmeasured.iter().map(move |(name, why)| (bench, name, why)))
        .filter(|(_, name, _)| name.as_str() == "power")
        .map(|(bench, _, why)| format!("{}, {}: {why}", bench.at.cpu, bench.at.day()))
        .collect();
    reasons.dedup();
    section.text(if contents.power.is_empty() {
        "Not measured: no record has the power of a package. zen5turbo bios record, as root on a machine with RAPL, measures it."
    } else {
        "Not measured: no record has both a speed and the power of the same CPU and day."
    });
    if !reasons.is_empty() {
        section.blocks.push(Block::List(reasons));
    }
    section
}

/// What a million tokens cost.
pub fn cost(newest: &[Row<'_>], price: &Price) -> Section {
    let Price { per_hour, currency } = price;
    let mut section =
        Section::new(format!("Cost of a million tokens at {} {currency} per hour", text::number(*per_hour)));
    let stock = format!("#stock, {currency}");
    let with = format!("#this arm, {currency}");
    let titles = ["model", "test", "#threads", "arm", &stock, &with, "day"];
    let mut rows = Vec::new();
    for row in newest.iter().filter(|row| row.is_speed()) {
        rows.push((
            &row.speed.at.cpu,
            of(
                row,
                [
                    Cell::number(money(cost_of(*per_hour, row.speed.stock.1.median))),
                    Cell::number(money(cost_of(*per_hour, row.arm.values.median))),
                    Cell::words(row.speed.at.day()),
                ],
            ),
        ));
    }
    if rows.is_empty() {
        section.text("Not measured: no record has tokens per second.");
    } else {
        section.text("The price is that of the whole machine, and all of it is charged to one program that computes without a pause on the threads that the row names. Tokens of a prompt and generated tokens are rows of their own.");
    }
    super::by_cpu(&mut section, &titles, rows);
    section
}

/// Three digits that matter, however small.
fn money(amount: f64) -> String {
    if amount < 0.1 { format!("{amount:.4}") } else { text::number(amount) }
}
