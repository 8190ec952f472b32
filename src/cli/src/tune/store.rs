//! Where the file is, what it holds, and how it is written.

use std::env;
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tempfile::NamedTempFile;
use zen5turbo_calibration::{self as calibration, TuneFile};
use zen5turbo_config::Tune;
use zen5turbo_host::proc;

use crate::knobs::Settings;

/// The file that the shim reads: `named`, else `ZEN5TURBO_TUNE`, else the one in the cache folder.
///
/// # Errors
/// There is no cache folder.
pub fn place(named: Option<&Path>) -> Result<PathBuf> {
    if let Some(named) = named {
        return Ok(named.to_owned());
    }
    if Settings::inherited().config().tune == Tune::Off {
        eprintln!("zen5turbo: ZEN5TURBO_TUNE=off is set: the shim will not read the file until it is unset");
    }
    let place = quiet_place().or_else(in_cache);
    place.context("found neither XDG_CACHE_HOME nor HOME; expected one of them, or --out FILE")
}

/// The file that the shim reads, if it reads one.
pub fn quiet_place() -> Option<PathBuf> {
    match &Settings::inherited().config().tune {
        Tune::Off => None,
        Tune::File(path) => Some(path.clone()),
        Tune::Default => in_cache(),
    }
}

fn in_cache() -> Option<PathBuf> {
    let cache = proc::xdg_folder(env::var_os("XDG_CACHE_HOME"), env::var_os("HOME"), ".cache")?;
    Some(cache.join(calibration::PLACE))
}

/// What the file holds; `None` when there is none.
///
/// # Errors
/// It cannot be read, or is not understood.
pub fn read(path: &Path) -> Result<Option<TuneFile>> {
    let text = match calibration::read(path) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        Err(error) => bail!("{} cannot be read: {error}; expected a calibration file", path.display()),
    };
    match calibration::parse(&text) {
        Ok(file) => Ok(Some(file)),
        Err(bad) => bail!("{}, {bad}; it is no calibration file that can be kept", path.display()),
    }
}

/// Finds out whether the file can be written, before anything is measured. Makes its folder.
pub fn check(path: &Path) -> Result<()> {
    draft(path).map(drop)
}

/// Writes the file at once: there is the old one or the new one, whole, at any moment.
pub fn write(path: &Path, file: &TuneFile) -> Result<()> {
    // A link stays a link.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut draft = draft(path)?;
    let written = draft.write_all(file.to_string().as_bytes()).and_then(|()| draft.as_file().sync_all());
    written.with_context(|| cannot(path))?;
    draft.persist(path).map_err(|error| error.error).with_context(|| cannot(path))?;
    Ok(())
}

fn draft(path: &Path) -> Result<NamedTempFile> {
    if fs::symlink_metadata(path).is_ok_and(|found| !found.is_file() && !found.is_symlink()) {
        bail!("{} is no regular file; expected one, or none yet: name one with --out FILE", path.display());
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(|| cannot(path))?;
    tempfile::Builder::new().prefix(".tune-").tempfile_in(folder).with_context(|| cannot(path))
}

fn cannot(path: &Path) -> String {
    format!(
        "cannot write {}; expected a folder that can be written, with room: free some, or name another file with --out (what was there is untouched)",
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(cpu: &str) -> TuneFile {
        calibration::parse(&format!("zen5turbo-tune 4\ncpu {cpu}\nggml 1\ntier avx2\n")).unwrap()
    }

    #[test]
    fn a_file_is_written_whole_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/tune.txt");
        assert_eq!(read(&path).unwrap(), None);
        for cpu in ["A", "B"] {
            check(&path).unwrap();
            write(&path, &file(cpu)).unwrap();
            assert_eq!(read(&path).unwrap(), Some(file(cpu)));
        }
        let names = fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(names, 1, "no draft is left");
    }

    #[test]
    fn what_cannot_be_written_or_kept_is_one_line_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tune.txt");
        fs::write(&path, "notes\n").unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("line 1: found `notes`") && error.contains("can be kept"), "{error}");
        let below = path.join("tune.txt");
        assert_eq!(read(&below).unwrap(), None);
        for path in [&below, Path::new("/proc/nowhere/tune.txt"), folder.path()] {
            let error = format!("{:#}", check(path).unwrap_err());
            assert!(error.contains("expected") && !error.contains('\n'), "{error}");
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "notes\n");
    }
}
