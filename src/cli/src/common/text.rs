//! How facts, sizes and tables look on the terminal.

use comfy_table::{CellAlignment, ContentArrangement, Table};

use crate::statistics::{median, range};

/// An empty table in this command's style.
pub fn table() -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    table
}

/// Aligns columns of numbers on the right.
pub fn right(table: &mut Table, columns: impl IntoIterator<Item = usize>) {
    for index in columns {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// `name   value` lines with the values in one column.
pub fn facts(facts: &[(&str, String)]) -> String {
    facts.iter().map(|(name, value)| format!("{name:<12} {value}\n")).collect()
}

/// A size with a binary unit.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A number with about three digits that matter.
pub fn number(x: f64) -> String {
    match x.abs() {
        a if a >= 100.0 => format!("{x:.0}"),
        a if a >= 10.0 => format!("{x:.1}"),
        _ => format!("{x:.2}"),
    }
}

/// Median and range of values: `12.3 (11.9..12.6)`, or a dash for none.
pub fn spread(values: &[f64]) -> String {
    match (median(values), range(values)) {
        (Some(m), Some((low, high))) => format!("{} ({}..{})", number(m), number(low), number(high)),
        _ => "-".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_numbers_are_short() {
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(3 << 20), "3.0 MiB");
        assert_eq!(number(123.4), "123");
        assert_eq!(number(12.34), "12.3");
        assert_eq!(number(1.234), "1.23");
    }
}
