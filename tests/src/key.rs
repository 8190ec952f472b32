//! Names for what is kept between tests: by the content of everything it was made from.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// A name in the making. 64 bits tell apart the few hundred things that are ever kept.
pub struct Key(DefaultHasher);

impl Key {
    /// Of nothing yet.
    pub fn new() -> Self {
        // The same in every process, unlike the hasher of a HashMap.
        Self(DefaultHasher::new())
    }

    /// Adds a text or a path.
    pub fn text(&mut self, text: impl AsRef<OsStr>) {
        let bytes = text.as_ref().as_encoded_bytes();
        self.0.write_usize(bytes.len());
        self.0.write(bytes);
    }

    /// Adds the content of a file.
    pub fn file(&mut self, path: &Path) {
        self.0.write_u64(content(path));
    }

    /// The name.
    pub fn name(&self) -> String {
        format!("{:016x}", self.0.finish())
    }
}

/// A hash of what a file holds, computed once in a process for each state of the file.
fn content(path: &Path) -> u64 {
    type State = (PathBuf, u64, i64, i64);
    static KNOWN: Mutex<Option<HashMap<State, u64>>> = Mutex::new(None);
    let real = path.canonicalize().unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let metadata = real.metadata().unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let state = (real, metadata.len(), metadata.mtime(), metadata.mtime_nsec());
    let mut known = KNOWN.lock().expect("no test panics here");
    *known.get_or_insert_default().entry(state).or_insert_with_key(|(real, ..)| {
        let mut hasher = DefaultHasher::new();
        hasher.write(&std::fs::read(real).unwrap_or_else(|e| panic!("{}: {e}", real.display())));
        hasher.finish()
    })
}
