//! How a value is read and written.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use zen5turbo_host::Identity;
use zen5turbo_host::cpuset::{CpuSet, parse_list};
use zen5turbo_kernels::ops::Operation;

use crate::values::{
    Choices, FAULTS, Fault, OPS, Ops, PINS, Pin, THREADS, TUNES, Threads, Threshold, Tune, Word, word_of,
};

/// Stores what a word means; false when it is none of the words.
pub(crate) fn choose<T: Clone>(field: &mut T, value: &OsStr, choices: &[(T, Word)]) -> bool {
    let chosen = choices.iter().find(|(_, word)| value == word.word);
    if let Some((meaning, _)) = chosen {
        *field = meaning.clone();
    }
    chosen.is_some()
}

/// A relative path is taken from the directory the program was started in, where the user wrote it.
fn absolute(value: &OsStr) -> PathBuf {
    std::path::absolute(value).unwrap_or_else(|_| PathBuf::from(value))
}

pub(crate) fn set_path(field: &mut Option<PathBuf>, value: &OsStr) -> bool {
    *field = Some(absolute(value));
    true
}

pub(crate) fn show_path(path: Option<&Path>) -> String {
    path.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default()
}

pub(crate) fn set_tune(field: &mut Tune, value: &OsStr) -> bool {
    if !choose(field, value, &TUNES) {
        *field = Tune::File(absolute(value));
    }
    true
}

pub(crate) fn show_tune(tune: &Tune) -> String {
    match tune {
        Tune::File(path) => show_path(Some(path)),
        word => word_of(word, &TUNES).to_owned(),
    }
}

/// `GGML_MAX_N_THREADS`.
const MOST_THREADS: usize = 512;

pub(crate) fn set_threads(field: &mut Threads, value: &OsStr) -> bool {
    choose(field, value, &THREADS)
        || set_number(field, value, |n| (1..=MOST_THREADS).contains(&n).then_some(Threads::AtMost(n)))
}

pub(crate) fn show_threads(threads: Threads) -> String {
    match threads {
        Threads::AtMost(n) => n.to_string(),
        word => word_of(&word, &THREADS).to_owned(),
    }
}

/// Below this size a threshold would concern almost every block and copy.
const LEAST_THRESHOLD: usize = 1 << 16;

pub(crate) fn set_threshold(field: &mut Threshold, value: &OsStr, choices: &Choices<Threshold, 2>) -> bool {
    choose(field, value, choices) || set_number(field, value, |n| (n >= LEAST_THRESHOLD).then_some(Threshold::Bytes(n)))
}

pub(crate) fn show_threshold(threshold: Threshold, choices: &Choices<Threshold, 2>) -> String {
    match threshold {
        Threshold::Bytes(bytes) => bytes.to_string(),
        word => word_of(&word, choices).to_owned(),
    }
}

fn set_number<T>(field: &mut T, value: &OsStr, meaning: impl Fn(usize) -> Option<T>) -> bool {
    let number = value.to_str().and_then(|text| text.parse().ok()).and_then(meaning);
    number.map(|meaning| *field = meaning).is_some()
}

/// A word, or CPUs of which none may be there twice: two threads on one CPU wait for each other.
pub(crate) fn set_pin(field: &mut Pin, value: &OsStr) -> bool {
    if choose(field, value, &PINS) {
        return true;
    }
    let Some(cpus) = value.to_str().and_then(parse_list) else { return false };
    if cpus.is_empty() || cpus.iter().copied().collect::<CpuSet>().len() < cpus.len() {
        return false;
    }
    *field = Pin::List(cpus);
    true
}

/// How a user writes an operation: ggml's name in small letters.
fn name_of(operation: Operation) -> String {
    operation.name().to_ascii_lowercase()
}

/// A word, or names of operations.
pub(crate) fn set_ops(field: &mut Ops, value: &OsStr) -> bool {
    if choose(field, value, &OPS) {
        return true;
    }
    let named = |name: &str| Operation::ALL.into_iter().find(|&operation| name_of(operation) == name);
    let list: Option<Vec<_>> = value.to_str().and_then(|text| text.split(',').map(named).collect());
    list.map(|list| *field = Ops::List(list)).is_some()
}

pub(crate) fn show_ops(ops: &Ops) -> String {
    match ops {
        Ops::List(list) => list.iter().map(|&operation| name_of(operation)).collect::<Vec<_>>().join(","),
        word => word_of(word, &OPS).to_owned(),
    }
}

/// As one would write it in the environment.
#[must_use]
pub fn show_pin(pin: &Pin) -> String {
    match pin {
        Pin::List(cpus) => cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(","),
        word => word_of(word, &PINS).to_owned(),
    }
}

/// Stores what was understood; false when nothing was.
pub(crate) fn set_some<T>(field: &mut Option<T>, understood: Option<T>) -> bool {
    let is_allowed = understood.is_some();
    if is_allowed {
        *field = understood;
    }
    is_allowed
}

pub(crate) fn set_identity(field: &mut Option<Identity>, value: &OsStr) -> bool {
    set_some(field, value.to_str().and_then(Identity::parse))
}

pub(crate) fn set_fault(field: &mut Option<Fault>, value: &OsStr) -> bool {
    let mut fault = Fault::Plan;
    let understood = choose(&mut fault, value, &FAULTS).then_some(fault);
    set_some(field, understood)
}

pub(crate) fn show_identity(identity: Option<&Identity>) -> String {
    identity.map(|i| format!("{}:{:02X}:{:02X}", i.vendor, i.family, i.model)).unwrap_or_default()
}
