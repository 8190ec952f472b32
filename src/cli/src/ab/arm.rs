//! The arms of a measurement: ways to run llama-bench that are compared with each other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::args::{Args, Spec};
use crate::llama_bench::Bench;
use crate::shim::{self, Knobs};

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

/// One way to run llama-bench.
#[derive(Clone, Debug)]
pub struct Arm {
    pub name: String,
    pub role: Role,
    pub bench: Bench,
    /// `--repack`, where llama-bench has it and the arm says.
    pub repack: Option<bool>,
    /// The library to preload.
    pub library: Option<PathBuf>,
    /// Set in its runs, over what is inherited.
    pub variables: BTreeMap<String, String>,
}

impl Arm {
    /// Arguments of llama-bench that only this arm has.
    pub fn arguments(&self) -> Vec<String> {
        self.repack.map_or_else(Vec::new, |on| vec!["--repack".to_owned(), u8::from(on).to_string()])
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
        words.push(self.bench.path.display().to_string());
        words.extend(self.arguments());
        words.retain(|w| !w.is_empty());
        words.join(" ")
    }
}

/// All arms of a command line: stock, the shim, the user's own, and stock again.
pub fn arms(args: &Args) -> Result<Vec<Arm>> {
    let bench = Bench::find(args.bin.as_deref())?;
    let stock_bench = args.stock_bin.as_deref().map_or_else(|| Ok(bench.clone()), |bin| Bench::find(Some(bin)))?;
    let stock = |name: &str, repack| Arm {
        name: name.to_owned(),
        role: Role::Stock,
        bench: stock_bench.clone(),
        repack,
        library: None,
        variables: BTreeMap::new(),
    };
    let mut arms = if stock_bench.repack {
        vec![stock("stock repack 0", Some(false)), stock("stock repack 1", Some(true))]
    } else {
        vec![stock("stock", None)]
    };
    // The last of stock is llama.cpp's default.
    let default = arms.len() - 1;
    let again = Arm { name: "stock again".into(), role: Role::Again(default), ..arms[default].clone() };

    let knobs = Knobs { gate: args.gate, kernels: args.kernels, log: None, stats: None };
    if !args.arms_only {
        arms.push(Arm {
            name: SHIM.into(),
            role: Role::Compared,
            bench: bench.clone(),
            repack: None,
            library: Some(shim::locate(args.lib.as_deref())?),
            variables: shim_variables(&knobs),
        });
    }
    for spec in &args.arm {
        arms.push(own(spec, args, &bench, &knobs).with_context(|| format!("in the arm {}", spec.name))?);
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

fn own(spec: &Spec, args: &Args, bench: &Bench, knobs: &Knobs) -> Result<Arm> {
    let bench = spec.bin.as_deref().map_or_else(|| Ok(bench.clone()), |bin| Bench::find(Some(bin)))?;
    ensure!(
        spec.repack.is_none() || bench.repack,
        "repack= is given, but {} has no --repack; leave it out",
        bench.path.display()
    );
    let library = spec.shim.then(|| shim::locate(spec.lib.as_deref().or(args.lib.as_deref()))).transpose()?;
    let mut variables = if spec.shim { shim_variables(knobs) } else { BTreeMap::new() };
    variables.extend(spec.variables.clone());
    Ok(Arm { name: spec.name.clone(), role: Role::Compared, bench, repack: spec.repack, library, variables })
}

/// The shim's variables in its runs: the user's own, under those of the command line.
fn shim_variables(knobs: &Knobs) -> BTreeMap<String, String> {
    let mut set: BTreeMap<String, String> = shim::inherited().into_iter().collect();
    set.remove("ZEN5TURBO_STATS");
    set.remove("ZEN5TURBO_DEPS"); // of the set-up script, not of the shim
    set.extend(knobs.variables().into_iter().map(|(k, v)| (k.to_owned(), v.to_string_lossy().into_owned())));
    set
}
