//! Where records are kept: one JSON file each, made whole or not at all, and never changed.

use std::env;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use tempfile::NamedTempFile;
use zen5turbo_host::proc::xdg_folder;

use super::record::{KIND, Record, SCHEMA};

/// Room that is taken before the measurement, so that a full disk shows before it and not after. Larger
/// than the records of all but the largest machines; what is not needed is given back.
const RESERVE: usize = 512 << 10;

/// The longest label, characters.
const LONGEST: usize = 80;

/// A folder of records.
#[derive(Clone, Debug)]
pub struct Store(PathBuf);

/// A record and the file that it is in.
#[derive(Clone, Debug)]
pub struct Stored {
    pub path: PathBuf,
    pub record: Record,
}

impl Store {
    /// The folder named, else that of the XDG base directories.
    pub fn at(dir: Option<&Path>) -> Result<Store> {
        if let Some(dir) = dir {
            return Ok(Store(dir.to_owned()));
        }
        let data = xdg_folder(env::var_os("XDG_DATA_HOME"), env::var_os("HOME"), ".local/share");
        let data = data.context(
            "there is no folder for records: neither XDG_DATA_HOME nor HOME is set to an absolute path; name one with --dir",
        )?;
        Ok(Store(data.join("zen5turbo/bios")))
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// All records, oldest first, and a line for every file that is none. No folder is no record.
    pub fn list(&self) -> Result<(Vec<Stored>, Vec<String>)> {
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((Vec::new(), Vec::new())),
            entries => entries.with_context(|| {
                format!("cannot read the folder of records {}; expected one that may be read", self.0.display())
            })?,
        };
        let (mut records, mut bad) = (Vec::new(), Vec::new());
        for path in entries.flatten().map(|entry| entry.path()) {
            // Files that are being written begin with a dot.
            let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
            if hidden || path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match read(&path) {
                Ok(record) => records.push(Stored { path, record }),
                Err(error) => bad.push(format!("left out: {error:#}")),
            }
        }
        records.sort_by(|a, b| (&a.record.date, &a.path).cmp(&(&b.record.date, &b.path)));
        bad.sort();
        Ok((records, bad))
    }

    /// The record that a word names: a number of the list, a label, or a file.
    pub fn find(&self, word: &str) -> Result<Stored> {
        if let Ok(number) = word.parse::<usize>() {
            let (records, _) = self.list()?;
            let n = records.len();
            return records.into_iter().nth(number.wrapping_sub(1)).with_context(|| {
                format!("there is no record {number}; expected a number of `zen5turbo bios list`, which has {n}")
            });
        }
        let path = Path::new(word);
        if path.is_file() || word.contains('/') {
            return Ok(Stored { path: path.to_owned(), record: read(path)? });
        }
        let (records, _) = self.list()?;
        let with_label = |(_, stored): &(usize, &Stored)| stored.record.label == word;
        let found: Vec<(usize, &Stored)> = records.iter().enumerate().filter(with_label).collect();
        match found[..] {
            [(_, only)] => Ok(only.clone()),
            [] => bail!(
                "no record in {} has the label {word}; expected a label or a number of `zen5turbo bios list`, or a file",
                self.0.display()
            ),
            _ => {
                let numbers: Vec<String> = found.iter().map(|(i, _)| (i + 1).to_string()).collect();
                bail!("{} records have the label {word}; name one by its number: {}", found.len(), numbers.join(", "))
            }
        }
    }

    /// Begins a record: makes the folder and takes room in it.
    pub fn begin(&self) -> Result<Draft> {
        let what = || {
            format!(
                "cannot write a record in {}; expected a folder with room that may be written: name another with --dir",
                self.0.display()
            )
        };
        fs::create_dir_all(&self.0).with_context(what)?;
        // Removed when dropped: Ctrl-C leaves nothing.
        let mut file =
            tempfile::Builder::new().prefix(".record-").suffix(".tmp").tempfile_in(&self.0).with_context(what)?;
        file.write_all(&vec![0; RESERVE]).and_then(|()| file.as_file().sync_all()).with_context(what)?;
        Ok(Draft { folder: self.0.clone(), file })
    }
}

/// Room for a record.
pub struct Draft {
    folder: PathBuf,
    file: NamedTempFile,
}

impl Draft {
    /// Makes it a record under a name that no file has; returns the name.
    pub fn finish(mut self, record: &Record) -> Result<PathBuf> {
        let what = || {
            format!(
                "the record could not be written in {}; the records there are as they were: make room and record again",
                self.folder.display()
            )
        };
        let text = serde_json::to_string_pretty(record)? + "\n";
        self.file.seek(SeekFrom::Start(0)).with_context(what)?;
        self.file.write_all(text.as_bytes()).with_context(what)?;
        self.file.as_file().set_len(text.len() as u64).with_context(what)?;
        self.file.as_file().sync_all().with_context(what)?;
        let mut file = self.file;
        for n in 1.. {
            let path = self.folder.join(name(record, n));
            match file.persist_noclobber(&path) {
                Ok(_) => return Ok(path),
                Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => file = error.file,
                Err(error) => return Err(error.error).with_context(|| format!("cannot make {}", path.display())),
            }
        }
        unreachable!("some number is free");
    }
}

/// `2026-11-21T193000Z-label.json`, with a number from the second on.
fn name(record: &Record, n: usize) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let label: String = record.label.chars().map(plain).collect();
    let date = record.date.replace(':', "");
    let number = if n > 1 { format!("-{n}") } else { String::new() };
    format!("{date}-{label}{number}.json")
}

/// Reads a record.
fn read(path: &Path) -> Result<Record> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("cannot read {}; expected a record of `zen5turbo bios`", path.display()))?;
    parse(path, &text)
}

/// The text of the record at `path`.
pub fn parse(path: &Path, text: &str) -> Result<Record> {
    let no = |found: String| {
        format!("{} is no record: found {found}; expected a file of `zen5turbo bios record`", path.display())
    };
    let value: serde_json::Value =
        serde_json::from_str(text).map_err(|error| anyhow::anyhow!(no(error.to_string())))?;
    ensure!(value["kind"] == KIND, no(format!("\"kind\": {}", value["kind"])));
    ensure!(
        value["schema"] == SCHEMA,
        "{} has layout {}; expected {SCHEMA}: read it with the version that made it, {}",
        path.display(),
        value["schema"],
        value["version"]
    );
    serde_json::from_value(value).map_err(|error| anyhow::anyhow!(no(error.to_string())))
}

/// A label that a file name and a command line can hold.
pub fn label(text: &str) -> Result<String, String> {
    let label = text.trim();
    if label.is_empty() || label.chars().count() > LONGEST || label.chars().any(char::is_control) {
        return Err(format!("expected 1 to {LONGEST} characters on one line"));
    }
    if label.parse::<usize>().is_ok() || label.contains('/') {
        return Err(
            "expected a word that is neither a number nor a path, by which `compare` knows other records".into()
        );
    }
    Ok(label.to_owned())
}
