//! What the doctor says: findings with a status, as text and as JSON.

use serde::Serialize;
use zen5turbo_telemetry::Document;

use crate::interposition::Obstacle;

/// How good a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// The shim engages, with less than it could have.
    Limited,
    /// Whether the shim engages cannot be told.
    Unknown,
    /// This keeps the shim from engaging.
    No,
}

impl Status {
    fn word(self) -> &'static str {
        match self {
            Status::Ok => "OK",
            Status::Limited => "limited",
            Status::Unknown => "unknown",
            Status::No => "no",
        }
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Its name, the same in every version; what follows a colon names the thing it is about.
    pub id: String,
    pub status: Status,
    /// What was found.
    pub found: String,
    /// What would be better, and why. Not said of what is in order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Check {
    fn new(id: &str, status: Status, found: String) -> Check {
        Check { id: id.to_owned(), status, found, expected: None, remedy: None }
    }

    /// In order.
    pub fn ok(id: &str, found: impl Into<String>) -> Check {
        Check::new(id, Status::Ok, found.into())
    }

    /// Less than it could be.
    pub fn limited(
        id: &str,
        found: impl Into<String>,
        expected: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Check {
        let (expected, remedy) = (Some(expected.into()), Some(remedy.into()));
        Check { expected, remedy, ..Check::new(id, Status::Limited, found.into()) }
    }

    /// In the way.
    pub fn no(id: &str, found: impl Into<String>, expected: impl Into<String>, remedy: impl Into<String>) -> Check {
        Check { status: Status::No, ..Check::limited(id, found, expected, remedy) }
    }

    /// Says on stderr what keeps a command from going on.
    pub fn tell(&self) {
        eprintln!("  found:    {}", self.found);
        for (word, text) in [("expected:", &self.expected), ("do:", &self.remedy)] {
            if let Some(text) = text {
                eprintln!("  {word:<9} {text}");
            }
        }
    }

    /// An obstacle on the way to ggml.
    pub fn obstacle(id: &str, status: Status, obstacle: &Obstacle) -> Check {
        let Obstacle { found, expected, todo } = obstacle.clone();
        Check { status, ..Check::no(id, found, expected, todo) }
    }
}

/// What a section is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Machine,
    Program,
    Process,
}

/// The findings on one thing.
#[derive(Clone, Debug, Serialize)]
pub struct Section {
    pub kind: Kind,
    /// The program's path, the process's number, the machine's CPU.
    pub subject: String,
    pub checks: Vec<Check>,
    /// A process's statistics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub statistics: Option<Document>,
}

impl Section {
    /// A section without findings yet.
    pub fn new(kind: Kind, subject: impl Into<String>) -> Section {
        Section { kind, subject: subject.into(), checks: Vec::new(), statistics: None }
    }

    /// The findings that keep the shim from engaging.
    pub fn against(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| check.status == Status::No)
    }

    /// The findings that leave it open.
    fn open(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| check.status == Status::Unknown)
    }

    /// The findings, one or three lines each. What is found alike of several files is told once.
    pub fn text(&self) -> String {
        let kind = match self.kind {
            Kind::Machine => "machine",
            Kind::Program => "program",
            Kind::Process => "process",
        };
        let mut out = format!("{kind} {}\n", self.subject);
        let checks = once(&self.checks);
        let width = checks.iter().map(|(id, _)| id.len()).max().unwrap_or(0).min(WIDEST);
        for (id, check) in checks {
            out += &format!("  {:<8}{id:<width$}  {}\n", check.status.word(), check.found);
            let indent = 2 + 8 + width + 2;
            for (word, text) in [("expected:", &check.expected), ("do:", &check.remedy)] {
                if let Some(text) = text {
                    out += &format!("{:indent$}{word:<9} {text}\n", "");
                }
            }
        }
        out
    }
}

/// Checks of files, one for each: a build has up to 14 variants of the CPU backend.
const OF_FILES: [&str; 3] = ["ggml", "hooks", "abi"];

/// The checks with their names. Those that find the same of several files are one, with a name for all of them.
fn once(checks: &[Check]) -> Vec<(String, &Check)> {
    let mut groups: Vec<(&Check, Vec<&str>)> = Vec::new();
    for check in checks {
        let (kind, name) = check.id.split_once(':').unwrap_or((&check.id, ""));
        let alike = |other: &Check| {
            let of = |check: &Check| (check.status, check.found.clone(), check.expected.clone(), check.remedy.clone());
            OF_FILES.contains(&kind)
                && other.id.split_once(':').is_some_and(|(k, _)| k == kind)
                && of(other) == of(check)
        };
        match groups.iter_mut().find(|(other, _)| alike(other)) {
            Some((_, names)) => names.push(name),
            None => groups.push((check, vec![name])),
        }
    }
    let id = |(check, names): (&'_ Check, Vec<&str>)| match check.id.split_once(':') {
        Some((kind, _)) if names.len() > 1 => format!("{kind}:{}", pattern(&names)),
        _ => check.id.clone(),
    };
    groups.into_iter().map(|(check, names)| (id((check, names)), check)).collect()
}

/// `libggml-cpu-*.so (14)` for so many names with this start and end.
fn pattern(names: &[&str]) -> String {
    let first = names[0];
    let starts = |n: &usize| first.get(..*n).is_some_and(|start| names.iter().all(|name| name.starts_with(start)));
    let start = (0..=first.len()).rev().find(starts).unwrap_or(0);
    let ends = |n: &usize| {
        *n >= start
            && first
                .get(*n..)
                .is_some_and(|end| names.iter().all(|name| name.len() >= start + end.len() && name.ends_with(end)))
    };
    let end = (0..=first.len()).find(ends).unwrap_or(first.len());
    format!("{}*{} ({})", &first[..start], &first[end..], names.len())
}

/// Names longer than this push their line to the right instead of all the others.
const WIDEST: usize = 26;

/// All that the doctor found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Of the layout of this object.
    pub schema: u32,
    /// Of the command.
    pub version: &'static str,
    /// Whether the shim will engage, or has engaged in a process.
    pub engages: bool,
    /// Whether that can be told.
    pub known: bool,
    /// Why not, in short.
    pub reasons: Vec<String>,
    /// How many processes could not be looked into, where all were to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<usize>,
    pub sections: Vec<Section>,
}

impl Report {
    /// The verdict follows from the findings.
    pub fn new(sections: Vec<Section>) -> Report {
        let mut reasons: Vec<String> =
            sections.iter().flat_map(Section::against).map(|check| check.found.clone()).collect();
        let known = !reasons.is_empty() || sections.iter().flat_map(Section::open).next().is_none();
        if !known {
            reasons.extend(sections.iter().flat_map(Section::open).map(|check| check.found.clone()));
        }
        let engages = reasons.is_empty();
        Report { schema: 1, known, version: env!("CARGO_PKG_VERSION"), engages, reasons, unreadable: None, sections }
    }

    /// For a terminal.
    pub fn text(&self) -> String {
        let mut out: String = self.sections.iter().map(|section| section.text() + "\n").collect();
        let [mut process, mut program] = [false; 2];
        for section in &self.sections {
            process |= section.kind == Kind::Process;
            program |= section.kind == Kind::Program;
        }
        out += match (self.engages, process, program) {
            _ if !self.known => "verdict: not known: ",
            (true, true, _) => "verdict: has engaged\n",
            (true, _, true) => "verdict: will engage\n",
            (true, _, _) => "verdict: will engage (name a program, a folder or a process to examine it too)\n",
            (false, true, _) => "verdict: has not engaged: ",
            (false, _, _) => "verdict: will not engage: ",
        };
        if !self.engages {
            out += &self.reasons.join("; ");
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut section = Section::new(Kind::Machine, "AMD EPYC");
        section.checks.push(Check::ok("cpu.xcr0", "0xe7"));
        section.checks.push(Check::limited("memory.thp", "never", "madvise", "echo madvise"));
        section.checks.push(Check::no("gate", "not a Zen 5", "a Zen 5", "ZEN5TURBO_GATE=off"));
        Report::new(vec![section])
    }

    #[test]
    fn the_text_has_a_status_per_line_with_reason_and_remedy_and_a_verdict() {
        assert_eq!(
            report().text(),
            "machine AMD EPYC\n\
             \x20 OK      cpu.xcr0    0xe7\n\
             \x20 limited memory.thp  never\n\
             \x20                     expected: madvise\n\
             \x20                     do:       echo madvise\n\
             \x20 no      gate        not a Zen 5\n\
             \x20                     expected: a Zen 5\n\
             \x20                     do:       ZEN5TURBO_GATE=off\n\n\
             verdict: will not engage: not a Zen 5\n"
        );
    }

    #[test]
    fn the_json_has_the_same_and_leaves_out_what_is_not_there() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["schema"], 1);
        assert_eq!(json["engages"], false);
        assert_eq!(json["reasons"], serde_json::json!(["not a Zen 5"]));
        let section = &json["sections"][0];
        assert_eq!((&section["kind"], &section["subject"]), (&"machine".into(), &"AMD EPYC".into()));
        let ok = serde_json::json!({"id": "cpu.xcr0", "status": "ok", "found": "0xe7"});
        assert_eq!(section["checks"][0], ok);
        assert_eq!(section["checks"][1]["remedy"], "echo madvise");
        assert!(section.get("statistics").is_none());
    }

    #[test]
    fn what_is_not_known_is_neither_yes_nor_no() {
        let mut section = Section::new(Kind::Program, "python3");
        let open = Check { status: Status::Unknown, ..Check::no("program.ggml", "it loads no ggml", "one", "name it") };
        section.checks.push(open);
        let mut report = Report::new(vec![section.clone()]);
        assert!(!report.engages && !report.known && report.text().ends_with("verdict: not known: it loads no ggml\n"));
        section.checks.push(Check::no("gate", "not a Zen 5", "a Zen 5", "ZEN5TURBO_GATE=off"));
        report = Report::new(vec![section]);
        assert!(!report.engages && report.known && report.text().ends_with("verdict: will not engage: not a Zen 5\n"));
    }

    #[test]
    fn what_is_found_alike_of_several_files_is_told_once() {
        let ok = |id: &str, found: &str| Check::ok(id, found);
        let checks = [
            ok("gate", "run"),
            ok("abi:libggml-cpu-zen4.so", "known"),
            ok("abi:libggml-cpu-haswell.so", "known"),
            ok("abi:libggml-cpu-sse42.so", "other"),
            ok("hooks:libggml-cpu-zen4.so", "known"),
        ];
        let names: Vec<String> = once(&checks).into_iter().map(|(name, _)| name).collect();
        let expected = ["gate", "abi:libggml-cpu-*.so (2)", "abi:libggml-cpu-sse42.so", "hooks:libggml-cpu-zen4.so"];
        assert_eq!(names, expected);
        for (names, expected) in [
            (["ab", "abb"], "ab* (2)"),
            (["abb", "ab"], "ab* (2)"),
            (["x.so", "y.so"], "*.so (2)"),
            (["aa", "aa"], "aa* (2)"),
            (["é", "è"], "* (2)"),
        ] {
            assert_eq!(pattern(&names), expected);
        }
    }

    #[test]
    fn limits_do_not_keep_it_from_engaging() {
        let mut section = Section::new(Kind::Process, "7");
        section.checks.push(Check::limited("a", "b", "c", "d"));
        let report = Report::new(vec![section]);
        assert!(report.engages && report.text().ends_with("verdict: has engaged\n"));
    }
}
