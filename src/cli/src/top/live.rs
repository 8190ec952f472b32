//! The screen that goes on: readings, keys, signals, and the terminal as it was.

use std::collections::{BTreeMap, VecDeque};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use super::Args;
use super::frame::{Frame, Reading};
use super::view::{self, HISTORY, Shown, View};
use crate::bandwidth::Kept;
use crate::live::{self, Absent};
use crate::root::Root;
use crate::smaps::Peaks;
use crate::text;

/// How long a key or a signal may wait.
const TICK: Duration = Duration::from_millis(100);

/// How often new programs are looked for, at most.
const SEARCH: Duration = Duration::from_secs(1);

/// The terminal, put back when dropped; ratatui's hook does it for a panic.
struct Terminal(DefaultTerminal);

impl Terminal {
    fn new() -> Result<Terminal> {
        let terminal = ratatui::try_init().inspect_err(|_| ratatui::restore());
        Ok(Terminal(terminal.context("cannot use this terminal; expected one that can be drawn on: try --once")?))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.0.show_cursor();
        ratatui::restore();
    }
}

/// Runs until a key or a signal ends it, or the process that was asked for has ended.
pub fn run(root: &Root, args: &Args, limit: Option<Kept>) -> Result<ExitCode> {
    let caught = catch()?;
    if let Some(pid) = args.pid {
        // What no waiting can mend is said at once.
        match live::statistics(root, pid) {
            Ok(_) | Err(Absent::Unpublished) => {}
            Err(absent) => return Err(anyhow!("process {pid}: {absent}")),
        }
    }
    let mut top = Top { root, args, before: BTreeMap::new(), view: View { limit, ..View::default() }, measuring: None };
    let mut terminal = Terminal::new()?;
    let ended = top.until_end(&mut terminal, &caught);
    drop(terminal);
    match ended? {
        End::Key => {}
        End::Gone(pid) => eprintln!("zen5turbo: process {pid} has ended"),
        End::Signal(signal) => signal_hook::low_level::emulate_default_handler(signal)?,
    }
    Ok(ExitCode::SUCCESS)
}

enum End {
    Key,
    Gone(u32),
    Signal(i32),
}

/// The signals that end a program, as a number that is not 0 any more.
fn catch() -> Result<Arc<AtomicUsize>> {
    let caught = Arc::new(AtomicUsize::new(0));
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
        signal_hook::flag::register_usize(signal, Arc::clone(&caught), signal as usize)
            .context("cannot set a signal handler")?;
    }
    Ok(caught)
}

struct Top<'a> {
    root: &'a Root,
    args: &'a Args,
    /// The last reading of each process.
    before: BTreeMap<u32, Reading>,
    view: View,
    measuring: Option<JoinHandle<Option<Kept>>>,
}

impl Top<'_> {
    fn until_end(&mut self, terminal: &mut Terminal, caught: &AtomicUsize) -> Result<End> {
        let interval = Duration::from_secs_f64(self.args.interval);
        self.view.message = format!("every {} s", self.args.interval);
        let mut pids = self.pids();
        let (mut searched, mut due) = (Instant::now(), Instant::now());
        loop {
            if searched.elapsed() >= SEARCH.max(interval) {
                pids = self.pids();
                searched = Instant::now();
            }
            if Instant::now() >= due {
                due = Instant::now() + interval;
                self.look(&pids);
                if let (Some(pid), true) = (self.args.pid, self.view.programs.is_empty())
                    && matches!(live::statistics(self.root, pid), Err(Absent::Gone))
                {
                    return Ok(End::Gone(pid));
                }
            }
            self.measured();
            terminal.0.draw(|screen| view::draw(screen, &self.view)).context("cannot draw on the terminal")?;
            let wait = TICK.min(due.saturating_duration_since(Instant::now()));
            if event::poll(wait).context("cannot read keys from the terminal")?
                && let Event::Key(key) = event::read().context("cannot read keys from the terminal")?
                && self.ends(key)
            {
                return Ok(End::Key);
            }
            match caught.load(Relaxed) {
                0 => {}
                signal => return Ok(End::Signal(signal as i32)),
            }
        }
    }

    fn pids(&self) -> Vec<u32> {
        self.args.pid.map_or_else(|| live::find(self.root), |pid| vec![pid])
    }

    /// Reads every program; those that have ended disappear.
    fn look(&mut self, pids: &[u32]) {
        let chosen = self.view.programs.get(self.view.selected).map(|shown| shown.pid);
        let mut old: BTreeMap<u32, VecDeque<u64>> =
            self.view.programs.drain(..).map(|shown| (shown.pid, shown.history)).collect();
        for &pid in pids {
            let frame = match Reading::of(self.root, pid) {
                Ok(now) => {
                    let frame = Frame::new(pid, &now, self.before.get(&pid));
                    self.before.insert(pid, now);
                    Ok(frame)
                }
                Err(Absent::Gone) => continue,
                // It has executed another program, or not loaded its model yet.
                Err(Absent::Unpublished) if self.args.pid.is_none() => continue,
                Err(absent) => Err(absent.to_string()),
            };
            let mut history = old.remove(&pid).unwrap_or_default();
            if let Ok(Some(rate)) = frame.as_ref().map(Frame::columns_per_second) {
                history.push_back(rate.round() as u64);
                history.drain(..history.len().saturating_sub(HISTORY));
            }
            self.view.programs.push(Shown { pid, frame, history });
        }
        self.before.retain(|pid, _| self.view.programs.iter().any(|shown| shown.pid == *pid));
        let place = self.view.programs.iter().position(|shown| Some(shown.pid) == chosen);
        let last = self.view.programs.len().saturating_sub(1);
        self.view.selected = place.unwrap_or(self.view.selected.min(last));
    }

    /// What a key asks for; true when it is the end.
    fn ends(&mut self, key: KeyEvent) -> bool {
        if key.kind != KeyEventKind::Press {
            return false;
        }
        let last = self.view.programs.len().saturating_sub(1);
        match key.code {
            KeyCode::Char('q') => return true,
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return true,
            KeyCode::Up => self.view.selected = self.view.selected.saturating_sub(1),
            KeyCode::Down => self.view.selected = (self.view.selected + 1).min(last),
            KeyCode::Char('b') if self.measuring.is_none() => {
                self.measuring = Some(std::thread::spawn(Kept::measure));
                self.view.message = "measuring the machine's bandwidth".into();
            }
            KeyCode::Char('h') => self.view.message = self.huge_pages(),
            _ => {}
        }
        false
    }

    /// Takes the measurement over when it is done.
    fn measured(&mut self) {
        if let Some(measuring) = self.measuring.take_if(|measuring| measuring.is_finished()) {
            let kept = measuring.join().ok().flatten();
            self.view.message = match &kept {
                Some(kept) => format!("measured {}", kept.date),
                None => "the bandwidth was not measured: memory is too short".into(),
            };
            self.view.limit = kept.or(self.view.limit.take());
        }
    }

    /// The kernel counts them page by page, which can hold the program up for a moment.
    fn huge_pages(&self) -> String {
        let Some(shown) = self.view.programs.get(self.view.selected) else { return String::new() };
        let mut now = Peaks::default();
        now.sample(shown.pid);
        format!(
            "process {}: {} on transparent, {} on reserved huge pages just now",
            shown.pid,
            text::bytes(now.anonymous_huge + now.file_huge),
            text::bytes(now.reserved_huge)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn key(code: KeyCode, modifiers: KeyModifiers) -> KeyEvent {
        KeyEvent::new(code, modifiers)
    }

    #[test]
    fn keys_choose_and_end() {
        let root = Root::new(std::path::Path::new("/"));
        let args = Command::parse_from(["top"]).args;
        let mut top = Top { root: &root, args: &args, before: BTreeMap::new(), view: View::default(), measuring: None };
        let absent = || Shown { pid: 1, frame: Err(String::new()), history: VecDeque::new() };
        top.view.programs = vec![absent(), absent()];
        for (code, selected) in [(KeyCode::Up, 0), (KeyCode::Down, 1), (KeyCode::Down, 1), (KeyCode::Up, 0)] {
            assert!(!top.ends(key(code, KeyModifiers::NONE)));
            assert_eq!(top.view.selected, selected);
        }
        assert!(!top.ends(key(KeyCode::Char('c'), KeyModifiers::NONE)));
        assert!(top.ends(key(KeyCode::Char('c'), KeyModifiers::CONTROL)));
        assert!(top.ends(key(KeyCode::Char('q'), KeyModifiers::NONE)));
    }

    #[test]
    fn a_program_that_publishes_is_shown_until_it_has_ended() {
        let root = Root::new(std::path::Path::new("/"));
        let args = Command::parse_from(["top"]).args;
        let mut top = Top { root: &root, args: &args, before: BTreeMap::new(), view: View::default(), measuring: None };
        live::tests::published();
        let me = std::process::id();
        top.look(&[me, u32::MAX]);
        top.look(&[me]);
        assert_eq!(top.view.programs.len(), 1);
        let frame = top.view.programs[0].frame.as_ref().unwrap();
        assert!(frame.program == "test" && frame.seconds.is_some(), "{frame:?}");
        assert_eq!(top.view.programs[0].history.len(), 1);
        top.look(&[]);
        assert!(top.view.programs.is_empty() && top.before.is_empty());
    }
}
