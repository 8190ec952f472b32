//! Servers, kernels alone, machines.

use super::super::contents::{At, Bench, Contents, Product, Said, Served, Tuned};
use super::super::page::{Block, Cell, Section, Table, Tone};

/// Servers under load; `None` for none.
pub fn served(all: &[Served]) -> Option<Section> {
    let mut section = Section::new("Servers under load");
    for served in all {
        let kind = if served.kind.is_empty() { String::new() } else { format!(" ({})", served.kind) };
        section.blocks.push(Block::Heading(format!("{}{kind}", served.model)));
        let Served { threads, clients, pairs, .. } = served;
        section.text(format!(
            "{}. Threads: {threads}; clients: {clients}; pairs: {pairs}. Medians of the pairs, in brackets the smallest and the largest; ratios pair by pair to the better of stock's layouts, in brackets the interval.",
            place(&served.at)
        ));
        let mut titles = vec!["scenario".to_owned(), "figure".to_owned()];
        titles.extend(served.compared.iter().map(|arm| format!("#ratio, {arm}")));
        titles.extend(served.arms.iter().map(|arm| format!("#{arm}")));
        let mut table = Table::new(&titles.iter().map(String::as_str).collect::<Vec<_>>());
        for row in &served.rows {
            let mut cells = vec![Cell::words(&row.scenario), Cell::words(&row.figure)];
            cells.extend(row.ratios.iter().map(|ratio| match ratio {
                Some((ratio, Said::Better)) => Cell::number(ratio).tone(Tone::Good),
                Some((ratio, Said::Worse)) => Cell::number(ratio).tone(Tone::Bad),
                Some((ratio, _)) => Cell::number(ratio).tone(Tone::Quiet),
                None => Cell::number(""),
            }));
            cells.extend(row.values.iter().map(|value| match value {
                Some(value) => Cell::number(value),
                None => Cell::number("not recorded").tone(Tone::Quiet),
            }));
            table.rows.push(cells);
        }
        section.table(table);
    }
    (!all.is_empty()).then_some(section)
}

/// CPU, day, version and file.
fn place(at: &At) -> String {
    format!("{}, {}, version {}, {}", at.cpu, at.day(), at.version(), at.file)
}

/// What `tune` and `products` measured.
pub fn kernels(contents: &Contents) -> Section {
    let mut section = Section::new("Kernels alone");
    for tuned in &contents.tuned {
        section.blocks.push(Block::Heading(format!(
            "Over the better of ggml's kernels, {}, {}",
            tuned.at.cpu,
            tuned.at.day()
        )));
        section.text(format!(
            "By zen5turbo tune: tier {}, ggml {}, version {}, {}. Ratios by type and number of columns; an empty cell decided nothing.",
            tuned.tier, tuned.ggml, tuned.at.version(), tuned.at.file
        ));
        section.table(self::tuned(tuned));
    }
    for (i, (at, products)) in contents.products.iter().enumerate() {
        // The text of a run of `products` has the same figures as its table, which comes before it.
        let twin = contents.products[..i]
            .iter()
            .find(|(other, same)| folder(other) == folder(at) && keys(same) == keys(products));
        if let Some((other, _)) = twin {
            section.text(format!("{} has the figures of {} once more.", at.file, other.file));
            continue;
        }
        section.blocks.push(Block::Heading(format!("Products with one thread, {}, {}", at.cpu, at.day())));
        section.text(format!(
            "Version {}, {}. By columns: with one column GB/s of weights and their share of the streaming rate of one thread, with more columns GMAC/s and their share of what the instructions of the tier reach.",
            at.version(),
            at.file
        ));
        section.table(self::products(products));
    }
    section
}

fn folder(at: &At) -> &str {
    at.file.rsplit_once('/').map_or("", |(folder, _)| folder)
}

fn keys(products: &[Product]) -> Vec<(&str, &str, u32)> {
    products.iter().map(|product| (product.kind.as_str(), product.isa.as_str(), product.columns)).collect()
}

fn tuned(tuned: &Tuned) -> Table {
    let mut titles = vec!["type".to_owned()];
    titles.extend(tuned.columns.iter().map(|columns| format!("#{columns}")));
    let mut table = Table::new(&titles.iter().map(String::as_str).collect::<Vec<_>>());
    for (kind, ratios) in &tuned.rows {
        let mut cells = vec![Cell::words(kind)];
        cells.extend(ratios.iter().map(|ratio| {
            ratio.map_or_else(
                || Cell::number(""),
                |ratio| {
                    let tone = if ratio < 1.0 { Tone::Bad } else { Tone::Plain };
                    Cell::number(format!("{ratio:.2}")).tone(tone)
                },
            )
        }));
        table.rows.push(cells);
    }
    table
}

fn products(products: &[Product]) -> Table {
    let mut columns: Vec<u32> = products.iter().map(|product| product.columns).collect();
    columns.sort_unstable();
    columns.dedup();
    let mut titles = vec!["type".to_owned(), "tier".to_owned()];
    titles.extend(columns.iter().map(|n| format!("#{n}{}", if *n == 1 { ", GB/s" } else { ", GMAC/s" })));
    let mut table = Table::new(&titles.iter().map(String::as_str).collect::<Vec<_>>());
    let mut names: Vec<(&str, &str)> = Vec::new();
    for product in products {
        let name = (product.kind.as_str(), product.isa.as_str());
        if !names.contains(&name) {
            names.push(name);
        }
    }
    for (kind, isa) in names {
        let mut cells = vec![Cell::words(kind), Cell::words(isa)];
        cells.extend(columns.iter().map(|n| {
            let found = products.iter().find(|p| (p.kind.as_str(), p.isa.as_str(), p.columns) == (kind, isa, *n));
            let Some(product) = found else { return Cell::number("") };
            let (value, share) = if *n == 1 { product.bytes } else { product.macs };
            let share = if share.is_finite() { format!(" ({:.0} %)", 100.0 * share) } else { String::new() };
            Cell::number(format!("{value:.1}{share}"))
        }));
        table.rows.push(cells);
    }
    table
}

/// What `bios record` measured; `None` for none.
pub fn machines(all: &[Bench]) -> Option<Section> {
    let mut section = Section::new("Machines");
    for bench in all {
        section.blocks.push(Block::Heading(bench.label.clone()));
        section.text(place(&bench.at));
        let mut table = Table::new(&["result", "#median (smallest..largest)", "unit"]);
        for (name, unit, values) in &bench.results {
            table.rows.push(vec![Cell::words(name), super::spread(values), Cell::words(unit)]);
        }
        for (name, why) in &bench.unmeasured {
            table.rows.push(vec![Cell::words(name), Cell::number("not measured").tone(Tone::Quiet), Cell::words(why)]);
        }
        section.table(table);
    }
    (!all.is_empty()).then_some(section)
}
