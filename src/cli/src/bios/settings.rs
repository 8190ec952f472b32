//! How the machine is set: everything that a BIOS or an administrator may have changed, as far as it can be
//! read. What cannot be read stays in the list, with the reason.
//!
//! Serial numbers and asset tags are not recorded.

mod cpu;
mod dmi;
mod fabric;
mod kernel;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zen5turbo_peaks::memory::{Buffer, uncached_bytes};
use zen5turbo_peaks::stream::read_rate;

use crate::root::Root;

/// A value, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reading {
    /// What was read.
    Value(String),
    /// Why it could not be read.
    Unreadable(String),
}

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Its name, the same in every version; what follows a colon names the thing it is about.
    pub id: String,
    #[serde(flatten)]
    pub reading: Reading,
}

/// Settings as they are gathered.
pub struct Settings<'a> {
    root: &'a Root,
    list: Vec<Setting>,
}

impl Settings<'_> {
    /// Adds a value or the reason why there is none. Blank values, and the words with which boards say
    /// nothing, count as none.
    fn put(&mut self, id: &str, found: Result<String, String>) {
        const NOTHING: [&str; 5] =
            ["", "Default string", "To Be Filled By O.E.M.", "To be filled by O.E.M.", "Not Specified"];
        let reading = match found {
            Ok(value) if NOTHING.contains(&value.trim()) => Reading::Unreadable("the machine does not tell it".into()),
            Ok(value) => Reading::Value(value.split_whitespace().collect::<Vec<_>>().join(" ")),
            Err(why) => Reading::Unreadable(why),
        };
        self.list.push(Setting { id: id.to_owned(), reading });
    }

    /// Adds what a file holds.
    fn file(&mut self, id: &str, path: &str) {
        let told = self.root.told(path);
        self.put(id, told);
    }
}

/// Every setting below `root`.
pub fn read(root: &Root) -> Vec<Setting> {
    let mut settings = Settings { root, list: Vec::new() };
    dmi::read(&mut settings);
    cpu::read(&mut settings);
    fabric::read(&mut settings);
    kernel::read(&mut settings);
    settings.list
}

/// The same while a core reads memory, of this machine: idle, memory and fabric may run slower than they are
/// set to.
pub fn under_load(root: &Root) -> Vec<Setting> {
    if !root.is_machine() {
        return read(root);
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let Ok(memory) = Buffer::new(uncached_bytes()) else { return };
            while !done.load(Ordering::Relaxed) {
                let _ = read_rate(memory.bytes(), 1);
            }
        });
        std::thread::sleep(SETTLED);
        let settings = read(root);
        done.store(true, Ordering::Relaxed);
        settings
    })
}

/// How long clocks take to rise, with room to spare.
const SETTLED: Duration = Duration::from_millis(200);

pub use fabric::Energy;

#[cfg(test)]
mod tests;
