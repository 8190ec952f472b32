//! `zen5turbo doctor`: what will engage on this machine and in a given program, and why not.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use zen5turbo_host::{Cpu, GateDecision, GateMode, best_tier, gate};

use crate::reach::{self, Obstacle, Reach};
use crate::run::find_program;
use crate::shim::{self, Gate};
use crate::text;

/// Tell what will engage here: CPU, gate, kernels, and whether a program can be reached
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The shim library, or its folder [default: SHIM_LIB, else beside this command or in ../lib]
    #[arg(long, value_name = "PATH")]
    lib: Option<PathBuf>,
    /// Judge as if ZEN5TURBO_GATE had this value
    #[arg(long)]
    gate: Option<Gate>,
    /// A program, a library, or a folder of them
    #[arg(value_name = "PROGRAM|FOLDER")]
    target: Option<PathBuf>,
}

/// Prints the findings; status 0 when the shim will engage, 1 when not.
pub fn run(args: &Args) -> Result<ExitCode> {
    let mut against = machine(args);
    if let Some(target) = &args.target {
        against.extend(program(target)?);
    }
    println!();
    if against.is_empty() {
        let scope = if args.target.is_some() { "" } else { " (name a program or a folder to examine it too)" };
        println!("verdict: will engage{scope}");
        Ok(ExitCode::SUCCESS)
    } else {
        println!("verdict: will not engage: {}", against.join("; "));
        Ok(ExitCode::FAILURE)
    }
}

/// Prints the facts of the machine and the configuration; returns what stands against engaging.
fn machine(args: &Args) -> Vec<String> {
    let mut against = Vec::new();
    let cpu = Cpu::detect();
    let (mode, origin) = gate_mode(args.gate, env::var("ZEN5TURBO_GATE").ok());
    let decision = gate(&cpu, mode);
    let library = shim::locate(args.lib.as_deref());
    print!(
        "{}",
        text::facts(&[
            ("CPU", cpu.describe()),
            ("Zen 5", if cpu.is_zen5() { "yes" } else { "no" }.into()),
            ("gate", format!("{} ({origin}): {}", mode.as_str(), decision.as_str())),
            ("kernel tier", format!("{} (the best this CPU has)", best_tier(&cpu).as_str())),
            (
                "shim",
                match &library {
                    Ok(path) => path.display().to_string(),
                    Err(_) => "not found".into(),
                }
            ),
            ("huge pages", huge_pages()),
        ])
    );
    for (name, value) in shim::inherited() {
        println!("{:<12} {name}={value}", "environment");
    }
    match decision {
        GateDecision::Run => {}
        GateDecision::Passthrough { line } | GateDecision::Refuse { line } => {
            negative(&Obstacle {
                // What follows the first semicolon is for a program that was started.
                found: line.split(';').next().unwrap_or_default().to_owned(),
                expected: "an AMD Zen 5, or ZEN5TURBO_GATE=off".into(),
                todo: "set ZEN5TURBO_GATE=off (or run --gate off) to use the best kernels of this CPU".into(),
            });
            against.push("the gate does not let this CPU pass".into());
        }
    }
    for (name, value) in [("ZEN5TURBO", "0"), ("ZEN5TURBO_KERNELS", "off")] {
        if env::var(name).is_ok_and(|v| v == value) {
            negative(&Obstacle {
                found: format!("{name}={value} in the environment"),
                expected: format!("{name} unset"),
                todo: format!("unset {name}"),
            });
            against.push(format!("{name}={value} switches it off"));
        }
    }
    if let Err(error) = library {
        println!("NOT OK       {error:#}");
        against.push("the shim library was not found".into());
    }
    against
}

fn gate_mode(option: Option<Gate>, variable: Option<String>) -> (GateMode, String) {
    if let Some(gate) = option {
        let mode = match gate {
            Gate::Strict => GateMode::Strict,
            Gate::Passthrough => GateMode::Passthrough,
            Gate::Off => GateMode::Off,
        };
        return (mode, "--gate".into());
    }
    let Some(value) = variable else { return (GateMode::Strict, "default".into()) };
    match [GateMode::Strict, GateMode::Passthrough, GateMode::Off].into_iter().find(|m| m.as_str() == value) {
        Some(mode) => (mode, "ZEN5TURBO_GATE".into()),
        None => {
            (GateMode::Strict, format!("default; ZEN5TURBO_GATE is \"{value}\", expected strict, passthrough or off"))
        }
    }
}

fn huge_pages() -> String {
    let read = |path: &str| fs::read_to_string(path).map(|s| s.trim().to_owned()).ok();
    let thp =
        |name: &str| read(&format!("/sys/kernel/mm/transparent_hugepage/{name}")).unwrap_or_else(|| "unknown".into());
    let reserved = read("/proc/sys/vm/nr_hugepages").unwrap_or_else(|| "unknown".into());
    format!("transparent: {}, defrag: {}; reserved (vm.nr_hugepages): {reserved}", thp("enabled"), thp("defrag"))
}

fn negative(obstacle: &Obstacle) {
    println!("NOT OK       found:    {}", obstacle.found);
    println!("             expected: {}", obstacle.expected);
    println!("             do:       {}", obstacle.todo);
}

/// Examines a program, library or folder; returns what stands against engaging.
fn program(target: &Path) -> Result<Vec<String>> {
    let target = if target.exists() {
        target.to_owned()
    } else {
        find_program(target.as_os_str()).filter(|p| p.exists()).with_context(|| {
            format!(
                "{} does not exist and is not a command in PATH; expected a program, a library or a folder",
                target.display()
            )
        })?
    };
    if target.is_dir() {
        return folder(&target);
    }
    let reach = match reach::examine(&target) {
        Ok(reach) => reach,
        Err(error) => {
            println!("\nNOT OK       {error:#}");
            return Ok(vec![format!("{} cannot be examined", target.display())]);
        }
    };
    Ok(report(&reach).into_iter().collect())
}

/// A folder: each program in it that has ggml, else its CPU backends by themselves.
fn folder(target: &Path) -> Result<Vec<String>> {
    let examined: Vec<Reach> = reach::programs(target).iter().filter_map(|p| reach::examine(p).ok()).collect();
    let mut reaches: Vec<Reach> = examined.into_iter().filter(Reach::has_ggml).collect();
    if reaches.is_empty() {
        reaches = reach::cpu_backends(target).iter().filter_map(|p| reach::examine(p).ok()).collect();
    }
    if reaches.is_empty() {
        bail!(
            "no program that loads ggml and no libggml-cpu*.so in {}; expected a folder of llama.cpp programs or libraries",
            target.display()
        );
    }
    // Programs of one build share their libraries: tell about each set of findings once.
    let mut against = Vec::new();
    let mut told: Vec<(String, Option<String>)> = Vec::new();
    for reach in &reaches {
        let findings = findings(reach);
        match told.iter().find(|(known, _)| *known == findings) {
            Some(_) => println!("program      {}: the same", reach.root.display()),
            None => {
                let verdict = report(reach);
                told.push((findings, verdict.clone()));
                against.extend(verdict);
            }
        }
    }
    Ok(against)
}

/// Everything said of a program but its name, to compare programs by.
fn findings(reach: &Reach) -> String {
    format!("{:?}{:?}{:?}{:?}", reach.copies, reach.losses, reach.obstacles, reach.missing)
}

/// Prints one program's findings; returns the short reason when the shim cannot engage.
fn report(reach: &Reach) -> Option<String> {
    println!("\nprogram      {}", reach.root.display());
    println!("files        {} brought in by the loader", reach.files.len());
    for (name, by) in &reach.missing {
        println!(
            "note         {name}, needed by {}, was not found; set LD_LIBRARY_PATH as for running the program",
            by.display()
        );
    }
    for copy in &reach.copies {
        let later = if copy.opened_later { " (opened at run time)" } else { "" };
        println!("ggml         {}{later}", copy.path.display());
        match &copy.obstacle {
            None => println!("ok           {} is exported and called through the loader", reach::COMPUTE),
            Some(obstacle) => {
                println!("             not reachable:");
                negative(obstacle);
            }
        }
    }
    for obstacle in &reach.obstacles {
        println!("             not reachable:");
        negative(obstacle);
    }
    if reach.engages() {
        for (name, _) in reach::OTHERS {
            match reach.losses.iter().find(|(lost, _)| *lost == name) {
                None => println!("ok           {name} is called through the loader"),
                Some((_, loss)) => println!("note         {name} is not called through the loader: {loss}"),
            }
        }
        return None;
    }
    let first = reach.obstacles.first().or(reach.copies.iter().find_map(|c| c.obstacle.as_ref()));
    let name = reach.root.file_name().unwrap_or_default().to_string_lossy();
    Some(match first {
        Some(obstacle) => format!("{name} is not reachable: {}", obstacle.found),
        None => format!("{name} is not reachable"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_option_goes_before_the_variable_and_bad_values_are_named() {
        let env = |v: &str| Some(v.to_owned());
        assert_eq!(gate_mode(None, None), (GateMode::Strict, "default".into()));
        assert_eq!(gate_mode(Some(Gate::Off), env("strict")), (GateMode::Off, "--gate".into()));
        assert_eq!(gate_mode(None, env("passthrough")).0, GateMode::Passthrough);
        let (mode, origin) = gate_mode(None, env("0ff"));
        assert_eq!(mode, GateMode::Strict);
        assert!(origin.contains("\"0ff\"") && origin.contains("expected strict"), "{origin}");
    }
}
