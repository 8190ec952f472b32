//! `zen5turbo run`: starts a program under the shim.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::elf::Elf;
use crate::reach;
use crate::shim::{self, Gate, Kernels, Knobs, Log};

/// Start a program under the shim: sets LD_PRELOAD and the knobs, then becomes the program
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The shim library, or its folder [default: SHIM_LIB, else beside this command or in ../lib]
    #[arg(long, value_name = "PATH")]
    lib: Option<PathBuf>,
    /// What to do on a CPU that is not Zen 5 (ZEN5TURBO_GATE)
    #[arg(long)]
    gate: Option<Gate>,
    /// The highest kernel tier to use (ZEN5TURBO_KERNELS)
    #[arg(long)]
    kernels: Option<Kernels>,
    /// Write statistics to this file at exit (ZEN5TURBO_STATS)
    #[arg(long, value_name = "FILE")]
    stats: Option<PathBuf>,
    /// What the shim says on stderr (ZEN5TURBO_LOG)
    #[arg(long)]
    log: Option<Log>,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "PROGRAM ARGS")]
    program: Vec<OsString>,
}

/// Exit statuses of a shell for a command that cannot be executed, and one that is not found.
const CANNOT_EXECUTE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Becomes the program; returns only when that fails.
pub fn run(args: &Args) -> Result<ExitCode> {
    let library = shim::locate(args.lib.as_deref())?;
    let Some((program, arguments)) = args.program.split_first() else {
        return Ok(ExitCode::from(NOT_FOUND));
    };
    // A shim that silently does nothing is the worst failure: say what is known beforehand.
    if let Some(elf) = find_program(program).and_then(|path| Elf::read(&path, &[]).ok()) {
        for obstacle in reach::blocked(&elf) {
            eprintln!(
                "zen5turbo: the shim will not engage: {}; expected {}; {}",
                obstacle.found, obstacle.expected, obstacle.todo
            );
        }
    }
    if env::var_os("ZEN5TURBO").is_some_and(|v| v == "0") {
        eprintln!("zen5turbo: ZEN5TURBO=0 is set: the shim changes nothing");
    }
    let knobs = Knobs { gate: args.gate, kernels: args.kernels, log: args.log, stats: args.stats.clone() };
    let error = Command::new(program)
        .args(arguments)
        .env("LD_PRELOAD", shim::preload_list(&library, env::var_os("LD_PRELOAD").as_deref()))
        // For this command only: the shim would name it as a variable that it does not know.
        .env_remove("SHIM_LIB")
        .envs(knobs.variables())
        .exec();
    eprintln!("zen5turbo: cannot start {}: {error}", program.to_string_lossy());
    Ok(ExitCode::from(if error.kind() == std::io::ErrorKind::NotFound { NOT_FOUND } else { CANNOT_EXECUTE }))
}

/// The file that `program` names, through PATH when it has no slash.
pub fn find_program(program: &OsStr) -> Option<PathBuf> {
    let path = Path::new(program);
    if path.components().count() > 1 || path.is_absolute() {
        return Some(path.to_owned());
    }
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(path)).find(|p| p.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_through_path_unless_they_have_a_slash() {
        assert!(find_program(OsStr::new("sh")).is_some_and(|p| p.is_absolute() && p.is_file()));
        assert_eq!(find_program(OsStr::new("./sh")), Some("./sh".into()));
        assert_eq!(find_program(OsStr::new("no-such-program-anywhere")), None);
    }
}
