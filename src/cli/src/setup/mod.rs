//! `zen5turbo setup`: what to put where, so that a service, a container or a shell starts programs under the shim.

mod place;
mod recipe;
mod service;

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use zen5turbo_host::gate::EXIT_REFUSED;

use crate::doctor::{self, Check};
use crate::interposition::{self, Reach};
use crate::knobs::{Options, Settings};
use crate::shim;
use recipe::{In, Recipe};
use service::Service;

/// Show or write what a service, a container or a shell needs to start programs under the shim
///
/// Prints the file or the lines for this machine, what to type then, and how to undo it. --write writes the file. Exit
/// status: 78 when nothing is set up because the shim could not engage, with the reason that doctor gives.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// What to set up
    #[arg(value_name = "WHAT")]
    what: What,
    /// The unit (systemd), the image (docker) or the service (compose)
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// The shim library, or its folder [default: SHIM_LIB, else beside this command or in ../lib]
    #[arg(long, value_name = "PATH")]
    lib: Option<PathBuf>,
    /// Write the file instead of printing it
    #[arg(long)]
    write: bool,
    /// Write below this folder, and ask systemd nothing
    #[arg(long, value_name = "DIR", hide = true)]
    root: Option<PathBuf>,
    #[command(flatten)]
    knobs: Options,
}

/// What can be set up.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// The service of Ollama: a drop-in file for ollama.service
    OllamaSystemd,
    /// Any service of systemd: a drop-in file for the unit NAME
    Systemd,
    /// Options for docker run or podman run, with the image NAME
    Docker,
    /// A file beside your compose file, for its service NAME
    Compose,
    /// Lines for ~/.profile: all programs of new logins
    Shell,
    /// What a program in Python needs
    Python,
}

/// Prints or writes the recipe; status 78 when the shim could not engage.
pub fn run(args: &Args) -> Result<ExitCode> {
    let library = shim::locate(args.lib.as_deref())?;
    let settings = Settings::inherited().with(&args.knobs);
    let service = service(args)?;
    let program = service.as_ref().and_then(|service| service.program.clone());
    if let Some(code) = refused(&settings, program.as_deref()) {
        return Ok(code);
    }
    if service.is_some() {
        place::readable_by_all(&library)?;
    }
    let variables = args.knobs.variables().iter();
    let variables = variables.map(|(name, value)| (*name, value.to_string_lossy().into_owned())).collect();
    let command = env::current_exe().context("cannot find this command's own file")?;
    let recipe = recipe(args, &In { library, command, variables }, service)?;
    if !args.write {
        print!("{}", recipe.text());
        return Ok(ExitCode::SUCCESS);
    }
    let Some(file) = &recipe.file else {
        bail!("there is no file to write for {}; type what the command prints without --write", word(args.what));
    };
    let path = match &args.root {
        Some(root) => root.join(file.path.strip_prefix("/").unwrap_or(&file.path)),
        None => file.path.clone(),
    };
    let written = place::write(&path, file)?;
    print!("{}", recipe.text_when_written(&path, written));
    Ok(ExitCode::SUCCESS)
}

fn word(what: What) -> String {
    what.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// The service, where one is set up.
fn service(args: &Args) -> Result<Option<Service>> {
    let name = match (args.what, args.name.as_deref()) {
        (What::OllamaSystemd, None) => "ollama",
        (What::Systemd, Some(name)) => name,
        (What::Systemd, None) => bail!("systemd needs the name of a unit: zen5turbo setup systemd UNIT"),
        (What::OllamaSystemd | What::Shell | What::Python, Some(name)) => {
            bail!("{} takes no name, and {name} was given", word(args.what))
        }
        _ => return Ok(None),
    };
    Ok(Some(Service::find(name, args.root.is_none())?))
}

fn recipe(args: &Args, given: &In, service: Option<Service>) -> Result<Recipe> {
    let name = args.name.as_deref();
    Ok(match (args.what, service) {
        (_, Some(service)) => recipe::systemd(given, &service),
        (What::Docker, _) => recipe::docker(given, name.unwrap_or("docker.io/ollama/ollama")),
        (What::Compose, _) => {
            let name = name.unwrap_or("ollama");
            let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            ensure!(!name.is_empty() && name.chars().all(plain), "{name:?} is no name of a service in a compose file");
            recipe::compose(given, name)
        }
        (What::Shell, _) => {
            let home = env::var_os("HOME").filter(|home| !home.is_empty());
            recipe::shell(given, Path::new(&home.context("HOME is not set; expected the folder with your .profile")?))
        }
        _ => recipe::python(given),
    })
}

/// Where the shim could not engage: says why, as `doctor` does.
fn refused(settings: &Settings, program: Option<&Path>) -> Option<ExitCode> {
    let reach = program.and_then(|program| interposition::examine(program).ok());
    let against = doctor::against(settings, reach.as_ref());
    if against.is_empty() {
        return None;
    }
    let of = reach.as_ref().map_or(String::new(), |Reach { root, .. }| format!(" in {}", root.display()));
    eprintln!("zen5turbo: nothing was set up: the shim could not engage{of}");
    against.iter().for_each(Check::tell);
    Some(ExitCode::from(EXIT_REFUSED as u8))
}
