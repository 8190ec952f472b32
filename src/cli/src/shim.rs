//! Where the shim library is, and the environment that puts it and its knobs into a program.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail, ensure};
use zen5turbo_config::is_ours;

/// File name of the preload library.
pub const LIBRARY: &str = "libzen5turbo.so";

/// Every variable that begins so belongs to the shim.
pub const PREFIX: &str = "ZEN5TURBO";

/// Finds the library: `explicit` (`--lib`), else `SHIM_LIB`, else next to this executable,
/// else in `../lib` from there. The two named ones must exist; they are never passed over.
pub fn locate(explicit: Option<&Path>) -> Result<PathBuf> {
    let exe = env::current_exe().ok();
    locate_from(explicit, env::var_os("SHIM_LIB"), exe.as_deref())
}

fn locate_from(explicit: Option<&Path>, variable: Option<OsString>, exe: Option<&Path>) -> Result<PathBuf> {
    let variable = variable.filter(|v| !v.is_empty()).map(PathBuf::from);
    for (path, origin) in [(explicit, "--lib"), (variable.as_deref(), "SHIM_LIB")] {
        let Some(path) = path else { continue };
        let path = if path.is_dir() { path.join(LIBRARY) } else { path.to_owned() };
        ensure!(
            path.is_file(),
            "{origin} names {}, where there is no file; expected the shim library {LIBRARY} (or its folder)",
            path.display()
        );
        return preloadable(path);
    }
    let mut searched = Vec::new();
    if let Some(dir) = exe.and_then(Path::parent) {
        for dir in [Some(dir.to_owned()), dir.parent().map(|p| p.join("lib"))].into_iter().flatten() {
            let path = dir.join(LIBRARY);
            if path.is_file() {
                return preloadable(path);
            }
            searched.push(dir.display().to_string());
        }
    }
    bail!(
        "the shim library {LIBRARY} was not found; searched {}; build it (cargo build --release) or name it with --lib FILE or SHIM_LIB=FILE",
        if searched.is_empty() { "nowhere".to_owned() } else { searched.join(" and ") }
    )
}

/// The loader splits LD_PRELOAD at spaces and colons and cannot be told otherwise.
fn preloadable(path: PathBuf) -> Result<PathBuf> {
    let path = path.canonicalize().unwrap_or(path);
    ensure!(
        !path.as_os_str().as_bytes().iter().any(|b| b" :\t\n".contains(b)),
        "the path {} holds a space or a colon, which the loader takes for the end of an LD_PRELOAD entry; copy the library to a path without them and name it with --lib",
        path.display()
    );
    Ok(path)
}

/// `library` in front of what LD_PRELOAD already holds.
pub fn preload_list(library: &Path, existing: Option<&OsStr>) -> OsString {
    let mut list = library.as_os_str().as_bytes().to_vec();
    if let Some(existing) = existing.filter(|e| !e.is_empty()) {
        list.push(b':');
        list.extend_from_slice(existing.as_bytes());
    }
    OsString::from_vec(list)
}

/// Takes everything of the shim, and any preload, out of `command`'s environment.
pub fn without_shim(command: &mut Command) {
    command.env_remove("LD_PRELOAD");
    for (name, _) in env::vars_os() {
        if name.as_bytes().starts_with(PREFIX.as_bytes()) {
            command.env_remove(name);
        }
    }
}

/// The shim's settings that this process inherited.
pub fn inherited() -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = env::vars_os()
        .filter(|(name, _)| is_ours(name))
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    struct Folder(PathBuf);
    impl Folder {
        fn new(name: &str) -> Self {
            let dir = env::temp_dir().join(format!("zen5turbo-cli-{name}-{}", std::process::id()));
            fs::create_dir_all(dir.join("bin")).unwrap();
            fs::create_dir_all(dir.join("lib")).unwrap();
            Folder(dir.canonicalize().unwrap())
        }
    }
    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_library_is_found_beside_the_executable_then_in_lib() {
        let folder = Folder::new("locate");
        let exe = folder.0.join("bin/zen5turbo");
        let error = locate_from(None, None, Some(&exe)).unwrap_err().to_string();
        assert!(error.contains(&format!("{}", folder.0.join("bin").display())), "{error}");
        assert!(error.contains(&format!("{}", folder.0.join("lib").display())), "{error}");

        let in_lib = folder.0.join("lib").join(LIBRARY);
        fs::write(&in_lib, "").unwrap();
        assert_eq!(locate_from(None, None, Some(&exe)).unwrap(), in_lib);
        let beside = folder.0.join("bin").join(LIBRARY);
        fs::write(&beside, "").unwrap();
        assert_eq!(locate_from(None, None, Some(&exe)).unwrap(), beside);
        assert_eq!(
            locate_from(None, Some(in_lib.clone().into()), Some(&exe)).unwrap(),
            in_lib,
            "the variable goes before the places"
        );
        assert_eq!(
            locate_from(Some(&folder.0.join("lib")), None, Some(&exe)).unwrap(),
            in_lib,
            "a folder stands for the library in it"
        );
    }

    #[test]
    fn a_named_library_that_is_missing_is_an_error_not_a_fallback() {
        let folder = Folder::new("missing");
        fs::write(folder.0.join("bin").join(LIBRARY), "").unwrap();
        let exe = folder.0.join("bin/zen5turbo");
        let error = locate_from(Some(Path::new("/nonexistent.so")), None, Some(&exe)).unwrap_err();
        assert!(error.to_string().starts_with("--lib names /nonexistent.so"), "{error}");
    }

    #[test]
    fn a_path_that_the_loader_would_split_is_refused() {
        let folder = Folder::new("with space");
        let path = folder.0.join("bin").join(LIBRARY);
        fs::write(&path, "").unwrap();
        assert!(locate_from(Some(&path), None, None).unwrap_err().to_string().contains("space"));
    }

    #[test]
    fn the_library_goes_in_front_of_other_preloads() {
        let lib = Path::new("/opt/libzen5turbo.so");
        assert_eq!(preload_list(lib, None), "/opt/libzen5turbo.so");
        assert_eq!(preload_list(lib, Some(OsStr::new(""))), "/opt/libzen5turbo.so");
        assert_eq!(preload_list(lib, Some(OsStr::new("a.so:b.so"))), "/opt/libzen5turbo.so:a.so:b.so");
    }
}
