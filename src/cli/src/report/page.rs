//! The page before it is HTML or Markdown.

/// A page.
#[derive(Clone, Debug, Default)]
pub struct Page {
    pub title: String,
    pub lead: Vec<String>,
    pub sections: Vec<Section>,
}

/// A part with a heading.
#[derive(Clone, Debug, Default)]
pub struct Section {
    pub title: String,
    pub blocks: Vec<Block>,
}

/// What stands below a heading.
#[derive(Clone, Debug)]
pub enum Block {
    Text(String),
    List(Vec<String>),
    Heading(String),
    Table(Table),
    /// What they show, plots with their captions, beside each other where there is room, and the names of the colours.
    Plots {
        intro: String,
        plots: Vec<(String, String)>,
        legend: Vec<(usize, String)>,
    },
}

/// A table.
#[derive(Clone, Debug, Default)]
pub struct Table {
    pub header: Vec<Cell>,
    pub rows: Vec<Vec<Cell>>,
}

/// A cell of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    pub text: String,
    pub tone: Tone,
    /// Stands at the right.
    pub number: bool,
}

/// How a cell looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    #[default]
    Plain,
    Good,
    Bad,
    Quiet,
}

impl Cell {
    /// Words.
    pub fn words(text: impl Into<String>) -> Cell {
        Cell { text: text.into(), ..Cell::default() }
    }

    /// A number, with its unit where the column does not say it.
    pub fn number(text: impl Into<String>) -> Cell {
        Cell { text: text.into(), number: true, ..Cell::default() }
    }

    /// The same in another tone.
    pub fn tone(self, tone: Tone) -> Cell {
        Cell { tone, ..self }
    }
}

impl Table {
    /// A table whose columns have these titles. Those that begin with `#` hold numbers.
    pub fn new(titles: &[&str]) -> Table {
        let cell = |title: &&str| match title.strip_prefix('#') {
            Some(title) => Cell::number(title),
            None => Cell::words(*title),
        };
        Table { header: titles.iter().map(cell).collect(), rows: Vec::new() }
    }
}

impl Section {
    /// Without anything yet.
    pub fn new(title: impl Into<String>) -> Section {
        Section { title: title.into(), blocks: Vec::new() }
    }

    /// Adds a sentence.
    pub fn text(&mut self, text: impl Into<String>) {
        self.blocks.push(Block::Text(text.into()));
    }

    /// Adds a table, unless it is empty.
    pub fn table(&mut self, table: Table) {
        if !table.rows.is_empty() {
            self.blocks.push(Block::Table(table));
        }
    }
}

/// The name of a heading in links, as GitHub makes it.
pub fn anchor(title: &str) -> String {
    let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}
