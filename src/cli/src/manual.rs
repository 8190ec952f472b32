//! The man pages and shell completions, from the definitions of the command line.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::Shell;

/// Print the man page, or write those of all subcommands
#[derive(clap::Args, Debug)]
pub struct ManArgs {
    /// Write zen5turbo.1 and a page for each subcommand into this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Print the completions for a shell
///
/// For bash, as an example: zen5turbo completions bash > ~/.local/share/bash-completion/completions/zen5turbo
#[derive(clap::Args, Debug)]
pub struct CompletionArgs {
    /// The shell
    shell: Shell,
}

/// Prints or writes the pages of the command line `C`.
pub fn man<C: CommandFactory>(args: &ManArgs) -> Result<ExitCode> {
    match &args.out {
        Some(folder) => {
            let failed =
                || format!("cannot write man pages to {}; expected a folder that can be written", folder.display());
            fs::create_dir_all(folder).with_context(failed)?;
            clap_mangen::generate_to(C::command(), folder).with_context(failed)?;
        }
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(C::command()).render(&mut page)?;
            print(&page)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the completions of the command line `C`.
pub fn completions<C: CommandFactory>(args: &CompletionArgs) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut C::command(), "zen5turbo", &mut script);
    print(&script)?;
    Ok(ExitCode::SUCCESS)
}

/// A reader that has seen enough, such as `head`, is no error.
fn print(bytes: &[u8]) -> Result<()> {
    match io::Write::write_all(&mut io::stdout(), bytes) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("cannot write to stdout"),
        _ => Ok(()),
    }
}
