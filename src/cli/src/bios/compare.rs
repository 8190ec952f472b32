//! What changed in the settings, beside what changed in the results.

use serde_json::{Value, json};

use super::record::{Group, Record, Round};
use super::settings::{Reading, Setting};
use super::store::Stored;
use crate::statistics::{CONFIDENCE, Comparison, Interval, Verdict, apart, drift, median, range};

/// Records beside one another; the first is the one that the others are compared with.
pub struct Compared<'a> {
    pub records: &'a [Stored],
    /// Settings that differ.
    pub changes: Vec<Change>,
    /// How many are the same in all records.
    pub equal: usize,
    /// Settings that no record could read.
    pub unreadable: Vec<String>,
    /// Results that every record has.
    pub rows: Vec<Row>,
    /// Results that only some have.
    pub partial: Vec<String>,
    /// How many other records there are of the same experiment, by record: the same label and settings.
    pub again: Vec<usize>,
    /// Of every interval, so that all of them together keep [`CONFIDENCE`].
    pub confidence: f64,
}

/// A setting that differs, as each record has it.
pub struct Change {
    pub id: String,
    pub readings: Vec<Option<Reading>>,
}

/// A result.
pub struct Row {
    pub group: Group,
    pub name: String,
    pub x: f64,
    pub unit: String,
    /// The samples of undisturbed rounds, by record.
    pub values: Vec<Vec<f64>>,
    /// How many samples were left out, by record.
    pub left_out: Vec<usize>,
    /// What the first record and this one show against themselves and against others of the same experiment,
    /// the largest of it; by record.
    pub noise: Vec<Option<Interval>>,
    /// Against the first record; `None` for itself.
    pub compared: Vec<Option<Comparison>>,
}

/// The letter of a record in tables.
pub fn letter(record: usize) -> String {
    char::from_u32('A' as u32 + record as u32).map_or_else(|| record.to_string(), String::from)
}

impl<'a> Compared<'a> {
    /// Compares the second record and those after it with the first. Those of `all` that repeat one of them
    /// tell what changes from record to record by itself.
    pub fn new(records: &'a [Stored], all: &[Stored]) -> Compared<'a> {
        let repeats: Vec<Vec<&Record>> = records.iter().map(|stored| repeats(stored, all)).collect();
        let list: Vec<&Record> = records.iter().map(|stored| &stored.record).collect();
        let (mut changes, mut equal, mut unreadable) = (Vec::new(), 0, Vec::new());
        for id in names(&list, |record| record.settings.iter().map(|setting| setting.id.clone()).collect()) {
            let of =
                |record: &&Record| record.settings.iter().find(|s| s.id == id).map(|s: &Setting| s.reading.clone());
            let readings: Vec<Option<Reading>> = list.iter().map(of).collect();
            if !readings.iter().any(|reading| matches!(reading, Some(Reading::Value(_)))) {
                unreadable.push(id);
            } else if readings.windows(2).all(|two| two[0] == two[1]) {
                equal += 1;
            } else {
                changes.push(Change { id, readings });
            }
        }
        let all = names(&list, |record| record.results.iter().map(|series| series.name.clone()).collect());
        let (whole, partial): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|name| list.iter().all(|r| r.results.iter().any(|s| s.name == *name)));
        let comparisons = whole.len() * (list.len() - 1).max(1);
        let confidence = 1.0 - (1.0 - CONFIDENCE) / comparisons.max(1) as f64;
        let rows = whole.iter().filter_map(|name| row(&list, &repeats, name, confidence)).collect();
        let again = repeats.iter().map(Vec::len).collect();
        Compared { records, changes, equal, unreadable, rows, partial, again, confidence }
    }

    /// Every comparison, with the record that it is of.
    pub fn comparisons(&self) -> impl Iterator<Item = (&Row, usize, &Comparison)> {
        self.rows.iter().flat_map(|row| {
            row.compared.iter().enumerate().filter_map(move |(i, c)| c.as_ref().map(|comparison| (row, i, comparison)))
        })
    }
}

/// The names that the records use, in the order of the first that uses them.
fn names(records: &[&Record], of: impl Fn(&Record) -> Vec<String>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in records.iter().flat_map(|record| of(record)) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// The others of `all` with the same label on the same machine, as far as its settings can be read.
fn repeats<'s>(of: &Stored, all: &'s [Stored]) -> Vec<&'s Record> {
    let read = |record: &Record| -> Vec<Setting> {
        record.settings.iter().filter(|s| matches!(s.reading, Reading::Value(_))).cloned().collect()
    };
    let same = |other: &&Stored| {
        let (a, b) = (&of.record, &other.record);
        // The same file may have been named in another way; the date and the samples are its own.
        let itself = a.date == b.date && a.seconds.to_bits() == b.seconds.to_bits();
        !itself && a.label == b.label && a.cpu == b.cpu && read(a) == read(b)
    };
    all.iter().filter(same).map(|stored| &stored.record).collect()
}

/// The samples of undisturbed rounds of the result of that name.
fn samples(record: &Record, name: &str) -> Option<Vec<f64>> {
    Some(record.results.iter().find(|series| series.name == name)?.undisturbed(&record.rounds))
}

fn row(records: &[&Record], repeats: &[Vec<&Record>], name: &str, confidence: f64) -> Option<Row> {
    let all: Vec<_> = records.iter().filter_map(|r| Some((r, r.results.iter().find(|s| s.name == name)?))).collect();
    let (_, first) = all.first()?;
    let values: Vec<Vec<f64>> = all.iter().map(|(record, series)| series.undisturbed(&record.rounds)).collect();
    let left_out = all.iter().zip(&values).map(|((_, series), kept)| series.samples.len() - kept.len()).collect();
    // How much a record varies in itself has to be known; others of the experiment widen it.
    let own = |i: usize| {
        let drift = drift(&values[i])?;
        let others = repeats[i].iter().filter_map(|other| apart(&values[i], &samples(other, name)?));
        Some(others.fold(drift, wider))
    };
    let noise: Vec<Option<Interval>> = (0..values.len()).map(|i| Some(wider(own(0)?, own(i)?))).collect();
    let compare = |i: usize| {
        let noise = noise[i].as_ref();
        Comparison::of_samples(&values[i], &values[0], noise, first.better, confidence)
    };
    let compared = (0..values.len()).map(|i| if i == 0 { None } else { compare(i) }).collect();
    let (group, x, unit) = (first.group, first.x, first.unit.clone());
    Some(Row { group, name: name.to_owned(), x, unit, values, left_out, noise, compared })
}

/// The one that reaches farther from 1.
fn wider(a: Interval, b: Interval) -> Interval {
    if a.around_one().1 > b.around_one().1 { a } else { b }
}

/// What may be said of a comparison.
pub fn words(row: &Row, record: usize, verdict: Verdict) -> String {
    match verdict {
        Verdict::Better => "better".into(),
        Verdict::Worse => "WORSE".into(),
        Verdict::NoDifference => "no change shown".into(),
        Verdict::WithinNoise => "no change shown (within the noise)".into(),
        Verdict::TooFewPairs => {
            let left_out = row.left_out[0] + row.left_out[record];
            let why = if left_out > 0 { ": the machine was busy with other work" } else { "" };
            format!("too few samples to say{why}")
        }
    }
}

/// Whether a verdict says that there is a change.
pub fn is_claim(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Better | Verdict::Worse)
}

/// What the records support, a sentence each.
pub fn findings(compared: &Compared<'_>) -> Vec<String> {
    let mut found = Vec::new();
    let mut others = 0;
    for (row, i, comparison) in compared.comparisons() {
        match comparison.interval.filter(|_| is_claim(comparison.verdict)) {
            None => others += 1,
            Some(interval) => found.push(format!(
                "{}: {} is {:.3} times A ({:.3}..{:.3}): {}.",
                row.name,
                letter(i),
                comparison.median,
                interval.low,
                interval.high,
                words(row, i, comparison.verdict)
            )),
        }
    }
    match (found.len(), others) {
        (0, 0) if !compared.rows.is_empty() => {
            found.push("No result can be compared: a record has no undisturbed sample.".into());
        }
        (0, 0) => found.push("The records have no result in common.".into()),
        (0, _) => found.push("The records show no change in any result.".into()),
        (_, 0) => {}
        (_, n) => found.push(format!("{n} other comparisons show no change.")),
    }
    let changed = compared.changes.len();
    if changed > 1 && compared.comparisons().any(|(.., c)| is_claim(c.verdict)) {
        found.push(format!("{changed} settings differ: the records cannot tell which of them made a change."));
    }
    found
}

/// Things about the records that the reader has to know.
pub fn warnings(compared: &Compared<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    let first = &compared.records[0].record;
    for (i, Stored { record, .. }) in compared.records.iter().enumerate() {
        let disturbed = record.rounds.iter().filter(|round| Round::disturbed(round)).count();
        if disturbed > 0 {
            warnings.push(format!(
                "{}: {disturbed} of {} rounds are left out: other work kept more than a tenth of a CPU busy",
                letter(i),
                record.rounds.len()
            ));
        }
        if record.rounds.iter().any(|round| round.others.is_none()) {
            warnings.push(format!("{}: whether other work disturbed it is not known", letter(i)));
        }
        if record.cpu != first.cpu {
            warnings.push(format!("{} is of another CPU ({}) than A ({})", letter(i), record.cpu, first.cpu));
        }
    }
    let once: Vec<String> = (0..compared.again.len()).filter(|&i| compared.again[i] == 0).map(letter).collect();
    if !once.is_empty() {
        warnings.push(format!(
            "{}: recorded once. What changes from record to record by itself is not known: record again under the same \
             label and with the same settings, and it counts as noise",
            once.join(", ")
        ));
    }
    if !compared.partial.is_empty() {
        warnings.push(format!("not in every record: {}", compared.partial.join("; ")));
    }
    warnings
}

/// The comparison as one JSON object.
pub fn json(compared: &Compared<'_>) -> Value {
    let records: Vec<Value> = compared
        .records
        .iter()
        .map(|Stored { path, record }| json!({"file": path, "label": record.label, "date": record.date, "cpu": record.cpu}))
        .collect();
    let settings: Vec<Value> =
        compared.changes.iter().map(|change| json!({"id": change.id, "readings": change.readings})).collect();
    let band = |interval: &Interval| json!({"low": interval.low, "high": interval.high});
    let results: Vec<Value> = compared
        .rows
        .iter()
        .map(|row| {
            let values: Vec<Value> = row
                .values
                .iter()
                .zip(&row.left_out)
                .map(|(values, left_out)| {
                    let (low, high) = range(values).unzip();
                    json!({"median": median(values), "min": low, "max": high, "samples": values, "left_out": left_out})
                })
                .collect();
            let compared: Vec<Value> = row
                .compared
                .iter()
                .enumerate()
                .filter_map(|(i, c)| Some((i, c.as_ref()?)))
                .map(|(i, c)| {
                    json!({
                        "record": i,
                        "ratio": c.median,
                        "interval": c.interval.as_ref().map(band),
                        "noise": row.noise[i].map(|noise| noise.around_one()),
                        "result": words(row, i, c.verdict),
                        "change": is_claim(c.verdict),
                    })
                })
                .collect();
            json!({"name": row.name, "unit": row.unit, "records": values, "compared": compared})
        })
        .collect();
    json!({
        "schema": 1,
        "version": env!("CARGO_PKG_VERSION"),
        "records": records,
        "settings": settings,
        "equal_settings": compared.equal,
        "unreadable_settings": compared.unreadable,
        "results": results,
        "findings": findings(compared),
        "warnings": warnings(compared),
        "confidence": compared.confidence,
    })
}
