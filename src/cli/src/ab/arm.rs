//! The arms of a measurement: ways to run a program of llama.cpp that are compared with each other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::args::{Args, Spec};
use crate::knobs::Options;
use crate::llama_bench::Bench;
use crate::llama_program::Program;
use crate::shim;

/// The default arm under the shim.
pub const SHIM: &str = "shim";

/// What an arm is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Others are compared with the best of these.
    Stock,
    /// The arm of that index once more: the A/A check.
    Again(usize),
    /// Compared with stock.
    Compared,
}

/// One way to run the program, which is llama-bench unless something else is said.
#[derive(Clone, Debug)]
pub struct Arm<P = Bench> {
    pub name: String,
    pub role: Role,
    pub program: P,
    /// `--repack`, where the program has it and the arm says.
    pub repack: Option<bool>,
    /// The library to preload.
    pub library: Option<PathBuf>,
    /// Set in its runs, over what is inherited.
    pub variables: BTreeMap<String, String>,
}

impl<P: Program> Arm<P> {
    /// Arguments of the program that only this arm has.
    pub fn arguments(&self) -> Vec<String> {
        self.repack.and_then(|on| self.program.repack(on)).unwrap_or_default()
    }

    /// Puts the arm's environment into `command`: without the shim nothing of it, under the shim the
    /// user's own variables below those of the arm. The shim's statistics go to `stats`.
    pub fn dress(&self, command: &mut Command, stats: &Path) {
        shim::without_shim(command);
        if let Some(library) = &self.library {
            command.env("LD_PRELOAD", library).env("ZEN5TURBO_STATS", stats);
        }
        command.envs(&self.variables);
    }

    /// `NAME=VALUE ...`, for records.
    pub fn environment(&self) -> String {
        self.variables.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    }

    /// Program, arguments and variables, for readers.
    pub fn describe(&self) -> String {
        let mut words = vec![self.environment()];
        if self.library.is_some() {
            words.push(format!("LD_PRELOAD={}", shim::LIBRARY));
        }
        words.push(self.program.path().display().to_string());
        words.extend(self.arguments());
        words.retain(|w| !w.is_empty());
        words.join(" ")
    }
}

/// All arms of a command line: stock, the shim, the user's own, and stock again.
pub fn arms<P: Program>(args: &Args) -> Result<Vec<Arm<P>>> {
    let program = P::find(args.bin.as_deref())?;
    let stock_program = args.stock_bin.as_deref().map_or_else(|| Ok(program.clone()), |bin| P::find(Some(bin)))?;
    let stock = |name: &str, repack| Arm {
        name: name.to_owned(),
        role: Role::Stock,
        program: stock_program.clone(),
        repack,
        library: None,
        variables: BTreeMap::new(),
    };
    let mut arms = if stock_program.repack(true).is_some() {
        vec![stock("stock repack 0", Some(false)), stock("stock repack 1", Some(true))]
    } else {
        vec![stock("stock", None)]
    };
    // The last of stock is llama.cpp's default.
    let default = arms.len() - 1;
    let again = Arm { name: "stock again".into(), role: Role::Again(default), ..arms[default].clone() };

    let knobs = Options::of([("ZEN5TURBO_GATE", &args.gate), ("ZEN5TURBO_KERNELS", &args.kernels)]);
    if !args.arms_only {
        arms.push(Arm {
            name: SHIM.into(),
            role: Role::Compared,
            program: program.clone(),
            repack: None,
            library: Some(shim::locate(args.lib.as_deref())?),
            variables: shim_variables(&knobs),
        });
    }
    for spec in &args.arm {
        arms.push(own(spec, args, &program, &knobs).with_context(|| format!("in the arm {}", spec.name))?);
    }
    arms.push(again);
    for (i, arm) in arms.iter().enumerate() {
        ensure!(
            arms[..i].iter().all(|other| other.name != arm.name),
            "two arms have the name \"{}\"; expected one each: name yours otherwise (taken: {})",
            arm.name,
            arms.iter().map(|a| a.name.as_str()).collect::<Vec<_>>().join(", ")
        );
    }
    ensure!(
        arms.iter().any(|arm| arm.role == Role::Compared),
        "--arms-only without --arm leaves nothing to compare with stock; give --arm NAME:VAR=VALUE,..."
    );
    Ok(arms)
}

fn own<P: Program>(spec: &Spec, args: &Args, program: &P, knobs: &Options) -> Result<Arm<P>> {
    let program = spec.bin.as_deref().map_or_else(|| Ok(program.clone()), |bin| P::find(Some(bin)))?;
    ensure!(
        spec.repack.is_none() || program.repack(true).is_some(),
        "repack= is given, but {} has no --repack; leave it out",
        program.path().display()
    );
    let library = spec.shim.then(|| shim::locate(spec.lib.as_deref().or(args.lib.as_deref()))).transpose()?;
    let mut variables = if spec.shim { shim_variables(knobs) } else { BTreeMap::new() };
    variables.extend(spec.variables.clone());
    Ok(Arm { name: spec.name.clone(), role: Role::Compared, program, repack: spec.repack, library, variables })
}

/// The shim's variables in its runs: the user's own, under those of the command line.
fn shim_variables(knobs: &Options) -> BTreeMap<String, String> {
    let mut set: BTreeMap<String, String> = shim::inherited().into_iter().collect();
    set.remove("ZEN5TURBO_STATS");
    set.extend(knobs.variables().iter().map(|(k, v)| (String::from(*k), v.to_string_lossy().into_owned())));
    set
}
