//! Every file at the paths: what was read of it, or why it is not in the page.

use super::super::gather::{Gathered, LeftOut};
use super::super::page::{Block, Cell, Section, Table, Tone};
use super::super::read::Refused;

/// The section of both lists.
pub fn files(gathered: &Gathered) -> Section {
    let mut section = Section::new("Files");
    section.blocks.push(Block::Heading("In this page".to_owned()));
    let mut table = Table::new(&["file", "record", "newest", "version", "not used of it"]);
    for file in &gathered.files {
        let or = |text: &str, none: &str| if text.is_empty() { none.to_owned() } else { text.to_owned() };
        table.rows.push(vec![
            Cell::words(&file.path),
            Cell::words(file.what),
            Cell::words(or(&file.date, super::super::contents::UNKNOWN)),
            Cell::words(or(&file.version, super::super::contents::UNKNOWN)),
            Cell::words(&file.note).tone(Tone::Bad),
        ]);
    }
    section.table(table);
    if gathered.left_out.is_empty() {
        return section;
    }
    section.blocks.push(Block::Heading("Not in this page".to_owned()));
    let mut table = Table::new(&["file", "why"]);
    // What can be mended stands first.
    for file in &gathered.left_out {
        if let Refused::Bad(why) = &file.why {
            table.rows.push(vec![Cell::words(&file.path), Cell::words(why).tone(Tone::Bad)]);
        }
    }
    let mut others: Vec<(&str, Vec<&LeftOut>)> = Vec::new();
    for file in &gathered.left_out {
        let why = match &file.why {
            Refused::Bad(_) => continue,
            Refused::Prose => "text for readers, or a picture",
            Refused::Other(other) => other.what,
        };
        match others.iter_mut().find(|(what, _)| *what == why) {
            Some((_, files)) => files.push(file),
            None => others.push((why, vec![file])),
        }
    }
    for (why, files) in others {
        let names: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
        let why = match files[0].why {
            Refused::Other(_) => format!("a record that this page has no section for: {why}"),
            _ => why.to_owned(),
        };
        table.rows.push(vec![Cell::words(names.join(", ")), Cell::words(why)]);
    }
    section.table(table);
    section
}
