//! Arms against stock, by CPU: the newest figures, plots, and how they came about.

use anyhow::Result;

use super::super::contents::{Cpu, Said, Speed};
use super::super::page::{Block, Cell, Section, Table, Tone};
use super::super::plot::{self, History, Line};
use super::{Row, short};
use crate::text;

/// Kinds of tests, in the order in which they stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    Prompt,
    Generation,
    SmallBatches,
    Both,
    Process,
}

impl Class {
    fn name(self) -> &'static str {
        match self {
            Class::Prompt => "prompt",
            Class::Generation => "generation",
            Class::SmallBatches => "small batches",
            Class::Both => "prompt and generation",
            Class::Process => "process",
        }
    }
}

/// A prompt of so few tokens is a small batch.
const SMALL: u32 = 64;

/// The kind of a test.
pub fn class(speed: &Speed) -> Class {
    let prompt = speed.test.strip_prefix("pp");
    if speed.unit != "tokens/s" {
        Class::Process
    } else if speed.test.contains("+tg") {
        Class::Both
    } else if speed.test.starts_with("batch") {
        Class::SmallBatches
    } else if let Some(prompt) = prompt {
        let tokens = prompt.split(|c: char| !c.is_ascii_digit()).next().and_then(|n| n.parse::<u32>().ok());
        let micro = prompt.split(" ub").nth(1).and_then(|n| n.parse::<u32>().ok());
        if micro.or(tokens).is_some_and(|n| n <= SMALL) { Class::SmallBatches } else { Class::Prompt }
    } else {
        Class::Generation
    }
}

/// The smallest, middle and largest ratio of each CPU, kind of test and number of threads.
pub fn glance(newest: &[Row<'_>]) -> Section {
    let mut section = Section::new("At a glance");
    let speeds: Vec<&Row<'_>> = newest.iter().filter(|row| row.is_speed() && is_shim(row)).collect();
    let titles = ["test", "#threads", "#ratio (range)", "#models", "arm", "days"];
    let mut rows = Vec::new();
    let mut groups: Vec<_> = speeds.iter().map(|row| group(row)).collect();
    groups.sort_by_key(|(cpu, class, threads, arm)| (super::newer(cpu), *class, *threads, *arm));
    groups.dedup();
    for key in groups {
        let mine: Vec<&&Row<'_>> = speeds.iter().filter(|row| group(row) == key).collect();
        let mut ratios: Vec<f64> = mine.iter().map(|row| row.arm.ratio).collect();
        ratios.sort_by(f64::total_cmp);
        let mut models: Vec<&str> = mine.iter().map(|row| row.speed.model.as_str()).collect();
        models.sort_unstable();
        models.dedup();
        let mut days: Vec<&str> = mine.iter().map(|row| row.speed.at.day()).collect();
        days.sort_unstable();
        days.dedup();
        let days = match days[..] {
            [first, .., last] => format!("{first} to {last}"),
            [only] => only.to_owned(),
            [] => String::new(),
        };
        let (cpu, class, threads, arm) = key;
        let middle = crate::statistics::median(&ratios).unwrap_or(f64::NAN);
        let cells = vec![
            Cell::words(class.name()),
            Cell::number(threads.to_string()),
            Cell::number(format!("{middle:.2} ({:.2}..{:.2})", ratios[0], ratios[ratios.len() - 1])),
            Cell::number(models.len().to_string()),
            Cell::words(arm),
            Cell::words(days),
        ];
        rows.push((cpu, cells));
    }
    if !rows.is_empty() {
        section.text("Speed with zen5turbo over the better of stock's two layouts, the median over all models, the smallest and the largest: the newest measurement of each.");
    }
    super::by_cpu(&mut section, &titles, rows);
    section
}

/// What belongs into one line of the first table.
fn group<'a>(row: &Row<'a>) -> (&'a Cpu, Class, u32, &'a str) {
    (&row.speed.at.cpu, class(row.speed), row.speed.threads, &row.arm.name)
}

/// A section for each CPU.
pub fn by_cpu(newest: &[Row<'_>], earlier: &[Row<'_>]) -> Result<Vec<Section>> {
    let mut cpus: Vec<_> = newest.iter().map(|row| &row.speed.at.cpu).collect();
    cpus.dedup();
    let of = |rows: &[Row<'_>], cpu| rows.iter().filter(|row| &row.speed.at.cpu == cpu).count() > 0;
    let mut sections = Vec::new();
    for cpu in cpus {
        let mine =
            |rows: &'_ [Row<'_>]| -> Vec<usize> { (0..rows.len()).filter(|&i| &rows[i].speed.at.cpu == cpu).collect() };
        let new: Vec<Row<'_>> = mine(newest).into_iter().map(|i| newest[i]).collect();
        let mut section = Section::new(cpu.to_string());
        plots(&new, &mut section)?;
        section.blocks.push(Block::Heading("Newest measurement of each model and test".to_owned()));
        section.table(table(&new, false));
        if of(earlier, cpu) {
            let old: Vec<Row<'_>> = mine(earlier).into_iter().map(|i| earlier[i]).collect();
            section.blocks.push(Block::Heading("History".to_owned()));
            histories(&new, &old, &mut section)?;
            section.text("Earlier measurements of the same models and tests; the newest ones are in the table above.");
            section.table(table(&old, true));
        }
        sections.push(section);
    }
    Ok(sections)
}

/// Whether it is zen5turbo, in some way.
pub fn is_shim(row: &Row<'_>) -> bool {
    row.arm.name.starts_with("shim")
}

/// A plot for each test and number of threads.
fn plots(rows: &[Row<'_>], section: &mut Section) -> Result<()> {
    let speeds: Vec<&Row<'_>> = rows.iter().filter(|row| row.is_speed()).collect();
    let mut titles: Vec<String> = speeds.iter().map(|row| title(row)).collect();
    titles.dedup();
    let mut seen: Vec<String> = Vec::new();
    titles.retain(|title| {
        !seen.contains(title) && {
            seen.push(title.clone());
            true
        }
    });
    let mut plots = Vec::new();
    for title in titles {
        let lines: Vec<Line> = speeds
            .iter()
            .filter(|row| self::title(row) == title)
            .map(|row| Line {
                label: label(row),
                shim: is_shim(row),
                ratio: row.arm.ratio,
                interval: row.arm.interval,
                noise: row.speed.noise,
            })
            .collect();
        plots.push((title, plot::ratios(&lines)?));
    }
    if !plots.is_empty() {
        let intro = "Tokens per second over those of the better of stock's two layouts. Dot: median of the paired ratios. Line: its interval. Grey: what stock shows against itself.".to_owned();
        section.blocks.push(Block::Plots {
            intro,
            plots,
            legend: plot::legend(speeds.iter().any(|row| !is_shim(row))),
        });
    }
    Ok(())
}

fn title(row: &Row<'_>) -> String {
    let Speed { test, threads, .. } = row.speed;
    format!("{test}, {}{}", super::count(*threads as usize, "thread"), build(row.speed, ", "))
}

/// The model, and the arm where it is not the shim as it is.
fn label(row: &Row<'_>) -> String {
    let arm = row.arm.name.trim_start_matches("shim").trim_start_matches(", ").trim_start_matches("kernels ");
    let model = short(&row.speed.model);
    if arm.is_empty() { model.to_owned() } else { format!("{model}, {arm}") }
}

/// A plot for each test and number of threads that was measured on several days.
fn histories(newest: &[Row<'_>], earlier: &[Row<'_>], section: &mut Section) -> Result<()> {
    let is_in = |row: &&Row<'_>| row.is_speed() && row.arm.name == "shim";
    let again: Vec<&Row<'_>> =
        newest.iter().filter(is_in).filter(|row| earlier.iter().any(|old| old.key() == row.key())).collect();
    let mut models: Vec<&str> = again.iter().map(|row| row.speed.model.as_str()).collect();
    models.sort_unstable();
    models.dedup();
    let mut titles: Vec<String> = again.iter().map(|row| title(row)).collect();
    titles.dedup();
    let mut plots = Vec::new();
    for title in titles {
        let mine: Vec<&&Row<'_>> = again.iter().filter(|row| self::title(row) == title).collect();
        let all: Vec<&Row<'_>> =
            earlier.iter().chain(newest).filter(|row| mine.iter().any(|new| new.key() == row.key())).collect();
        let mut dates: Vec<&str> = all.iter().map(|row| row.speed.at.date.as_str()).collect();
        dates.sort_unstable();
        dates.dedup();
        if dates.len() < 2 {
            continue;
        }
        let lines: Vec<History> = mine
            .iter()
            .map(|new| {
                let same = all.iter().filter(|row| row.key() == new.key());
                let point = |row: &&Row<'_>| {
                    let place = dates.iter().position(|date| *date == row.speed.at.date).unwrap_or(0);
                    (place, row.arm.ratio, row.arm.interval)
                };
                let colour = models.iter().position(|model| *model == new.speed.model).unwrap_or(0) + 1;
                History { colour, points: same.map(point).collect() }
            })
            .collect();
        plots.push((title.clone(), plot::history(&format!("history of {title}"), &dates, &lines)?));
    }
    if !plots.is_empty() {
        let intro =
            "Ratios in the order in which they were measured, each with its interval where it has one.".to_owned();
        let legend = models.iter().enumerate().map(|(i, model)| (i + 1, short(model).to_owned())).collect();
        section.blocks.push(Block::Plots { intro, plots, legend });
    }
    Ok(())
}

/// Titles of the tables; the day and the version of a history stand first.
const TITLES: [&str; 15] = [
    "day",
    "version",
    "model",
    "test",
    "#threads",
    "arm",
    "#ratio",
    "#stock",
    "#this arm",
    "unit",
    "result",
    "#pairs",
    "#A/A",
    "stock's layout",
    "type",
];

fn table(rows: &[Row<'_>], history: bool) -> Table {
    let turned = |mut cells: Vec<Cell>| {
        cells.rotate_left(if history { 0 } else { 2 });
        cells
    };
    let mut table = Table::new(&TITLES);
    table.header = turned(table.header);
    table.rows = rows.iter().map(|row| turned(cells(row))).collect();
    table
}

fn cells(row: &Row<'_>) -> Vec<Cell> {
    let (speed, arm) = (row.speed, row.arm);
    let tone = match arm.said {
        Said::Better => Tone::Good,
        Said::Worse => Tone::Bad,
        _ => Tone::Quiet,
    };
    let interval = arm.interval.map_or_else(String::new, |(low, high)| format!(" ({low:.2}..{high:.2})"));
    let noise = speed.noise.map_or_else(|| "-".to_owned(), |(low, high)| format!("{low:.2}..{high:.2}"));
    vec![
        Cell::words(speed.at.day()),
        Cell::words(speed.at.version()).tone(if speed.at.version.is_empty() { Tone::Quiet } else { Tone::Plain }),
        Cell::words(&speed.model),
        Cell::words(&speed.test),
        Cell::number(speed.threads.to_string()),
        Cell::words(&arm.name),
        Cell::number(format!("{:.2}{interval}", arm.ratio)),
        Cell::number(text::number(speed.stock.1.median)),
        Cell::number(text::number(arm.values.median)),
        Cell::words(&speed.unit),
        Cell::words(arm.said.words(row.is_speed())).tone(tone),
        Cell::number(arm.pairs.to_string()),
        Cell::number(noise),
        Cell::words(speed.stock.0.trim_start_matches("stock ").to_owned() + &build(speed, " of ")),
        Cell::words(&speed.kind),
    ]
}

/// The build of stock, where it has a name that says something.
fn build(speed: &Speed, before: &str) -> String {
    match speed.build.as_str() {
        "" | "llama.cpp" => String::new(),
        build => format!("{before}{build}"),
    }
}
