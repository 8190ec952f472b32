//! The files below the paths.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::contents::{Contents, Cpu, UNKNOWN};
use super::read::{self, Read, Refused};

/// No record comes near this size.
const MAX_BYTES: u64 = 64 << 20;

/// Folders inside folders; more is a circle or no folder of records.
const MAX_DEPTH: usize = 8;

/// A file that is in the page.
#[derive(Clone, Debug)]
pub struct File {
    pub path: String,
    pub what: &'static str,
    pub date: String,
    pub version: String,
    /// What of it could not be used.
    pub note: String,
}

/// A file that is not in the page.
#[derive(Clone, Debug)]
pub struct LeftOut {
    pub path: String,
    pub why: Refused,
}

impl LeftOut {
    /// One line, for what its owner may mend.
    pub fn problem(&self) -> Option<String> {
        match &self.why {
            Refused::Bad(why) => Some(format!("{}: {why}", self.path)),
            Refused::Prose | Refused::Other(_) => None,
        }
    }
}

/// Everything that was found.
#[derive(Clone, Debug, Default)]
pub struct Gathered {
    pub files: Vec<File>,
    pub left_out: Vec<LeftOut>,
    pub contents: Contents,
}

/// Reads all files at the paths.
///
/// # Errors
/// A path is not there or cannot be read, or a folder has no files.
pub fn gather(paths: &[PathBuf]) -> Result<Gathered> {
    let mut all = Gathered::default();
    for path in paths {
        let what =
            || format!("cannot read {}; expected a record or a folder of records: check the path", path.display());
        if fs::metadata(path).with_context(what)?.is_dir() {
            let before = all.files.len() + all.left_out.len();
            let root = Folder { version: String::new(), depth: 0 };
            folder(path, &root, &mut all).with_context(what)?;
            if all.files.len() + all.left_out.len() == before {
                bail!(
                    "found no files in the folder {}; expected records: make one, for example with `zen5turbo ab --csv FILE` or `zen5turbo bios record`",
                    path.display()
                );
            }
        } else {
            file(path, "", &mut all);
        }
    }
    complete_cpus(&mut all.contents);
    Ok(all)
}

/// A folder, and what is known of all its files.
struct Folder {
    /// Of zen5turbo, as the README of scripts/record.sh says.
    version: String,
    depth: usize,
}

fn folder(path: &Path, above: &Folder, all: &mut Gathered) -> std::io::Result<()> {
    let mut entries = fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    entries.sort();
    let readme = fs::read_to_string(path.join("README.md")).unwrap_or_default();
    let version = read::recorded_version(&readme).unwrap_or_else(|| above.version.clone());
    let here = Folder { version, depth: above.depth + 1 };
    for entry in entries {
        // Files that are being written begin with a dot.
        if entry.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.')) {
            continue;
        }
        let found = fs::symlink_metadata(&entry)?;
        let problem = if found.is_dir() && here.depth < MAX_DEPTH {
            match folder(&entry, &here, all) {
                Ok(()) => continue,
                Err(error) => format!("the folder cannot be read: {error}"),
            }
        } else if found.is_dir() {
            format!("a folder {MAX_DEPTH} folders deep was not entered; name it as a path of its own")
        } else if found.is_symlink() && entry.is_dir() {
            "a link to a folder was not followed; name the folder as a path of its own".to_owned()
        } else {
            file(&entry, &here.version, all);
            continue;
        };
        all.left_out.push(LeftOut { path: entry.display().to_string(), why: Refused::Bad(problem) });
    }
    Ok(())
}

fn file(path: &Path, version: &str, all: &mut Gathered) {
    let shown = path.display().to_string();
    let read = text(path).map_err(Refused::Bad).and_then(|text| read::read(path, &text));
    match read {
        Ok(Read { what, mut contents, note }) => {
            let mut date = String::new();
            let mut found = String::new();
            for at in contents.places() {
                at.file.clone_from(&shown);
                if at.date.is_empty() {
                    at.date = read::date_in_path(path).unwrap_or_default();
                }
                if at.version.is_empty() {
                    version.clone_into(&mut at.version);
                }
                date = date.max(at.date.clone());
                found = found.max(at.version.clone());
            }
            for (day, _) in contents.seen.iter_mut().filter(|(day, _)| day.is_empty()) {
                *day = read::date_in_path(path).unwrap_or_default();
            }
            all.contents.extend(contents);
            if date.is_empty() {
                date = read::date_in_path(path).unwrap_or_default();
            }
            all.files.push(File { path: shown, what, date, version: found, note });
        }
        Err(why) => {
            // What machine it was is of use to the other records of that day.
            if let Refused::Other(other) = &why {
                all.contents.seen.extend(other.seen.clone());
            }
            all.left_out.push(LeftOut { path: shown, why });
        }
    }
}

/// The text of a regular file that is not absurdly large.
fn text(path: &Path) -> Result<String, String> {
    let unreadable = |error: std::io::Error| format!("cannot be read: {error}; expected a file that may be read");
    let found = fs::metadata(path).map_err(unreadable)?;
    if !found.is_file() {
        return Err("found no regular file; expected a record".to_owned());
    }
    if found.len() > MAX_BYTES {
        let size = crate::text::bytes(found.len());
        return Err(format!("found {size}; expected a record, which has at most {}", crate::text::bytes(MAX_BYTES)));
    }
    let bytes = fs::read(path).map_err(unreadable)?;
    if bytes.is_empty() {
        return Err("found an empty file; expected a record: was its measurement interrupted?".to_owned());
    }
    String::from_utf8(bytes).map_err(|error| {
        format!("found bytes that are no text at byte {}; expected a record in UTF-8", error.utf8_error().valid_up_to())
    })
}

/// Records of `ab` have the CPU's brand alone, and two generations may share it. Family and model are taken from other
/// records of the same day where these name one CPU only.
fn complete_cpus(contents: &mut Contents) {
    let mut known: Vec<(String, Cpu)> = contents.seen.clone();
    known.extend(contents.places().map(|at| (at.day().to_owned(), at.cpu.clone())));
    known.retain(|(day, cpu)| cpu.model.is_some() && !day.is_empty() && day != UNKNOWN);
    known.sort();
    known.dedup();
    for at in contents.places().filter(|at| at.cpu.model.is_none()) {
        let fits =
            |(day, cpu): &&(String, Cpu)| day == at.day() && (at.cpu.brand.is_empty() || at.cpu.brand == cpu.brand);
        if let [(_, only)] = known.iter().filter(fits).collect::<Vec<_>>()[..] {
            at.cpu = only.clone();
        }
    }
}
