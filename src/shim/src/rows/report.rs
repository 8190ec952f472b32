//! The member `direct` of the statistics.

use zen5turbo_telemetry::document::{ByName, Function};

use super::fast_path::{left, taken};
use super::functions::FUNCTIONS;

/// The functions that were called.
pub fn report() -> ByName<Function> {
    let all = FUNCTIONS.iter().enumerate().map(|(i, function)| (function.name.to_string_lossy(), taken(i), left(i)));
    let called = all.filter(|(_, taken, left)| *taken > 0 || left.is_some());
    called
        .map(|(name, taken, left)| {
            (name.into_owned(), Function { taken, left: left.map(|reason| reason.as_str().to_owned()) })
        })
        .collect()
}
