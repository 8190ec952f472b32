//! Records and their comparison as text.

use super::compare::{Change, Compared, Row, findings, letter, warnings, words};
use super::record::Record;
use super::settings::{Reading, Setting};
use super::store::Stored;
use crate::statistics::{Comparison, median, range};
use crate::text;

/// A record: settings, then results.
pub fn record(record: &Record) -> String {
    let mut out = format!("{}  {}  {}\n\n", record.date, record.label, record.cpu);
    let width = record.settings.iter().map(|setting| setting.id.len()).max().unwrap_or(0).min(30);
    let (read, unread): (Vec<&Setting>, Vec<&Setting>) =
        record.settings.iter().partition(|setting| matches!(setting.reading, Reading::Value(_)));
    for setting in read {
        out += &format!("{:<width$}  {}\n", setting.id, reading(Some(&setting.reading)));
    }
    if !unread.is_empty() {
        out += "\nnot readable\n";
    }
    for setting in unread {
        if let Reading::Unreadable(why) = &setting.reading {
            out += &format!("{:<width$}  {why}\n", setting.id);
        }
    }
    if !record.results.is_empty() {
        let mut table = text::table();
        table.set_header(["result", "median", "smallest", "largest", "unit", "samples"]);
        for series in &record.results {
            let (low, high) = range(&series.samples).unwrap_or_default();
            let number = |x| text::number(x);
            table.add_row([
                series.name.clone(),
                number(median(&series.samples).unwrap_or_default()),
                number(low),
                number(high),
                series.unit.clone(),
                series.samples.len().to_string(),
            ]);
        }
        out += &format!("\n{table}\n");
    }
    for unmeasured in &record.unmeasured {
        out += &format!("not measured: {}: {}\n", unmeasured.name, unmeasured.why);
    }
    let disturbed = record.rounds.iter().filter(|round| round.disturbed()).count();
    if disturbed > 0 {
        out += &format!(
            "note: other work kept more than a tenth of a CPU busy in {disturbed} of {} rounds; compare leaves them out\n",
            record.rounds.len()
        );
    }
    for note in &record.notes {
        out += &format!("note: {note}\n");
    }
    out
}

/// The list of records.
pub fn list(records: &[Stored]) -> String {
    let mut table = text::table();
    table.set_header(["number", "date", "label", "CPU", "BIOS", "results"]);
    for (i, Stored { record, .. }) in records.iter().enumerate() {
        table.add_row([
            (i + 1).to_string(),
            record.date.clone(),
            record.label.clone(),
            record.cpu.clone(),
            bios(record),
            record.results.len().to_string(),
        ]);
    }
    format!("{table}\n")
}

/// Vendor and version of the BIOS.
pub fn bios(record: &Record) -> String {
    let value = |id: &str| {
        record.settings.iter().find(|s| s.id == id).and_then(|s| match &s.reading {
            Reading::Value(value) => Some(value.clone()),
            Reading::Unreadable(_) => None,
        })
    };
    value("bios.version").map_or_else(
        || "not told".to_owned(),
        |version| [value("bios.vendor"), Some(version)].into_iter().flatten().collect::<Vec<_>>().join(" "),
    )
}

/// A reading in a table.
pub fn reading(reading: Option<&Reading>) -> String {
    match reading {
        Some(Reading::Value(value)) => value.clone(),
        Some(Reading::Unreadable(why)) => format!("not read: {why}"),
        None => "-".to_owned(),
    }
}

/// The comparison.
pub fn comparison(compared: &Compared<'_>) -> String {
    let mut out = String::new();
    for (i, Stored { path, record }) in compared.records.iter().enumerate() {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        out += &format!(
            "{}  {}  {}  {}  BIOS {}  ({name})\n",
            letter(i),
            record.date,
            record.label,
            record.cpu,
            bios(record)
        );
    }
    out += "\nsettings that differ\n";
    out += &changes(compared);
    out += &equal(compared);
    out += "\nresults: median (smallest..largest) of the undisturbed samples\n";
    let mut table = text::table();
    let mut header = vec!["result".to_owned(), "unit".to_owned()];
    header.extend((0..compared.records.len()).map(letter));
    header.extend(["ratio", "interval", "noise", ""].map(str::to_owned));
    table.set_header(header);
    for (row, i, c) in compared.comparisons() {
        // The values of all records stand beside the first comparison only.
        let values = row.values.iter().map(|values| if i == 1 { text::spread(values) } else { String::new() });
        let name = if i == 1 { row.name.clone() } else { String::new() };
        let mut cells = vec![name, row.unit.clone()];
        cells.extend(values);
        cells.extend([ratio(compared, i, c), interval(c), noise(row, i), words(row, i, c.verdict)]);
        table.add_row(cells);
    }
    out += &format!("{table}\n\n");
    for line in findings(compared) {
        out += &format!("{line}\n");
    }
    for warning in warnings(compared) {
        out += &format!("note: {warning}\n");
    }
    out + &format!("\n{}\n", legend(compared).join("\n"))
}

fn changes(compared: &Compared<'_>) -> String {
    if compared.changes.is_empty() {
        return "none\n".into();
    }
    let mut table = text::table();
    let mut header = vec!["setting".to_owned()];
    header.extend((0..compared.records.len()).map(letter));
    table.set_header(header);
    for Change { id, readings } in &compared.changes {
        let mut cells = vec![id.clone()];
        cells.extend(readings.iter().map(|r| reading(r.as_ref())));
        table.add_row(cells);
    }
    format!("{table}\n")
}

/// How many settings are the same, and which none could read.
pub fn equal(compared: &Compared<'_>) -> String {
    let unreadable = match compared.unreadable.len() {
        0 => String::new(),
        n => format!("; {n} could not be read: {}", compared.unreadable.join(", ")),
    };
    format!("{} settings are the same{unreadable}\n", compared.equal)
}

/// `1.012`, or `B/A 1.012` where there are several to tell apart.
pub fn ratio(compared: &Compared<'_>, record: usize, comparison: &Comparison) -> String {
    let ratio = format!("{:.3}", comparison.median);
    if compared.records.len() > 2 { format!("{}/A {ratio}", letter(record)) } else { ratio }
}

/// `low..high`, or a dash.
pub fn interval(comparison: &Comparison) -> String {
    comparison.interval.map_or("-".into(), |i| format!("{:.3}..{:.3}", i.low, i.high))
}

/// The band of a record against itself.
pub fn noise(row: &Row, record: usize) -> String {
    row.noise[record].map_or("-".into(), |noise| {
        let (low, high) = noise.around_one();
        format!("{low:.3}..{high:.3}")
    })
}

/// How to read the figures, a line each.
pub fn legend(compared: &Compared<'_>) -> Vec<String> {
    vec![
        "Ratio: the median of all samples of a record over all of A (Hodges-Lehmann). For ns and W less is better.".into(),
        format!(
            "Interval: exact rank-sum interval, each with confidence {:.2} %, so that all together keep 95 %.",
            100.0 * compared.confidence
        ),
        "Noise: the second half of a record's samples against the first, and the record against others of the same label and settings; the largest of both records, mirrored at 1.".into(),
        "A change is stated only when the interval holds neither 1 nor anything of the noise. No change shown is not: no change.".into(),
        "Samples of rounds in which other work kept more than a tenth of a CPU busy are left out.".into(),
    ]
}
