//! Programs by their names.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// The file that `program` names, through PATH when it has no slash.
pub fn find_program(program: &OsStr) -> Option<PathBuf> {
    let path = Path::new(program);
    if path.components().count() > 1 || path.is_absolute() {
        return Some(path.to_owned());
    }
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(path)).find(|p| p.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_through_path_unless_they_have_a_slash() {
        assert!(find_program(OsStr::new("sh")).is_some_and(|p| p.is_absolute() && p.is_file()));
        assert_eq!(find_program(OsStr::new("./sh")), Some("./sh".into()));
        assert_eq!(find_program(OsStr::new("no-such-program-anywhere")), None);
    }
}
