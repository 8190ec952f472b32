//! Files of the kernel below a folder: `/`, or a made one in tests.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where `proc` and `sys` are.
#[derive(Clone, Debug)]
pub struct Root(PathBuf);

impl Root {
    /// `/` for this machine.
    pub fn new(folder: &Path) -> Root {
        Root(folder.to_owned())
    }

    /// Whether it is this machine's own.
    pub fn is_machine(&self) -> bool {
        self.0 == Path::new("/")
    }

    /// `path` below it.
    pub fn path(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    /// The text of a file without the blanks around it; `None` when it cannot be read.
    pub fn read(&self, path: &str) -> Option<String> {
        self.told(path).ok()
    }

    /// The same, or why it cannot be read, in words.
    pub fn told(&self, path: &str) -> Result<String, String> {
        let text = fs::read_to_string(self.path(path)).map_err(|error| self.why(path, &error))?;
        Ok(text.trim().to_owned())
    }

    /// The bytes of a file, or why it cannot be read, in words.
    pub fn bytes(&self, path: &str) -> Result<Vec<u8>, String> {
        fs::read(self.path(path)).map_err(|error| self.why(path, &error))
    }

    /// Names the file as this machine knows it, whatever the root is.
    fn why(&self, path: &str, error: &io::Error) -> String {
        let path = path.trim_start_matches('/');
        match error.kind() {
            io::ErrorKind::NotFound => format!("/{path} is not there"),
            io::ErrorKind::PermissionDenied => format!("/{path}: permission denied; root may read it"),
            _ => format!("/{path}: {error}"),
        }
    }

    /// The number that a file holds.
    pub fn number(&self, path: &str) -> Option<u64> {
        self.read(path)?.parse().ok()
    }

    /// The names in a folder, in order; none when it cannot be read.
    pub fn list(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort_by_key(|name| (name.len(), name.clone()));
        names
    }

    /// A file of lines such as `/proc/self/status`: the value of a key.
    pub fn field(&self, path: &str, key: &str) -> Option<String> {
        field(&self.read(path)?, key)
    }
}

/// The value of a line `key: value`.
pub fn field(text: &str, key: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A made tree, removed with the folder.
    pub fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let root = Root::new(folder.path());
        (folder, root)
    }

    #[test]
    fn files_lists_and_fields_are_read_below_the_root() {
        let files = [("proc/a", " 12\n"), ("proc/status", "Name:\tx\nSeccomp:\t2\n"), ("sys/n10", ""), ("sys/n9", "")];
        let (_folder, root) = tree(&files);
        assert!(!root.is_machine());
        assert_eq!(root.number("/proc/a"), Some(12));
        assert_eq!(root.field("proc/status", "Seccomp").as_deref(), Some("2"));
        assert_eq!(root.field("proc/status", "Sec"), None);
        assert_eq!(root.list("sys"), ["n9", "n10"]);
        assert_eq!(root.read("proc/none"), None);
        assert_eq!(root.told("proc/none").unwrap_err(), "/proc/none is not there");
        assert_eq!(root.bytes("/proc/a").unwrap(), b" 12\n");
    }
}
