//! Functions that fuzzers call. They write texts from outside (JSON, paths), and panic at a defect.

use std::path::Path;

use zen5turbo_telemetry::Json;

use crate::gate::stats_file;

/// Writes JSON with any texts and numbers. Another parser reads it in the fuzzer.
pub fn json(data: &[u8]) -> String {
    let text = String::from_utf8_lossy(data);
    let mut json = Json::default();
    json.open(None);
    for (i, part) in text.split('\u{1}').enumerate() {
        match i % 4 {
            0 => json.string(Some(&format!("{i}{part}")), part),
            1 => json.number(Some(&format!("{i}")), part.len() as u64),
            2 => {
                json.open_array(Some(&format!("{i}")));
                json.string(None, part);
                json.string(None, "");
                json.close_array();
            }
            _ => {
                json.open(Some(&format!("{i}")));
                json.boolean(Some(part), true);
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
