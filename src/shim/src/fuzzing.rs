//! What a fuzzer calls: the environment, and what is written of it. Plain functions that panic at a defect.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use crate::config::{Config, KNOBS};
use zen5turbo_telemetry::Json;

use crate::gate::stats_file;

/// An environment: entries `NAME=VALUE` that end with a NUL. Names that begin with a digit are short for those of the
/// knobs.
pub fn environment(data: &[u8]) {
    let config = Config::from_vars(data.split(|&b| b == 0).filter_map(|entry| {
        let at = entry.iter().position(|&b| b == b'=')?;
        let (name, value) = (&entry[..at], OsString::from_vec(entry[at + 1..].to_vec()));
        let knob = name.first().and_then(|b| KNOBS.get(usize::from(b.wrapping_sub(b'0'))));
        Some((knob.map_or_else(|| OsString::from_vec(name.to_vec()), |knob| knob.name.into()), value))
    }));
    for knob in KNOBS {
        // What was understood is said back in words that are understood as the same.
        let value = knob.value(&config);
        let again = Config::from_vars([(knob.name.into(), value.clone().into())]);
        if !value.contains(char::REPLACEMENT_CHARACTER) {
            assert_eq!((knob.value(&again), again.complaints.len()), (value, 0), "{}", knob.name);
        }
    }
}

/// JSON of any texts and numbers, to be read by another parser.
pub fn json(data: &[u8]) -> String {
    let text = String::from_utf8_lossy(data);
    let mut json = Json::default();
    json.open(None);
    for (i, part) in text.split('\u{1}').enumerate() {
        match i % 4 {
            0 => json.string(&format!("{i}{part}"), part),
            1 => json.number(&format!("{i}"), part.len() as u64),
            2 => {
                json.open_array(&format!("{i}"));
                json.element(part);
                json.element("");
                json.close_array();
            }
            _ => {
                json.open(Some(&format!("{i}")));
                json.boolean(part, true);
                json.close();
            }
        }
    }
    json.close();
    json.finish()
}

/// A path of `ZEN5TURBO_STATS`.
pub fn stats_path(data: &[u8]) {
    use std::os::unix::ffi::OsStrExt;
    let path = stats_file::expand(Path::new(std::ffi::OsStr::from_bytes(data)), 12);
    assert!(!path.as_os_str().as_bytes().windows(2).any(|w| w == b"%p") || data.windows(3).any(|w| w == b"%%p"));
}
