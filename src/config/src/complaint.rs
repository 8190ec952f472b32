//! What is wrong in an environment.

use std::ffi::OsStr;
use std::fmt;

use crate::knobs::{KNOBS, Knob};

/// A variable that is not used as it was set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Complaint {
    /// The variable.
    pub name: String,
    /// What would have been accepted.
    pub expected: String,
    /// What to tell the user: one line without a prefix.
    line: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

impl Complaint {
    /// The value is not one that the setting accepts.
    pub(crate) fn of_value(knob: &Knob, value: &OsStr) -> Self {
        let (name, expected) = (knob.name, knob.allowed());
        let instead = match knob.default() {
            default if default.is_empty() => "it is ignored".to_owned(),
            default => format!("using the default, {default}"),
        };
        let line = format!("{name}={} is not allowed: it must be {expected}; {instead}", short(value));
        Self { name: name.to_owned(), expected, line }
    }

    /// The variable is none of ours, though its name begins like one.
    pub(crate) fn of_name(name: &OsStr) -> Self {
        let known = KNOBS.iter().map(|knob| knob.name).collect::<Vec<_>>().join(", ");
        let line = format!("{} is not a variable of zen5turbo and is ignored (they are: {known})", short(name));
        Self { name: name.to_string_lossy().into_owned(), expected: format!("one of {known}"), line }
    }
}

/// The most characters of a value in a line: what was expected of it comes behind.
const SHOWN: usize = 400;

/// What the user wrote, short enough to leave room for the rest of a line: without its middle.
#[must_use]
pub fn short(value: &OsStr) -> String {
    let text = value.to_string_lossy();
    let n = text.chars().count();
    if n <= SHOWN {
        return text.into_owned();
    }
    let mut shown: String = text.chars().take(SHOWN / 2).collect();
    shown.push_str("...");
    shown.extend(text.chars().skip(n - SHOWN / 2));
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_value_is_shown_without_its_middle() {
        assert_eq!(short(OsStr::new("/a/b")), "/a/b");
        let long = short(OsStr::new(&format!("é{}z", "é9".repeat(100_000))));
        assert_eq!(long.chars().count(), SHOWN + 3);
        assert!(long.starts_with('é') && long.ends_with("9z") && long.contains("..."));
    }
}
