//! Products and streams alone: `products` (as text and --csv), `streams`, and the machine of scripts/record.sh.

use std::collections::BTreeMap;

use super::super::contents::{At, Contents, Cpu, Memory, Product, Spread};
use super::Read;
use super::csv::Table;

/// What the first line of the text of `products` has.
const TEXT: &str = "; clock of scalar code ";

/// Whether this is the first line of the text of `products`.
pub fn is_text(first: &str) -> bool {
    first.contains(TEXT)
}

/// The text of `products`: a machine, its streaming rates, and a line for each product.
pub fn text(text: &str) -> Result<Read, String> {
    let cpu = text.split(TEXT).next().unwrap_or_default();
    let at = At { cpu: Cpu::parse(cpu), ..At::default() };
    let (mut memory, mut products) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |i: usize| words.get(i).and_then(|word| word.parse::<f64>().ok());
        if words.get(2) == Some(&"thread(s)") {
            if let (Some(threads), Some(rate)) = (number(1), number(3)) {
                memory.push(Memory {
                    at: at.clone(),
                    pages: words[0].to_owned(),
                    threads: threads as u32,
                    rate: Spread::one(rate),
                });
            }
        } else if let (Some(columns), Some(_), Some(macs), Some(mac_share)) =
            (number(2), number(3), number(4), number(6))
        {
            // `12 %` is two words.
            if let (Some("%"), Some(bytes)) = (words.get(7).copied(), number(8)) {
                let share = number(9).filter(|_| words.get(10) == Some(&"%"));
                products.push(Product {
                    kind: words[0].to_owned(),
                    isa: words[1].to_owned(),
                    columns: columns as u32,
                    macs: (macs, mac_share / 100.0),
                    bytes: (bytes, share.map_or(f64::NAN, |share| share / 100.0)),
                });
            }
        }
    }
    if memory.is_empty() && products.is_empty() {
        return Err(
            "found the first line of `products` and neither streaming rates nor products; expected both: measure again"
                .to_owned(),
        );
    }
    let products = if products.is_empty() { Vec::new() } else { vec![(at, products)] };
    Ok(Read {
        what: "products, text",
        contents: Contents { memory, products, ..Contents::default() },
        note: String::new(),
    })
}

/// `products --csv`.
pub fn table(table: &Table) -> Result<Read, String> {
    let (mut bad, mut at, mut products) = (Vec::new(), At::default(), Vec::new());
    for row in &table.rows {
        let number = |column: &str| row.number::<f64>(column);
        let (Some(columns), Some(macs), Some(bytes), Some(most)) =
            (row.number::<u32>("columns"), number("mac_per_s"), number("bytes_per_s"), number("mac_peak_per_s"))
        else {
            bad.push(row.line);
            continue;
        };
        at.cpu = Cpu::parse(row.get("cpu"));
        let cached = row.get("cached") == "true";
        let read = number("read_peak_per_s").filter(|peak| *peak > 0.0 && !cached);
        products.push(Product {
            kind: row.get("type").to_owned(),
            isa: row.get("isa").to_owned(),
            columns,
            macs: (macs / 1e9, macs / most),
            bytes: (bytes / 1e9, read.map_or(f64::NAN, |peak| bytes / peak)),
        });
    }
    if products.is_empty() {
        return Err("found no product in the table; expected one in each line: measure again".to_owned());
    }
    let contents = Contents { products: vec![(at, products)], ..Contents::default() };
    Ok(Read { what: "products, raw values", contents, note: table.note(&bad) })
}

/// `streams`.
pub fn streams(table: &Table) -> Result<Read, String> {
    let mut bad = Vec::new();
    let mut rates: BTreeMap<(String, u32), Vec<f64>> = BTreeMap::new();
    for row in &table.rows {
        match (row.number::<u32>("threads"), row.number::<f64>("bytes_per_s")) {
            (Some(threads), Some(rate)) => {
                rates.entry((row.get("pages").to_owned(), threads)).or_default().push(rate / 1e9);
            }
            _ => bad.push(row.line),
        }
    }
    let rate = |((pages, threads), values): ((String, u32), Vec<f64>)| {
        Some(Memory { at: At::default(), pages, threads, rate: Spread::of(&values)? })
    };
    let memory: Vec<Memory> = rates.into_iter().filter_map(rate).collect();
    if memory.is_empty() {
        return Err("found no rate in the table of streams; expected one in each line: measure again".to_owned());
    }
    Ok(Read { what: "streams", contents: Contents { memory, ..Contents::default() }, note: table.note(&bad) })
}

/// Whether this is the first line of machine.txt: `cpu: AMD EPYC, family 25, model 17, stepping 1`.
pub fn is_machine(first: &str) -> bool {
    first.starts_with("cpu: ") && first.contains(", family ")
}

/// The machine of a folder of scripts/record.sh: its CPU completes that of the other files.
pub fn machine(first: &str) -> Result<Read, String> {
    let named = first.trim_start_matches("cpu: ").replacen(", family ", " (family ", 1);
    let cpu = Cpu::parse(&named);
    let contents = Contents { seen: vec![(String::new(), cpu)], ..Contents::default() };
    Ok(Read { what: "machine", contents, note: String::new() })
}
