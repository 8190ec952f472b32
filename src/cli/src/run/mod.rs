//! `zen5turbo run`: starts a program under the shim.

mod child;
mod report;

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use zen5turbo_config::KernelChoice;
use zen5turbo_host::gate::EXIT_REFUSED;
use zen5turbo_host::{Cpu, GateMode};

use crate::doctor::{self, Check};
use crate::interposition::{self, Reach};
use crate::knobs::{Options, Settings};
use crate::programs::find_program;
use crate::root::Root;
use crate::{shim, threads};

/// Start a program under the shim: sets LD_PRELOAD and the knobs, then becomes the program
///
/// With --threads auto, programs of llama.cpp also get -t and -tb with the numbers that doctor advises, unless they are
/// given.
///
/// Exit status: the program's own (128 + N in a shell when signal N ended it); 78 when it was not started
/// because the shim could not engage, 126 when it cannot be executed, 127 when it is not found.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The shim library, or its folder [default: SHIM_LIB, else beside this command or in ../lib]
    #[arg(long, value_name = "PATH")]
    lib: Option<PathBuf>,
    /// Start it even when the shim could not engage
    #[arg(long)]
    anyway: bool,
    /// At the end, print on stderr what engaged, time and bytes per second of each operation, and why not
    ///
    /// The machine's bandwidth is measured after the program has ended, for a quarter of a second.
    #[arg(long)]
    report: bool,
    #[command(flatten)]
    knobs: Options,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "PROGRAM ARGS")]
    program: Vec<OsString>,
}

/// Exit statuses of a shell for a command that cannot be executed, and one that is not found.
const CANNOT_EXECUTE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Becomes the program, or with `--report` waits for it.
pub fn run(args: &Args) -> Result<ExitCode> {
    let Some((program, arguments)) = args.program.split_first() else {
        return Ok(ExitCode::from(NOT_FOUND));
    };
    let Some(path) = find_program(program).filter(|path| path.exists()) else {
        eprintln!(
            "zen5turbo: {} was not found{}; expected a program, by its path or as a command",
            program.to_string_lossy(),
            if Path::new(program).components().count() > 1 { "" } else { " in PATH" }
        );
        return Ok(ExitCode::from(NOT_FOUND));
    };
    let library = match shim::locate(args.lib.as_deref()) {
        Ok(library) => library,
        Err(error) => {
            eprintln!("zen5turbo: {} was not started: {error:#}", program.to_string_lossy());
            return Ok(ExitCode::from(EXIT_REFUSED as u8));
        }
    };
    let settings = Settings::inherited().with(&args.knobs);
    let against = examine(&settings, &path);
    if !against.is_empty() {
        tell(program, &against, args.anyway);
        if !args.anyway {
            return Ok(ExitCode::from(EXIT_REFUSED as u8));
        }
    }

    let mut command = Command::new(program);
    command
        .args(arguments)
        .args(threads(program, arguments, &args.knobs))
        .env("LD_PRELOAD", shim::preload_list(&library, env::var_os("LD_PRELOAD").as_deref()))
        // For this command only: the shim would name it as a variable that it does not know.
        .env_remove("SHIM_LIB")
        .envs(args.knobs.variables().iter().cloned());
    let error = if args.report {
        match reported(&mut command, &settings)? {
            Ok(code) => return Ok(code),
            Err(error) => error,
        }
    } else {
        command.exec()
    };
    eprintln!("zen5turbo: cannot start {}: {error}", program.to_string_lossy());
    Ok(ExitCode::from(if error.kind() == std::io::ErrorKind::NotFound { NOT_FOUND } else { CANNOT_EXECUTE }))
}

/// With `--threads auto`: the options that give a program of llama.cpp a number of threads. What is added is said, and why.
fn threads(program: &OsStr, arguments: &[OsString], knobs: &Options) -> Vec<OsString> {
    if !knobs.variables().iter().any(|(name, value)| *name == "ZEN5TURBO_THREADS" && value == "auto") {
        return Vec::new();
    }
    let advice = threads::advice(&Root::new(Path::new("/")), &Cpu::detect().brand);
    let advice = advice.ok_or_else(|| "sysfs does not tell the CPUs".to_owned());
    let options = advice.and_then(|advice| Ok((threads::options(program, arguments, &advice)?, advice.why)));
    match options {
        Ok((options, why)) => {
            let words: Vec<_> = options.iter().map(|word| word.to_string_lossy()).collect();
            eprintln!("zen5turbo: {} gets {}: {why}", program.to_string_lossy(), words.join(" "));
            options
        }
        Err(why) => {
            eprintln!("zen5turbo: {} gets no number of threads: {why}", program.to_string_lossy());
            Vec::new()
        }
    }
}

/// Runs it to its end and tells what the shim did. The inner error is that of starting it.
fn reported(command: &mut Command, settings: &Settings) -> Result<std::io::Result<ExitCode>> {
    let folder = tempfile::tempdir()
        .context("cannot make a folder for the statistics; set TMPDIR to a folder that can be written")?;
    // One file for each process: a program may start others.
    command.env("ZEN5TURBO_STATS", folder.path().join("%p.json"));
    let ended = match child::run(command) {
        Ok(ended) => ended,
        Err(error) => return Ok(Err(error)),
    };
    let files = report::files(folder.path());
    if let Some(pattern) = settings.get("ZEN5TURBO_STATS") {
        report::deliver(&files, pattern);
    }
    eprint!("{}", report::text(&ended, &files));
    drop(folder);
    Ok(Ok(child::end_like(ended.status)))
}

/// What keeps the shim out. What was asked for by a setting, such as ZEN5TURBO=0, is said and no reason
/// to refuse.
fn examine(settings: &Settings, path: &Path) -> Vec<Check> {
    let reach = interposition::examine(path);
    for complaint in settings.complaints() {
        eprintln!("zen5turbo: {complaint}");
    }
    let config = settings.config();
    let idle = if !config.enabled {
        Some("ZEN5TURBO=0 is set: the shim changes nothing")
    } else if config.kernels == KernelChoice::Off {
        Some("ZEN5TURBO_KERNELS=off is set: the shim takes nothing over")
    } else if config.gate == GateMode::Passthrough {
        Some("ZEN5TURBO_GATE=passthrough is set: the shim takes nothing over")
    } else {
        None
    };
    if let Some(idle) = idle {
        eprintln!("zen5turbo: {idle}");
        return Vec::new();
    }
    match &reach {
        Ok(Reach { unknown: Some(why), .. }) => {
            eprintln!(
                "zen5turbo: whether the shim will engage is not known: {}; it will if ggml is opened later",
                why.found
            );
        }
        Ok(_) => {}
        Err(error) => eprintln!("zen5turbo: whether the shim will engage is not known: {error:#}"),
    }
    doctor::against(settings, reach.as_ref().ok())
}

fn tell(program: &OsStr, against: &[Check], anyway: bool) {
    let what = if anyway { "is started all the same" } else { "was not started" };
    eprintln!("zen5turbo: {} {what}: the shim could not engage", program.to_string_lossy());
    against.iter().for_each(Check::tell);
    if !anyway {
        eprintln!("  --anyway starts it with the shim all the same; the exit status of this refusal is {EXIT_REFUSED}");
    }
}
