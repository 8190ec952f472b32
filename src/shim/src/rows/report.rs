//! The member `direct` of the statistics.

use zen5turbo_telemetry::Json;

use super::fast_path::{left, taken};
use super::functions::FUNCTIONS;

/// Writes the member `direct`: `{ FUNCTION: { taken, left: reason } }`, for the functions that were called. `taken`
/// counts the calls that were computed here. `left` says why a library's own function was not replaced; the calls of it
/// are not counted.
pub fn report(j: &mut Json) {
    j.open(Some("direct"));
    for (i, function) in FUNCTIONS.iter().enumerate() {
        let (taken, left) = (taken(i), left(i));
        if taken == 0 && left.is_none() {
            continue;
        }
        j.open(Some(&function.name.to_string_lossy()));
        j.number("taken", taken);
        if let Some(reason) = left {
            j.string("left", reason.as_str());
        }
        j.close();
    }
    j.close();
}
