//! A service of systemd: what it runs, and what it sets for it.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail, ensure};

/// A unit, as far as systemd tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// With its ending: `ollama.service`.
    pub unit: String,
    /// The program of ExecStart=.
    pub program: Option<PathBuf>,
    /// What LD_PRELOAD holds already.
    pub preload: Option<String>,
    /// Why nothing is known of it.
    pub unknown: Option<String>,
}

impl Service {
    /// The unit of that name. With `ask`, systemd is asked for it.
    ///
    /// # Errors
    /// This is no name of a unit, or systemd knows no such unit.
    pub fn find(name: &str, ask: bool) -> Result<Self> {
        // The characters of a unit's name: systemd.unit(5).
        let plain = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
        ensure!(
            !name.is_empty() && name.len() < 250 && name.chars().all(plain) && !name.starts_with('.'),
            "{name:?} is no name of a unit; expected one such as ollama or llama-server.service"
        );
        let unit = if name.contains('.') { name.to_owned() } else { format!("{name}.service") };
        let mut service = Self { unit, program: None, preload: None, unknown: None };
        if !ask {
            return Ok(service);
        }
        match show(&service.unit) {
            Ok(text) => service.read(&text)?,
            Err(why) => service.unknown = Some(why),
        }
        Ok(service)
    }

    /// The answer of `systemctl show`: lines NAME=VALUE.
    fn read(&mut self, text: &str) -> Result<()> {
        for line in text.lines() {
            match line.split_once('=') {
                Some(("LoadState", "not-found")) => {
                    bail!(
                        "systemd has no unit {}; expected the unit that starts the program (systemctl list-units --type=service)",
                        self.unit
                    )
                }
                // { path=/usr/local/bin/ollama ; argv[]=... }
                Some(("ExecStart", value)) => {
                    let path = value.split_once("path=").and_then(|(_, rest)| rest.split(" ;").next());
                    self.program = path.filter(|path| path.starts_with('/')).map(PathBuf::from);
                }
                Some(("Environment", value)) => {
                    let words = value.split(' ').map(|word| word.trim_matches('"'));
                    let preload = words.filter_map(|word| word.strip_prefix("LD_PRELOAD=")).next_back();
                    self.preload = preload.filter(|list| !list.is_empty()).map(str::to_owned);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn show(unit: &str) -> Result<String, String> {
    let output = Command::new("systemctl").args(["show", "-p", "LoadState,ExecStart,Environment", "--", unit]).output();
    match output {
        Err(error) => Err(format!("systemctl cannot be started ({error})")),
        Ok(output) if !output.status.success() => {
            let words = String::from_utf8_lossy(&output.stderr);
            Err(format!("systemctl: {}", words.lines().next().unwrap_or("it failed")))
        }
        Ok(output) => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_get_their_ending_and_odd_ones_are_refused() {
        let unit = |name: &str| Service::find(name, false).map(|service| service.unit);
        assert_eq!(unit("ollama").unwrap(), "ollama.service");
        assert_eq!(unit("llama@7.service").unwrap(), "llama@7.service");
        for odd in ["", "../etc", "a b", "a/b", ".x", "a\nb"] {
            assert!(unit(odd).is_err(), "{odd:?}");
        }
    }

    #[test]
    fn what_systemd_tells_is_read() {
        let mut service = Service::find("ollama", false).unwrap();
        service
            .read(
                "ExecStart={ path=/usr/local/bin/ollama ; argv[]=/usr/local/bin/ollama serve ; ignore_errors=no }\n\
                 Environment=PATH=/bin \"LD_PRELOAD=/usr/lib/libjemalloc.so.2\"\nLoadState=loaded\n",
            )
            .unwrap();
        assert_eq!(service.program.as_deref(), Some("/usr/local/bin/ollama".as_ref()));
        assert_eq!(service.preload.as_deref(), Some("/usr/lib/libjemalloc.so.2"));
        let error = service.read("LoadState=not-found\n").unwrap_err().to_string();
        assert!(error.contains("no unit ollama.service") && error.contains("list-units"), "{error}");
    }
}
