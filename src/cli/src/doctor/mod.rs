//! `zen5turbo doctor`: what will engage on this machine, in a given program, or has in a process, and why not.

mod all;
mod calls;
mod check;
mod cpu;
pub mod memory;
pub mod policy;
mod process;
mod program;
pub mod topology;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;

use crate::interposition::Reach;
use crate::knobs::{Options, Settings, values};
use crate::root::Root;
use crate::shim;
#[cfg(feature = "fuzzing")]
pub use calls::capability;
pub use check::{Check, Status};
use check::{Kind, Report, Section};

/// Tell what will engage here: machine, limits, and whether a program can be reached
///
/// Every line is OK, limited (the shim engages, with less than it could have), unknown (whether it engages cannot be
/// told) or no (this keeps it from engaging), with what was expected and what to do. A program is read, not started; its libraries with
/// ggml are loaded in a process of their own and asked for the sizes of their structures. Exit status: 0 when the shim will engage, or has
/// engaged in the process; 1 when not, when that is not known, or when the target cannot be examined. With --all: 0 when processes load ggml and the
/// shim has engaged in each of them.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The shim library, or its folder [default: SHIM_LIB, else beside this command or in ../lib]
    #[arg(long, value_name = "PATH")]
    lib: Option<PathBuf>,
    /// Judge as if ZEN5TURBO_GATE had this value
    #[arg(long, value_parser = values("ZEN5TURBO_GATE"))]
    gate: Option<OsString>,
    /// Print one JSON object: schema, version, engages, reasons, sections of checks
    #[arg(long)]
    json: bool,
    /// Read proc/ and sys/ below this folder
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    root: PathBuf,
    /// Every process that loads ggml or the shim, in short; in a container, those of the container
    #[arg(long, conflicts_with_all = ["target", "gate", "lib"])]
    all: bool,
    /// A program, a library, a folder of them, or the number of a process
    #[arg(value_name = "PROGRAM|FOLDER|PID")]
    target: Option<PathBuf>,
}

/// Prints the findings; status 0 when the shim will engage, 1 when not.
pub fn run(args: &Args) -> Result<ExitCode> {
    let root = Root::new(&args.root);
    if args.all {
        let all = all::processes(&root)?;
        let text = all.text();
        return tell(args, &all.report(), &text);
    }
    let report = Report::new(match args.target.as_deref() {
        None => vec![machine(args, &root, &settings(args))],
        Some(target) => match pid(target) {
            Some(pid) => {
                let process = process::Process::open(&root, pid)?;
                // The process was started with settings of its own.
                vec![machine(args, &root, &process.settings()), process.section()]
            }
            None => {
                let programs = program::sections(target)?;
                let mut sections = vec![machine(args, &root, &settings(args))];
                sections.extend(programs);
                sections
            }
        },
    });
    tell(args, &report, &report.text())
}

fn tell(args: &Args, report: &Report, text: &str) -> Result<ExitCode> {
    if args.json {
        println!("{}", serde_json::to_string_pretty(report)?);
    } else {
        print!("{text}");
    }
    Ok(if report.engages { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What a fuzzer calls: everything that is told of the machine below `root`, and of its process 1.
#[cfg(feature = "fuzzing")]
pub fn fuzz(root: &Root, settings: &Settings) {
    let nodes = topology::Parts::of(root).map_or(1, |parts| parts.nodes);
    let mut section = Section::new(Kind::Machine, "machine");
    let lists = [
        topology::checks(root, settings),
        memory::checks(root, settings),
        calls::checks(root, nodes),
        policy::checks(root, nodes),
    ];
    section.checks.extend(lists.into_iter().flatten());
    let mut sections = vec![section];
    if let Ok(process) = process::Process::open(root, 1) {
        sections.push(process.section());
    }
    let report = Report::new(sections);
    let _ = (report.text(), serde_json::to_string(&report).unwrap());
}

fn settings(args: &Args) -> Settings {
    Settings::inherited().with(&Options::of([("ZEN5TURBO_GATE", &args.gate)]))
}

/// A number is a process, unless a file has that name.
fn pid(target: &Path) -> Option<u32> {
    target.to_str().filter(|_| !target.exists())?.parse().ok()
}

fn machine(args: &Args, root: &Root, settings: &Settings) -> Section {
    let cpu = settings.cpu();
    let nodes = topology::Parts::of(root).map_or(1, |parts| parts.nodes);
    let mut section = Section::new(Kind::Machine, &cpu.brand);
    let checks = &mut section.checks;
    checks.extend(cpu::gate_checks(&cpu, settings));
    checks.extend(cpu::feature_checks(&cpu, settings));
    checks.push(cpu::width_check(cpu::measure_width()));
    if args.target.as_deref().and_then(pid).is_none() {
        checks.push(cpu::library_check(&shim::locate(args.lib.as_deref())));
    }
    checks.extend(cpu::setting_checks(settings));
    checks.extend(topology::checks(root, settings));
    checks.extend(memory::checks(root, settings));
    checks.extend(calls::checks(root, nodes));
    checks.extend(policy::checks(root, nodes));
    section
}

/// What would keep the shim from engaging in a program that is about to be started with these settings.
/// `None` for a program that could not be read, such as a script.
pub fn against(settings: &Settings, program: Option<&Reach>) -> Vec<Check> {
    let mut checks = cpu::gate_checks(&settings.cpu(), settings);
    if let Some(reach) = program {
        checks.extend(program::checks(reach));
    }
    checks.retain(|check| check.status == Status::No);
    checks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_a_process_unless_a_file_has_that_name() {
        assert_eq!(pid(Path::new("123456")), Some(123_456));
        assert_eq!(pid(Path::new("llama-cli")), None);
        assert_eq!(pid(Path::new("/")), None);
    }
}
