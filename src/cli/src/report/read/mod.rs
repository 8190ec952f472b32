//! From the text of a file to what it says. The form is told from the text, never from the name.

mod ab_csv;
mod ab_json;
mod bios;
mod csv;
mod products;
mod serve;
mod tune;
mod turns;

use std::path::Path;

use serde_json::Value;

use super::contents::{Contents, Cpu};
use csv::Table;

/// What was understood of a file.
#[derive(Clone, Debug)]
pub struct Read {
    /// What kind of record it is.
    pub what: &'static str,
    pub contents: Contents,
    /// What of it could not be used; empty for nothing.
    pub note: String,
}

/// Why a file is not in the page.
#[derive(Clone, Debug)]
pub enum Refused {
    /// Found, expected, what to do.
    Bad(String),
    /// Written for people.
    Prose,
    /// A record that the page has no section for.
    Other(Other),
}

/// A record that the page has no section for.
#[derive(Clone, Debug)]
pub struct Other {
    pub what: &'static str,
    pub seen: Vec<(String, Cpu)>,
}

/// What is expected where nothing fits.
const EXPECTED: &str = "expected a record of `zen5turbo ab`, `tune`, `bios record` or of the benches";

/// Reads the text of the file at `path`.
///
/// # Errors
/// It is no record, or none that fits.
pub fn read(path: &Path, text: &str) -> Result<Read, Refused> {
    if text.trim_start().starts_with('{') {
        return json(path, text);
    }
    let first = text.lines().next().unwrap_or_default();
    if first.starts_with("zen5turbo-tune") {
        return tune::read(text).map_err(Refused::Bad);
    }
    if products::is_text(first) {
        return products::text(text).map_err(Refused::Bad);
    }
    if products::is_machine(first) {
        return products::machine(first).map_err(Refused::Bad);
    }
    if turns::is_bare(first) {
        return turns::bare(text).map_err(Refused::Bad);
    }
    // Names of columns are words; a line of prose is no table.
    if first.contains(',') && first.split(',').all(is_name) {
        return table(&Table::parse(text));
    }
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    if ["md", "txt", "svg", "html", "htm", "log"].contains(&extension.as_str()) {
        return Err(Refused::Prose);
    }
    Err(Refused::Bad(format!("found `{}` in the first line; {EXPECTED}", beginning(first))))
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// A table with names of columns.
fn table(table: &Table) -> Result<Read, Refused> {
    let read = if table.has(&["date", "cpu", "variant", "pair", "value", "unit", "llama_commit"]) {
        ab_csv::read(table)
    } else if table.has(&[
        "date",
        "cpu",
        "program",
        "model",
        "threads",
        "variant",
        "round",
        "repetition",
        "value",
        "unit",
    ]) {
        turns::decode(table)
    } else if table
        .has(&["date", "cpu", "build", "program", "model", "test", "threads", "variant", "round", "value", "unit"])
    {
        turns::peers(table)
    } else if table.has(&["pages", "threads", "bytes_per_s"]) {
        products::streams(table)
    } else if table.has(&[
        "cpu",
        "type",
        "isa",
        "columns",
        "mac_per_s",
        "mac_peak_per_s",
        "bytes_per_s",
        "read_peak_per_s",
    ]) {
        products::table(table)
    } else {
        return Err(other(table));
    };
    read.map_err(Refused::Bad)
}

/// Tables of scripts that the page has no section for, by a column that no other one has.
const OTHERS: [(&str, &[&str]); 7] = [
    ("a check of ab itself (scripts/ab-check.sh)", &["expected", "difference"]),
    ("drafts and many clients (bench/speculative.py)", &["drafted", "accepted"]),
    ("images (bench/images.py)", &["mmproj"]),
    ("threads above CPUs (bench/threads.py)", &["budget", "tokens_per_second"]),
    ("programs without ggml (scripts/idle.sh)", &["test", "bytes", "variant", "round"]),
    ("what settings of the library cost", &["way", "tokens_per_s"]),
    ("counted instructions (bench/icount)", &["upstream_plain", "upstream_repacked"]),
];

fn other(table: &Table) -> Refused {
    let Some((what, _)) = OTHERS.iter().find(|(_, columns)| table.has(columns)) else {
        let columns = beginning(&table.columns.join(","));
        return Refused::Bad(format!(
            "found a table with the columns {columns}; {EXPECTED}: read a table of another version with that version"
        ));
    };
    let mut seen: Vec<(String, Cpu)> = table
        .rows
        .iter()
        .map(|row| (row.get("date").chars().take(10).collect(), Cpu::parse(row.get("cpu"))))
        .filter(|(day, cpu): &(String, Cpu)| !day.is_empty() && cpu.model.is_some())
        .collect();
    seen.sort();
    seen.dedup();
    Refused::Other(Other { what, seen })
}

/// One JSON object, or one in each line.
fn json(path: &Path, text: &str) -> Result<Read, Refused> {
    let whole = match serde_json::from_str::<Value>(text) {
        Ok(value) => value,
        Err(error) => return ab_json::lines(text, &error),
    };
    if whole["record"].is_string() || whole["ns"].is_object() {
        return ab_json::lines(text, &"one line");
    }
    let read = if whole["kind"] == serve::KIND {
        serve::read(&whole)
    } else if whole["kind"].is_string() && whole["kind"].as_str().is_some_and(|kind| kind.contains("bios record")) {
        bios::read(path, text)
    } else if whole["summary"].is_array() && whole["circumstances"].is_object() {
        ab_json::read(&whole)
    } else {
        let found = match &whole["kind"] {
            Value::Null => format!("an object with {}", members(&whole)),
            kind => format!("\"kind\": {kind}"),
        };
        Err(format!("found {found}; {EXPECTED}"))
    };
    read.map_err(Refused::Bad)
}

/// The names of the first members.
fn members(value: &Value) -> String {
    let names: Vec<&str> = value.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    if names.is_empty() { "no members".to_owned() } else { format!("the members {}", beginning(&names.join(", "))) }
}

/// Characters of a file that a message shows.
const SHOWN: usize = 60;

/// The beginning of a text, for a message.
fn beginning(text: &str) -> String {
    let short: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN).collect();
    if text.chars().count() > SHOWN { short + "..." } else { short }
}

/// The version that the README of scripts/record.sh names.
pub fn recorded_version(readme: &str) -> Option<String> {
    let line = readme.lines().find(|line| line.starts_with("By `scripts/record.sh"))?;
    let version = line.split("zen5turbo ").nth(1)?.split([',', ' ']).next()?;
    Some(format!("zen5turbo {version}"))
}

/// A day such as 2026-11-30 at the beginning of the file's name or of a folder's.
pub fn date_in_path(path: &Path) -> Option<String> {
    let names = path.ancestors().filter_map(|path| path.file_name());
    names.filter_map(|name| name.to_string_lossy().get(..10).filter(|day| is_day(day)).map(str::to_owned)).next()
}

fn is_day(text: &str) -> bool {
    let fits = |(i, byte): (usize, u8)| if matches!(i, 4 | 7) { byte == b'-' } else { byte.is_ascii_digit() };
    text.len() == 10 && text.bytes().enumerate().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_found_in_the_nearest_name_that_begins_with_one() {
        let day = |path: &str| date_in_path(Path::new(path));
        assert_eq!(day("a/2026-01-02-x/2026-01-03-y.csv").as_deref(), Some("2026-01-03"));
        assert_eq!(day("a/2026-01-02-x/y.csv").as_deref(), Some("2026-01-02"));
        assert_eq!((day("2026é1-02-x"), day("20260102xxx"), day("")), (None, None, None));
    }

    #[test]
    fn the_version_of_a_folder_is_that_of_its_readme() {
        let readme = "# A\n\nBy `scripts/record.sh --quick`, zen5turbo 13bc6ec-dirty, complete, 8 s.\n";
        assert_eq!(recorded_version(readme).as_deref(), Some("zen5turbo 13bc6ec-dirty"));
        assert_eq!(recorded_version("# A\n"), None);
    }
}
