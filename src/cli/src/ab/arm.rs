//! The arms of a measurement: ways to run llama-bench that are compared with each other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use anyhow::{Context, Result, ensure};

use super::Args;
use crate::knobs::Options;
use crate::llama_bench::Bench;
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

/// `--arm NAME:ITEM,ITEM...`
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    name: String,
    bin: Option<PathBuf>,
    lib: Option<PathBuf>,
    shim: bool,
    repack: Option<bool>,
    variables: BTreeMap<String, String>,
}

impl FromStr for Spec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "expected NAME:ITEM,ITEM... with VAR=VALUE, bin=DIR, lib=FILE, shim=off or repack=0|1 as items";
        let (name, items) = text.split_once(':').unwrap_or((text, ""));
        if name.trim().is_empty() || name.contains('=') {
            return Err(format!("the arm has no name; {expected}, such as thp-off:ZEN5TURBO_HUGEPAGES=off"));
        }
        let mut spec = Spec {
            name: name.trim().to_owned(),
            bin: None,
            lib: None,
            shim: true,
            repack: None,
            variables: BTreeMap::new(),
        };
        for item in items.split(',').filter(|item| !item.is_empty()) {
            let Some((key, value)) = item.split_once('=') else {
                return Err(format!("found \"{item}\", which has no =; {expected}"));
            };
            match (key, value) {
                ("bin", _) => spec.bin = Some(value.into()),
                ("lib", _) => spec.lib = Some(value.into()),
                ("shim", "on" | "off") => spec.shim = value == "on",
                ("repack", "0" | "1") => spec.repack = Some(value == "1"),
                (key, _) if key.chars().any(char::is_uppercase) => {
                    spec.variables.insert(key.to_owned(), value.to_owned());
                }
                _ => return Err(format!("found \"{item}\"; {expected}")),
            }
        }
        Ok(spec)
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

    let knobs = Options::of([("ZEN5TURBO_GATE", &args.gate), ("ZEN5TURBO_KERNELS", &args.kernels)]);
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

fn own(spec: &Spec, args: &Args, bench: &Bench, knobs: &Options) -> Result<Arm> {
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
fn shim_variables(knobs: &Options) -> BTreeMap<String, String> {
    let mut set: BTreeMap<String, String> = shim::inherited().into_iter().collect();
    set.remove("ZEN5TURBO_STATS");
    set.extend(knobs.variables().iter().map(|(k, v)| (String::from(*k), v.to_string_lossy().into_owned())));
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arm_is_a_name_and_items() {
        let spec: Spec = "thp:ZEN5TURBO_HUGEPAGES=thp,ZEN5TURBO_LOG=off".parse().unwrap();
        assert_eq!((spec.name.as_str(), spec.shim, spec.variables.len()), ("thp", true, 2));
        let spec: Spec = "zero code:shim=off,GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1,repack=0"
            .parse()
            .unwrap();
        assert!(!spec.shim);
        assert_eq!(spec.repack, Some(false));
        assert_eq!(spec.variables["GLIBC_TUNABLES"], "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1");
        let spec: Spec = "other:bin=/opt/llama,lib=/opt/z.so".parse().unwrap();
        assert_eq!((spec.bin, spec.lib), (Some("/opt/llama".into()), Some("/opt/z.so".into())));
        assert!("plain".parse::<Spec>().unwrap().variables.is_empty());
    }

    #[test]
    fn what_is_no_arm_is_refused_with_what_was_found_and_expected() {
        for (text, part) in [
            ("ZEN5TURBO_LOG=off", "has no name"),
            (":A=1", "has no name"),
            ("x:huge", "\"huge\", which has no ="),
            ("x:shim=maybe", "\"shim=maybe\""),
            ("x:repack=2", "\"repack=2\""),
            ("x:bni=/x", "\"bni=/x\""),
        ] {
            let error = text.parse::<Spec>().unwrap_err();
            assert!(error.contains(part) && error.contains("expected NAME:ITEM"), "{text}: {error}");
        }
    }
}
