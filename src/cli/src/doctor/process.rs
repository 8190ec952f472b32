//! What is active in a process that runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use zen5turbo_ggml::hooks::COMPUTE;
use zen5turbo_ggml::rows::PRODUCTS;
use zen5turbo_host::proc::{field_kib, open_regular};
use zen5turbo_telemetry::Document;

use super::check::{Check, Kind, Section};
use crate::elf::Elf;
use crate::interposition::{self, file_name};
use crate::knobs::Settings;
use crate::live::{self, Absent};
use crate::maps::{DELETED, Mapping};
use crate::root::Root;
use crate::shim_stats::{Threads, parse, summary};
use crate::{shim, text};

/// The check that tells how many threads computed the last graph.
pub const THREADS: &str = "process.threads";

/// A process below `/proc`, or below a made tree.
pub struct Process<'a> {
    root: &'a Root,
    pid: u32,
    environment: Vec<(String, String)>,
    maps: Vec<Mapping>,
}

impl<'a> Process<'a> {
    /// Reads what the kernel tells of process `pid`.
    pub fn open(root: &'a Root, pid: u32) -> Result<Process<'a>> {
        let folder = root.path(&format!("proc/{pid}"));
        ensure!(
            folder.is_dir(),
            "there is no process {pid} and no program of that name; expected the number of a running process"
        );
        let denied = || {
            format!(
                "cannot look into process {pid}, which belongs to {}; expected one of your own: run this as that user or as root",
                owner(&folder)
            )
        };
        let environment = fs::read(folder.join("environ")).with_context(denied)?;
        let maps = fs::read_to_string(folder.join("maps")).with_context(denied)?;
        let environment = environment.split(|&b| b == 0).filter_map(|entry| {
            let entry = String::from_utf8_lossy(entry);
            entry.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
        });
        Ok(Process {
            root,
            pid,
            environment: environment.collect(),
            maps: maps.lines().filter_map(Mapping::parse).collect(),
        })
    }

    /// The knobs that the process was started with: the shim reads them at its start.
    pub fn settings(&self) -> Settings {
        Settings::of(self.environment.iter().cloned())
    }

    fn file(&self, name: &str) -> String {
        format!("proc/{}/{name}", self.pid)
    }

    /// Whether a ggml is loaded: a library of its name, or one that has ggml inside.
    pub fn has_ggml(&self) -> bool {
        self.maps.iter().any(Mapping::is_ggml) || self.libraries().iter().any(|(_, _, elf)| elf.ggml.defined)
    }

    fn new_section(&self) -> Section {
        let exe = fs::read_link(self.root.path(&self.file("exe"))).unwrap_or_else(|_| "?".into());
        Section::new(Kind::Process, format!("{} {}", self.pid, exe.display()))
    }

    /// A process that has the shim and no use for it.
    pub fn without_ggml(&self) -> Section {
        let mut section = self.new_section();
        section.checks = vec![self.shim(), Check::ok("process.ggml", "none is loaded: the shim does nothing here")];
        section
    }

    /// Everything about it.
    pub fn section(&self) -> Section {
        let mut section = self.new_section();
        let shim = self.shim();
        let loaded = shim.found.clone();
        let engaged = shim.remedy.is_none();
        section.checks.push(shim);
        section.checks.extend(self.hooks(engaged, &loaded));
        section.checks.push(self.huge_pages());
        if let Some("2") = self.root.field(&self.file("status"), "Seccomp").as_deref() {
            section
                .checks
                .push(Check::ok("seccomp", "a filter; what it refuses is among the events of the statistics"));
        }
        let (check, statistics) = self.statistics();
        section.checks.push(check);
        section.checks.extend(statistics.as_ref().map(threads));
        section.statistics = statistics;
        section
    }

    /// Whether the library is in the process.
    fn shim(&self) -> Check {
        const ID: &str = "process.shim";
        let preload = self.environment.iter().find(|(name, _)| name == "LD_PRELOAD").map(|(_, value)| value.as_str());
        let expected = format!("{} mapped", shim::LIBRARY);
        match self.maps.iter().find(|mapping| mapping.is_shim()) {
            Some(mapping) if mapping.path.ends_with(DELETED) => {
                Check::ok(ID, format!("{}: the file was replaced since; the process runs the old one", mapping.path))
            }
            Some(mapping) => Check::ok(ID, format!("{} is loaded", mapping.path)),
            None if preload.is_some_and(|list| list.contains("libzen5turbo")) => Check::no(
                ID,
                format!("not loaded, though LD_PRELOAD={}", preload.unwrap_or_default()),
                expected,
                "look at the first lines of its stderr: ld.so says there why it ignored the file",
            ),
            None => Check::no(ID, "not loaded", expected, "start it again: zen5turbo run -- PROGRAM ARGS"),
        }
    }

    /// Where the calls of every hooked function go, by library.
    fn hooks(&self, loaded: bool, shim: &str) -> Vec<Check> {
        let mut checks = Vec::new();
        let mut states: BTreeMap<&str, Vec<Route>> = BTreeMap::new();
        for (path, base, elf) in self.libraries() {
            for (name, slot) in &elf.slots {
                let at = base.wrapping_sub(elf.first_address).wrapping_add(*slot);
                let by = file_name(Path::new(&path));
                states.entry(name).or_default().push(Route { by, to: self.target(at, &path) });
            }
        }
        if !states.contains_key(COMPUTE) && states.contains_key(PRODUCTS) {
            checks.push(Check::limited(
                "process.ggml",
                format!("no loaded library has {COMPUTE}, and products go through {PRODUCTS}"),
                "a ggml since December 2024, for all products and attention",
                "use a newer llama.cpp",
            ));
        } else if !states.contains_key(COMPUTE) {
            checks.push(Check::no(
                "process.ggml",
                format!("no loaded library calls {COMPUTE} through the loader"),
                "a shared ggml since December 2024, loaded",
                "ask again when the model is loaded; `zen5turbo doctor PROGRAM` tells whether the program can be reached",
            ));
        }
        for (name, routes) in &states {
            checks.push(judge(name, routes, loaded, shim));
        }
        checks
    }

    /// The program and the libraries that have to do with ggml, under whatever name: path, first address, symbols.
    fn libraries(&self) -> Vec<(String, u64, Elf)> {
        let names = interposition::looked_for();
        let exe = fs::read_link(self.root.path(&self.file("exe"))).unwrap_or_default();
        let mut seen = BTreeSet::new();
        let firsts = self.maps.iter().filter(|m| m.offset == 0 && !m.is_shim() && seen.insert(m.path.as_str()));
        let found = firsts.filter_map(|mapping| {
            let elf = self.elf(&mapping.path, &names)?;
            let ours = elf.ggml.defined || elf.ggml.imported || mapping.is_ggml() || Path::new(&mapping.path) == exe;
            ours.then(|| (mapping.path.clone(), mapping.start, elf))
        });
        found.collect()
    }

    /// The file as the process sees it: it may have a root of its own.
    fn elf(&self, path: &str, hooks: &[&'static str]) -> Option<Elf> {
        let inside = self.root.path(&format!("{}{path}", self.file("root")));
        [inside.as_path(), Path::new(path)].into_iter().find_map(|path| {
            // Another file may lie there meanwhile.
            open_regular(path).ok()?;
            Elf::read(path, hooks).ok()
        })
    }

    /// What lies at the address that stands at `slot`.
    fn target(&self, slot: u64, own: &str) -> To {
        let mut address = [0; 8];
        let read = File::open(self.root.path(&self.file("mem"))).and_then(|mem| mem.read_exact_at(&mut address, slot));
        if read.is_err() {
            return To::Unknown;
        }
        let address = u64::from_le_bytes(address);
        match self.maps.iter().find(|mapping| (mapping.start..mapping.end).contains(&address)) {
            Some(mapping) if mapping.is_shim() => To::Shim,
            Some(mapping) if mapping.path == own => To::Itself,
            Some(mapping) => To::Other(mapping.name()),
            None => To::Other(format!("{address:#x}")),
        }
    }

    fn huge_pages(&self) -> Check {
        const ID: &str = "process.huge_pages";
        let Some(text) = self.root.read(&self.file("smaps_rollup")) else { return Check::ok(ID, "not told") };
        let of = |key| text::bytes(field_kib(&text, key).unwrap_or(0));
        let reserved = ["Private_Hugetlb", "Shared_Hugetlb"].iter().filter_map(|key| field_kib(&text, key));
        let reserved = reserved.fold(0, u64::saturating_add);
        let found = format!(
            "{} transparent and {} reserved, of {} in memory",
            of("AnonHugePages"),
            text::bytes(reserved),
            of("Rss")
        );
        Check::ok(ID, found)
    }

    /// The live statistics, or those of the file that the shim writes.
    fn statistics(&self) -> (Check, Option<Document>) {
        const ID: &str = "process.statistics";
        let written = self.written();
        let absent = match live::statistics(self.root, self.pid) {
            Ok(statistics) => {
                let file = match &written {
                    Some((file, None)) => format!("; {}", not_written_yet(file)),
                    _ => String::new(),
                };
                return (Check::ok(ID, format!("live: {}{file}", summary(&statistics))), Some(statistics));
            }
            Err(absent) => absent,
        };
        match written {
            Some((_, Some(statistics))) => (Check::ok(ID, summary(&statistics)), Some(statistics)),
            Some((file, None)) => (Check::ok(ID, not_written_yet(&file)), None),
            None => {
                let todo = "leave ZEN5TURBO_LIVE on, or start it with ZEN5TURBO_STATS=FILE (run --stats FILE) to have \
                            them in a file";
                let found = match absent {
                    Absent::Unpublished | Absent::Gone => {
                        "none: it publishes none, and no file was asked for".to_owned()
                    }
                    other => format!("none: {other}"),
                };
                (Check::limited(ID, found, "live statistics, or ZEN5TURBO_STATS=FILE", todo), None)
            }
        }
    }

    /// The file that was asked for, and what it holds when it is there and this process's.
    fn written(&self) -> Option<(PathBuf, Option<Document>)> {
        let settings = self.settings();
        let pattern = settings.get("ZEN5TURBO_STATS")?;
        let file = PathBuf::from(pattern.replace("%p", &self.pid.to_string()));
        let start = if file.is_absolute() { "root" } else { "cwd" };
        let seen = self.root.path(&self.file(start)).join(file.strip_prefix("/").unwrap_or(&file));
        let text = told(&seen).or_else(|_| told(&file)).ok();
        let statistics = text.and_then(|text| parse(&text).ok());
        Some((file, statistics.filter(|statistics| statistics.about.pid == u64::from(self.pid))))
    }
}

/// How many threads computed the last graph.
fn threads(statistics: &Document) -> Check {
    let threads = Threads::of(statistics);
    let found = if threads.asked == 0 { "no graph was computed yet".to_owned() } else { threads.line() };
    Check::ok(THREADS, found)
}

/// A file that was asked for and is not there. A pipe or a device is written to at exit only.
fn not_written_yet(file: &Path) -> String {
    format!("{} will be written when the first graph is computed, at the latest when the process ends", file.display())
}

/// The text of a file that the process named: statistics, and no larger than those can be.
fn told(path: &Path) -> std::io::Result<String> {
    const MOST: u64 = 4 << 20;
    let mut text = String::new();
    open_regular(path)?.take(MOST).read_to_string(&mut text)?;
    Ok(text)
}

/// Who owns a process, by its folder.
fn owner(folder: &Path) -> String {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(folder).map_or_else(|_| "somebody else".to_owned(), |meta| format!("user {}", meta.uid()))
}

/// A call of a hooked function: from which file, to where.
#[derive(Debug)]
struct Route {
    by: String,
    to: To,
}

#[derive(Debug, PartialEq, Eq)]
enum To {
    Shim,
    /// The file itself: not called yet (the loader puts the address in at the first call), or bound there.
    Itself,
    Other(String),
    /// The memory of the process cannot be read.
    Unknown,
}

fn judge(name: &str, routes: &[Route], loaded: bool, shim: &str) -> Check {
    let id = format!("process.hook:{name}");
    let by = |wanted: fn(&To) -> bool| {
        let names: Vec<&str> = routes.iter().filter(|r| wanted(&r.to)).map(|r| r.by.as_str()).collect();
        names.join(", ")
    };
    let taken = by(|to| *to == To::Shim);
    if !taken.is_empty() {
        return Check::ok(&id, format!("active: {taken} calls the shim"));
    }
    if !loaded {
        let found = format!("not active: the shim is {shim}");
        return Check::limited(&id, found, "the shim loaded", "start it again: zen5turbo run -- PROGRAM ARGS");
    }
    let (own, unknown) = (by(|to| *to == To::Itself), by(|to| *to == To::Unknown));
    if !unknown.is_empty() {
        let todo = "run this as root, or as the parent of the process (kernel.yama.ptrace_scope)";
        let found =
            format!("not known: the memory of the process cannot be read ({unknown} calls it through the loader)");
        return Check::limited(&id, found, "permission to look into the process", todo);
    }
    if !own.is_empty() {
        return Check::ok(&id, format!("not called yet: {own} asks the loader at the first call"));
    }
    let others: Vec<String> = routes
        .iter()
        .filter_map(|route| match &route.to {
            To::Other(place) => Some(format!("{} calls {place}", route.by)),
            _ => None,
        })
        .collect();
    let todo = "let libzen5turbo.so be the first in LD_PRELOAD";
    let found = format!("not active: {}", others.join(", "));
    match name {
        COMPUTE => Check::no(&id, found, "calls that go to the shim", todo),
        _ => Check::limited(&id, found, "calls that go to the shim", todo),
    }
}

#[cfg(test)]
#[path = "process_tests.rs"]
mod tests;
