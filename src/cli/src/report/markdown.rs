//! The page as Markdown, for GitHub and editors. Plots are left out: their figures are in the tables.

use std::fmt::Write;

use super::page::{Block, Cell, Page, Table, Tone, anchor};

/// The whole file.
pub fn render(page: &Page) -> String {
    let mut out = format!("# {}\n\n", escaped(&page.title));
    for line in &page.lead {
        let _ = writeln!(out, "{}\n", escaped(line));
    }
    for section in &page.sections {
        let _ = writeln!(out, "- [{}](#{})", escaped(&section.title), anchor(&section.title));
    }
    for section in &page.sections {
        let _ = writeln!(out, "\n## {}", escaped(&section.title));
        for block in &section.blocks {
            match block {
                Block::Text(text) => {
                    let _ = writeln!(out, "\n{}", escaped(text));
                }
                Block::List(lines) => {
                    let items: Vec<String> = lines.iter().map(|line| format!("- {}\n", escaped(line))).collect();
                    let _ = write!(out, "\n{}", items.concat());
                }
                Block::Heading(title) => {
                    // No heading: links go to sections, and some of these have the name of one.
                    let _ = writeln!(out, "\n**{}**", escaped(title));
                }
                Block::Table(table) => out += &self::table(table),
                Block::Plots { .. } => {}
            }
        }
    }
    let _ = writeln!(out, "\nMade by zen5turbo {}.", env!("CARGO_PKG_VERSION"));
    out
}

fn table(table: &Table) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut out = format!("\n{}", line(table.header.iter().map(|cell| escaped(&cell.text)).collect()));
    out += &line(table.header.iter().map(|cell| if cell.number { "---:" } else { "---" }.to_owned()).collect());
    for row in &table.rows {
        out += &line(row.iter().map(cell).collect());
    }
    out
}

fn cell(cell: &Cell) -> String {
    let text = escaped(&cell.text);
    match cell.tone {
        Tone::Good | Tone::Bad if !text.is_empty() => format!("**{text}**"),
        _ => text,
    }
}

/// Without any sign that means something in Markdown or HTML; on one line.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '~' => out.extend(['\\', c]),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn nothing_of_a_name_is_markup() {
        assert_eq!(super::escaped("<b>a|b_c*\n`d`[e]&"), "&lt;b&gt;a\\|b\\_c\\* \\`d\\`\\[e\\]&amp;");
    }
}
