//! Files that are written for a user, and can be taken away again.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// By these words a file is known to be ours.
pub const MADE_BY: &str = "made by: zen5turbo setup";

/// A file that makes programs start under the shim.
#[derive(Debug)]
pub struct File {
    pub path: PathBuf,
    pub text: String,
    /// Lines in a file that belongs to the user.
    pub is_part: bool,
}

/// What happened to the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It was not there, or held something older of ours.
    New,
    /// It says this already.
    AsBefore,
}

/// Writes the file, or our lines in it.
///
/// # Errors
/// A file is there that this command did not make, or it cannot be written.
pub fn write(path: &Path, file: &File) -> Result<Written> {
    let before = match fs::read_to_string(path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let after = if file.is_part {
        block::with(before.as_deref().unwrap_or_default(), &file.text)
    } else {
        match &before {
            Some(text) if !text.contains(MADE_BY) => bail!(
                "{} is there, and this command did not make it; expected no such file: move it away, or put the lines into \
                 it that are printed without --write",
                path.display()
            ),
            _ => file.text.clone(),
        }
    };
    if before.as_deref() == Some(after.as_str()) {
        return Ok(Written::AsBefore);
    }
    let failed = || format!("cannot write {}; expected the right to (sudo, for a service)", path.display());
    fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).with_context(failed)?;
    // Whole or not at all: a service may be started meanwhile, and a login may read it.
    let part = path.with_extension("zen5turbo-part");
    fs::write(&part, after).with_context(failed)?;
    let rights = fs::metadata(path).map_or(0o644, |meta| meta.permissions().mode() & 0o7777);
    fs::set_permissions(&part, fs::Permissions::from_mode(rights)).with_context(failed)?;
    fs::rename(&part, path).with_context(failed)?;
    Ok(Written::New)
}

/// A service may run as any user.
///
/// # Errors
/// Others cannot read the file, or a folder on the way to it.
pub fn readable_by_all(library: &Path) -> Result<()> {
    let closed = |path: &Path, right: u32| fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & right == 0);
    let folder = library.ancestors().skip(1).find(|folder| closed(folder, 0o001));
    if let Some(path) = folder.or_else(|| Some(library).filter(|file| closed(file, 0o004))) {
        bail!(
            "{} is closed to other users ({}), and a service may run as any; expected a library that all can read: type \
             install -D -m 644 {} /usr/local/lib/libzen5turbo.so and name that with --lib",
            library.display(),
            path.display(),
            library.display()
        );
    }
    Ok(())
}

/// Lines of ours in a file of the user, between two marks.
pub mod block {
    /// The line before ours.
    pub const START: &str = "# >>> zen5turbo >>>";
    /// The line behind ours.
    pub const END: &str = "# <<< zen5turbo <<<";

    /// The text with our lines at its end, and none of ours before.
    pub fn with(text: &str, lines: &str) -> String {
        let mut out = String::new();
        let mut ours = false;
        for line in text.lines() {
            ours |= line == START;
            if !ours {
                out += line;
                out.push('\n');
            }
            ours &= line != END;
        }
        format!("{out}{START}\n{lines}{END}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str, is_part: bool) -> File {
        File { path: "unused".into(), text: text.into(), is_part }
    }

    #[test]
    fn a_file_of_ours_is_replaced_and_that_of_another_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/zen5turbo.conf");
        let first = file(&format!("# {MADE_BY}\none\n"), false);
        assert_eq!(write(&path, &first).unwrap(), Written::New);
        assert_eq!(write(&path, &first).unwrap(), Written::AsBefore);
        let second = file(&format!("# {MADE_BY}\ntwo\n"), false);
        assert_eq!(write(&path, &second).unwrap(), Written::New);
        assert!(fs::read_to_string(&path).unwrap().ends_with("two\n"));
        fs::write(&path, "[Service]\n").unwrap();
        assert!(write(&path, &second).unwrap_err().to_string().contains("did not make it"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "[Service]\n");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn lines_in_a_file_of_the_user_leave_the_rest_and_its_rights() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".profile");
        fs::write(&path, "umask 022").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(write(&path, &file("export A=1\n", true)).unwrap(), Written::New);
        assert_eq!(write(&path, &file("export A=2\n", true)).unwrap(), Written::New);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("umask 022\n") && text.contains("A=2") && !text.contains("A=1"), "{text}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_library_that_others_cannot_read_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("libzen5turbo.so");
        fs::write(&library, "").unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let error = readable_by_all(&library).unwrap_err().to_string();
        assert!(error.contains("install -D -m 644") && error.contains(folder.path().to_str().unwrap()), "{error}");
        readable_by_all(Path::new("/usr/bin/env")).unwrap();
    }
}
