//! The page as one HTML file.

use maud::{Markup, PreEscaped, html};

use super::page::{Block, Cell, Page, Section, Table, Tone, anchor};
use crate::page::{self, swatch};

/// The whole file.
pub fn render(page: &Page) -> String {
    let body = html! {
        h1 { (page.title) }
        @for line in &page.lead { p { (line) } }
        nav { ul class="contents" { @for section in &page.sections {
            li { a href=(format!("#{}", anchor(&section.title))) { (section.title) } }
        } } }
        @for section in &page.sections { (part(section)) }
        footer class="quiet" { p { "Made by zen5turbo " (env!("CARGO_PKG_VERSION")) "." } }
    };
    page::document(&page.title, &body)
}

fn part(section: &Section) -> Markup {
    html! {
        section {
            h2 id=(anchor(&section.title)) { (section.title) }
            @for block in &section.blocks {
                @match block {
                    Block::Text(text) => p { (text) },
                    Block::List(lines) => ul { @for line in lines { li { (line) } } },
                    Block::Heading(title) => h3 { (title) },
                    Block::Table(table) => (self::table(table)),
                    Block::Plots { intro, plots, legend } => { p { (intro) } (self::plots(plots, legend)) },
                }
            }
        }
    }
}

fn plots(plots: &[(String, String)], legend: &[(usize, String)]) -> Markup {
    html! {
        @if !legend.is_empty() {
            p class="legend" { @for (colour, name) in legend { span class="entry" { (swatch(*colour)) (name) } " " } }
        }
        div class="plots" {
            @for (caption, svg) in plots { figure { figcaption { (caption) } (PreEscaped(svg)) } }
        }
    }
}

fn table(table: &Table) -> Markup {
    html! {
        // Reached with the keyboard too, where it scrolls.
        div class="scroll" tabindex="0" { table class="dense" {
            thead { tr { @for cell in &table.header { th scope="col" class=[class(cell)] { (cell.text) } } } }
            tbody { @for row in &table.rows { tr { @for cell in row { td class=[class(cell)] { (cell.text) } } } } }
        } }
    }
}

/// Cells of more characters are broken into lines.
const LONG: usize = 44;

/// Cells of so many characters, such as dates, are whole on paper too.
const SHORT: usize = 12;

fn class(cell: &Cell) -> Option<String> {
    let tone = match cell.tone {
        Tone::Plain => "",
        Tone::Good => "better",
        Tone::Bad => "worse",
        Tone::Quiet => "quiet",
    };
    let length = match cell.text.chars().count() {
        n if n > LONG => "long",
        n if n <= SHORT => "short",
        _ => "",
    };
    let classes = [if cell.number { "number" } else { "" }, length, tone];
    let classes: Vec<&str> = classes.into_iter().filter(|class| !class.is_empty()).collect();
    (!classes.is_empty()).then(|| classes.join(" "))
}
