//! The screen.

use std::collections::VecDeque;

use ratatui::Frame as Screen;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Gauge, Paragraph, Row, Sparkline, Table, TableState, Wrap};

use super::frame::Frame;
use super::words;
use crate::bandwidth::Kept;

/// What is shown.
#[derive(Default)]
pub struct View {
    /// In the order of their numbers.
    pub programs: Vec<Shown>,
    /// Index of the one shown in full.
    pub selected: usize,
    pub limit: Option<Kept>,
    /// A line about the last key, or what is waited for.
    pub message: String,
}

/// A program, or why it cannot be shown.
pub struct Shown {
    pub pid: u32,
    pub frame: Result<Frame, String>,
    /// Columns per second at the last readings.
    pub history: VecDeque<u64>,
}

/// Readings kept for the line of columns per second.
pub const HISTORY: usize = 240;

const KEYS: &str = " q quit  ↑↓ choose  b measure the machine's bandwidth (0.3 s, disturbs)  h count huge pages ";

/// Draws it.
pub fn draw(screen: &mut Screen<'_>, view: &View) {
    let rows = u16::try_from(view.programs.len()).unwrap_or(u16::MAX);
    let [head, list, rest, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(rows.clamp(1, 6) + 1),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(screen.area());
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let title = Line::from(vec![Span::styled("zen5turbo top  ", bold), Span::raw(view.message.clone())]);
    screen.render_widget(title, head);
    screen.render_widget(Line::styled(KEYS, Style::new().add_modifier(Modifier::REVERSED)), keys);
    if view.programs.is_empty() {
        let wait = format!("{}\nWaiting for one.", words::NO_PROGRAM);
        screen.render_widget(Paragraph::new(wait).wrap(Wrap { trim: true }), rest);
        return;
    }
    programs(screen, list, view);
    if let Some(Shown { frame: Ok(frame), history, .. }) = view.programs.get(view.selected) {
        program(screen, rest, frame, history, view.limit.as_ref());
    }
}

fn programs(screen: &mut Screen<'_>, area: Rect, view: &View) {
    let rows = view.programs.iter().map(|shown| match &shown.frame {
        Ok(frame) => Row::new(words::program(frame)),
        Err(why) => Row::new([shown.pid.to_string(), why.clone()]),
    });
    // Why it cannot be shown needs the room of the figures.
    let plain = view.programs.iter().all(|shown| shown.frame.is_ok());
    let widths = if plain { vec![8, 18, 12, 18, 10, 11, 9, 10] } else { vec![8, 200] };
    let header = if plain { words::PROGRAMS.to_vec() } else { words::PROGRAMS[..2].to_vec() };
    let table = Table::new(rows, widths.into_iter().map(Constraint::Max))
        .header(Row::new(header).style(Style::new().add_modifier(Modifier::BOLD)))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = TableState::new().with_selected(view.selected);
    screen.render_stateful_widget(table, area, &mut state);
}

fn program(screen: &mut Screen<'_>, area: Rect, frame: &Frame, history: &VecDeque<u64>, limit: Option<&Kept>) {
    let title = format!(" {} (process {}): {}, kernels {} ", frame.program, frame.pid, frame.state, frame.kernels);
    let block = Block::bordered().title(title);
    let inside = block.inner(area);
    screen.render_widget(block, area);
    let facts = words::facts(frame, limit);
    let lines: Vec<Line<'_>> = facts.iter().flat_map(|(name, value)| lines(name, value, inside.width)).collect();
    let height = u16::try_from(lines.len()).unwrap_or(u16::MAX);
    let left = u16::try_from(frame.declined.len()).unwrap_or(u16::MAX);
    let [top, bar, line, operations, declined] = Layout::vertical([
        Constraint::Length(height),
        Constraint::Length(1),
        Constraint::Length(4),
        Constraint::Fill(1),
        Constraint::Max(if left == 0 { 0 } else { left.saturating_add(1).min(8) }),
    ])
    .areas(inside);
    screen.render_widget(Paragraph::new(lines), top);
    let copies = format!("{:.0} % of the weights that products read are on huge pages", 100.0 * frame.copies.share());
    screen.render_widget(Gauge::default().ratio(frame.copies.share()).label(copies), bar);
    columns(screen, line, history);
    table(
        screen,
        operations,
        &words::OPERATIONS,
        [10, 8, 12, 9, 11, 8, 13, 9, 20],
        frame.operations.iter().map(words::operation),
    );
    table(screen, declined, &words::DECLINED, [13, 10, 10, 60], frame.declined.iter().map(words::declined));
}

/// A name and its value, which goes on below itself.
fn lines(name: &str, value: &str, width: u16) -> Vec<Line<'static>> {
    const NAME: usize = 11;
    let room = usize::from(width).saturating_sub(NAME).max(20);
    let mut parts = vec![String::new()];
    for word in value.split_whitespace() {
        match parts.last_mut() {
            Some(part) if part.is_empty() || part.len() + 1 + word.len() <= room => {
                part.push_str(if part.is_empty() { "" } else { " " });
                part.push_str(word);
            }
            _ => parts.push(word.to_owned()),
        }
    }
    let names = std::iter::once(name).chain(std::iter::repeat(""));
    parts
        .into_iter()
        .zip(names)
        .map(|(part, name)| Line::from(vec![Span::styled(format!("{name:<NAME$}"), BOLD), Span::raw(part)]))
        .collect()
}

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);

/// Columns per second, the newest on the right.
fn columns(screen: &mut Screen<'_>, area: Rect, history: &VecDeque<u64>) {
    let most = history.iter().max().copied().unwrap_or(0);
    let block = Block::new().title(Line::styled(format!("columns/s, at most {most}"), BOLD));
    let skip = history.len().saturating_sub(usize::from(area.width));
    let sparkline = Sparkline::default().block(block).data(history.iter().skip(skip).copied());
    screen.render_widget(sparkline, area);
}

fn table<const N: usize>(
    screen: &mut Screen<'_>,
    area: Rect,
    header: &[&'static str; N],
    widths: [u16; N],
    rows: impl Iterator<Item = [String; N]>,
) {
    let header = Row::new(header.to_vec()).style(BOLD);
    let table = Table::new(rows.map(Row::new), widths.map(Constraint::Max)).header(header);
    screen.render_widget(table, area);
}

#[cfg(test)]
mod tests {
    use super::super::frame::tests::reading;
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use std::time::Instant;

    fn shown(pid: u32) -> Shown {
        let start = Instant::now();
        let frame = Frame::new(pid, &reading(start, 3), Some(&reading(start, 1)));
        Shown { pid, frame: Ok(frame), history: VecDeque::from([10, 40, 40]) }
    }

    fn drawn(view: &View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|screen| draw(screen, view)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let lines = buffer.content.chunks(usize::from(width));
        lines.map(|cells| cells.iter().map(ratatui::buffer::Cell::symbol).collect::<String>() + "\n").collect()
    }

    #[test]
    fn a_program_is_shown_with_all_its_parts() {
        let view = View { programs: vec![shown(7)], message: "every 1 s".into(), ..View::default() };
        let text = drawn(&view, 130, 36);
        for part in [
            "zen5turbo top  every 1 s",
            "1-column graphs/s",
            "llama-cli (process 7): active, kernels avx512vnni",
            "generating 40.0 graphs of one column a second",
            "threads    asked 8, used 2 (CPU quota 200000/100000 us of /sys/fs/cgroup/a)",
            "barriers   160 in a graph of one column, 10 of them inside products and attention",
            "4.00 GB/s read, 8.00 GB/s while products run",
            "50 % of the weights that products read are on huge pages",
            "columns/s, at most 40",
            "MUL_MAT",
            "left to ggml",
            "src0_permuted",
            "q quit",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn the_chosen_one_of_several_is_shown_in_full() {
        let mut view = View { programs: vec![shown(7), shown(9)], selected: 1, ..View::default() };
        let text = drawn(&view, 120, 40);
        assert!(text.contains("(process 9)") && !text.contains("(process 7)"), "{text}");
        view.selected = 0;
        assert!(drawn(&view, 120, 40).contains("(process 7)"));
    }

    #[test]
    fn one_that_cannot_be_shown_says_why() {
        let why = "found live statistics of layout 2; expected layout 1".to_owned();
        let bad = Shown { pid: 8, frame: Err(why.clone()), history: VecDeque::new() };
        let text = drawn(&View { programs: vec![shown(7), bad], ..View::default() }, 120, 40);
        assert!(text.contains(&format!("8        {why}")), "{text}");
        assert!(text.contains("(process 7)"), "{text}");
    }

    #[test]
    fn without_a_program_it_says_what_to_do_and_waits() {
        let text = drawn(&View::default(), 80, 24);
        let words: Vec<&str> = text.split_whitespace().collect();
        let text = words.join(" ");
        assert!(
            text.contains("start one with zen5turbo run -- PROGRAM ARGS") && text.contains("Waiting for one."),
            "{text}"
        );
    }

    #[test]
    fn any_size_of_the_terminal_is_drawn() {
        let many = View { programs: (0..40).map(shown).collect(), selected: 39, ..View::default() };
        for (width, height) in [(1, 1), (3, 2), (20, 5), (80, 8), (300, 100)] {
            let _ = drawn(&many, width, height);
            let _ = drawn(&View::default(), width, height);
        }
    }
}
