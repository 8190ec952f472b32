//! `zen5turbo doctor --all`: every process that loads ggml or the shim, in short.

use std::fs;
use std::io::ErrorKind;

use anyhow::{Result, ensure};

use super::check::{Check, Report, Section, Status};
use super::cpu;
use super::process::{Process, THREADS};
use crate::maps::Mapping;
use crate::root::Root;
use crate::shim_stats::Threads;

/// What to do about processes that the kernel does not show.
const READ_THEM: &str = "run this as root or as their user";

/// The processes of one `/proc`.
pub struct All {
    /// Those that load ggml.
    with_ggml: Vec<Section>,
    /// Those that have the library and load no ggml, such as a shell or the server that starts runners.
    shim_only: Vec<Section>,
    /// How many the kernel does not let this user look into.
    unreadable: usize,
}

/// Looks at every process below `root` but this one.
///
/// # Errors
/// None loads ggml or the shim.
pub fn processes(root: &Root) -> Result<All> {
    let mut all = All { with_ggml: Vec::new(), shim_only: Vec::new(), unreadable: 0 };
    let pids = root.list("proc").into_iter().filter_map(|name| name.parse().ok());
    for pid in pids.filter(|&pid: &u32| !root.is_machine() || pid != std::process::id()) {
        match is_concerned(root, pid).map(|concerned| concerned.then(|| Process::open(root, pid))) {
            Ok(None) => {}
            Ok(Some(Ok(process))) if process.has_ggml() => all.with_ggml.push(examined(&process)),
            Ok(Some(Ok(process))) => all.shim_only.push(process.without_ggml()),
            // It has ended meanwhile, or may not be read.
            Ok(Some(Err(_))) if !root.path(&format!("proc/{pid}")).is_dir() => {}
            Ok(Some(Err(_))) | Err(Denied) => all.unreadable += 1,
        }
    }
    ensure!(
        !all.with_ggml.is_empty() || !all.shim_only.is_empty(),
        "no process that loads ggml or libzen5turbo.so was found{}; expected a running llama.cpp, or Ollama with a model \
         loaded: start one with zen5turbo run -- PROGRAM ARGS (a program with ggml linked statically cannot be told: ask \
         zen5turbo doctor PROGRAM)",
        match all.unreadable {
            0 => String::new(),
            n => format!(" ({n} could not be looked into: {READ_THEM})"),
        }
    );
    Ok(all)
}

/// The kernel does not let this user look into a process.
struct Denied;

/// Whether a process loads ggml or the shim. One that has ended, and a thread of the kernel, do not.
fn is_concerned(root: &Root, pid: u32) -> Result<bool, Denied> {
    match fs::read(root.path(&format!("proc/{pid}/maps"))) {
        Ok(maps) => {
            let maps = String::from_utf8_lossy(&maps);
            Ok(maps.lines().filter_map(Mapping::parse).any(|mapping| mapping.is_ggml() || mapping.is_shim()))
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            // Everybody may read the command line; the kernel's threads have none.
            let is_program = root.read(&format!("proc/{pid}/cmdline")).is_some_and(|line| !line.is_empty());
            if is_program { Err(Denied) } else { Ok(false) }
        }
        Err(_) => Ok(false),
    }
}

/// What `doctor PID` finds in the process, and what keeps the shim from engaging with the settings that it has.
fn examined(process: &Process<'_>) -> Section {
    let (mut section, settings) = (process.section(), process.settings());
    let cpu = settings.cpu();
    let mut checks = cpu::gate_checks(&cpu, &settings);
    checks.extend(cpu::feature_checks(&cpu, &settings));
    checks.extend(cpu::setting_checks(&settings));
    checks.retain(|check| check.status == Status::No);
    section.checks.extend(checks);
    section
}

impl All {
    /// In short, for a terminal.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for section in &self.with_ggml {
            let found = |id: &str| section.checks.iter().find(|check| check.id == id).map_or("?", |c| c.found.as_str());
            let against: Vec<&Check> = section.against().collect();
            let engaged = if against.is_empty() { "has engaged" } else { "has not engaged" };
            out += &format!("process {}: {engaged}\n", section.subject);
            let mut line = |word: &str, text: &str| out += &format!("  {word:<11} {text}\n");
            line("shim", found("process.shim"));
            if section.statistics.is_some() {
                line("statistics", found("process.statistics"));
            }
            if section.statistics.as_ref().is_some_and(|statistics| Threads::of(statistics).is_capped()) {
                line("threads", found(THREADS));
            }
            for check in against.iter().filter(|check| check.id != "process.shim") {
                line("why not", &check.found);
            }
            if let Some(todo) = against.first().and_then(|check| check.remedy.as_deref()) {
                line("do", todo);
            }
        }
        for section in &self.shim_only {
            out += &format!("process {}: has the shim, which does nothing there: no ggml is loaded\n", section.subject);
        }
        out += &format!("\nverdict: {}", self.verdict());
        if !self.shim_only.is_empty() {
            out += &format!("; {} with the shim and without ggml", self.shim_only.len());
        }
        if self.unreadable > 0 {
            out += &format!("; {} could not be looked into: {READ_THEM}", self.unreadable);
        }
        out + "\n"
    }

    fn verdict(&self) -> String {
        let engaged = self.with_ggml.iter().filter(|section| section.against().next().is_none()).count();
        match self.with_ggml.len() {
            0 => "no process loads ggml; Ollama's runner does while a model is loaded".to_owned(),
            1 => {
                format!("the shim has {}engaged in the process that loads ggml", if engaged == 1 { "" } else { "not " })
            }
            n => format!("the shim has engaged in {engaged} of {n} processes that load ggml"),
        }
    }

    /// Whole. It engages when every process that loads ggml has engaged, and there is one.
    pub fn report(self) -> Report {
        let verdict = self.verdict();
        let none = self.with_ggml.is_empty();
        let mut report = Report::new(self.with_ggml.into_iter().chain(self.shim_only).collect());
        report.unreadable = Some(self.unreadable);
        if none {
            report.engages = false;
            report.reasons.push(verdict);
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root::tests::tree;

    const SHIM: &str = "7f0000000000-7f0000001000 r--p 00000000 08:01 7     /opt/libzen5turbo.so\n";
    const GGML: &str = "7f0000002000-7f0000003000 r--p 00000000 08:01 8     /opt/libggml-base.so.0\n";

    const CAPPED: &str = r#"{"pid": 11, "threads": {"asked": 8, "used": 2}, "threads_limit": "CPUs allowed: 0-1"}"#;

    #[test]
    fn processes_with_ggml_or_the_shim_are_told_and_others_are_not() {
        let both = format!("{SHIM}{GGML}");
        let (_folder, root) = tree(&[
            ("proc/7/maps", both.as_str()),
            ("proc/7/environ", "ZEN5TURBO_GATE=passthrough\0"),
            ("proc/8/maps", GGML),
            ("proc/8/environ", ""),
            ("proc/9/maps", SHIM),
            ("proc/9/environ", ""),
            ("proc/11/maps", both.as_str()),
            ("proc/11/environ", "ZEN5TURBO_STATS=/stats.%p\0"),
            ("proc/11/root/stats.11", CAPPED),
            ("proc/10/maps", ""),
            ("proc/10/environ", ""),
            ("proc/uptime", "1"),
        ]);
        let all = processes(&root).unwrap();
        let text = all.text();
        assert!(
            text.contains("process 7 ?: has not engaged\n  shim        /opt/libzen5turbo.so is loaded\n"),
            "{text}"
        );
        assert!(text.contains("  why not     passthrough (ZEN5TURBO_GATE=passthrough)"), "{text}");
        assert!(text.contains("process 8 ?: has not engaged\n  shim        not loaded\n"), "{text}");
        assert_eq!(text.matches("do          start it again: zen5turbo run -- PROGRAM ARGS").count(), 1, "{text}");
        assert!(text.contains("process 9 ?: has the shim, which does nothing there"), "{text}");
        assert!(!text.contains("process 10"), "{text}");
        let threads = "  threads     asked 8, used 2 (CPUs allowed: 0-1)\n";
        let (_, capped) = text.split_once("process 11 ").unwrap();
        assert!(capped.contains(threads) && text.matches("  threads ").count() == 1, "{text}");
        let verdict =
            "verdict: the shim has engaged in 0 of 3 processes that load ggml; 1 with the shim and without ggml\n";
        assert!(text.ends_with(verdict), "{text}");
        let report = all.report();
        assert_eq!((report.engages, report.sections.len(), report.unreadable), (false, 4, Some(0)));
    }

    #[test]
    fn a_server_without_a_runner_has_not_engaged_and_is_not_at_fault() {
        let (_folder, root) = tree(&[("proc/9/maps", SHIM), ("proc/9/environ", "")]);
        let all = processes(&root).unwrap();
        assert!(all.text().contains("verdict: no process loads ggml; Ollama's runner does"), "{}", all.text());
        let report = all.report();
        assert!(!report.engages && report.sections[0].against().next().is_none(), "{report:?}");
        assert_eq!(report.reasons.len(), 1);
    }

    #[test]
    fn where_there_is_no_such_process_one_line_says_what_to_do() {
        let (_folder, root) = tree(&[("proc/1/maps", ""), ("proc/1/environ", "")]);
        let error = processes(&root).err().unwrap().to_string();
        assert!(error.starts_with("no process that loads ggml") && error.contains("zen5turbo run --"), "{error}");
        assert!(!error.contains('\n'));
    }
}
