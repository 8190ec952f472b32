//! The statistics that the shim leaves at the end.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Why products may be left to ggml: float weights (`stock_is_faster`, `not_faster`).
const DECLINED: [&str; 2] = ["stock_is_faster", "not_faster"];

/// What may happen to the process as a whole: it is squeezed.
const EVENTS: [&str; 2] = ["memory_pressure", "memory_budget"];

/// Reads and checks them: complete, products computed here, and no reason counted that is not expected.
pub fn read(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).with_context(|| format!("statistics expected in {}", path.display()))?;
    let stats: Value = serde_json::from_str(&text).with_context(|| format!("{} is no JSON", path.display()))?;
    check(&stats)?;
    Ok(stats)
}

fn check(stats: &Value) -> Result<()> {
    let state = stats["state"].as_str();
    ensure!(state == Some("active"), "the statistics say state {state:?}, expected active");
    let cells = stats["ops"]["MUL_MAT"].as_object().into_iter().flatten().map(|(_, cell)| cell);
    let mut taken = 0;
    for cell in cells {
        taken += cell["taken"].as_u64().unwrap_or(0);
        expect("products were left to ggml", &counted(&cell["declined"]), &DECLINED)?;
    }
    ensure!(taken > 0, "no product was computed by the shim");
    expect("events were counted", &counted(&stats["events"]), &EVENTS)
}

fn expect(what: &str, found: &BTreeMap<&str, u64>, expected: &[&str]) -> Result<()> {
    let unexpected: BTreeMap<_, _> = found.iter().filter(|(name, _)| !expected.contains(name)).collect();
    ensure!(unexpected.is_empty(), "{what}: {unexpected:?}, expected none but {expected:?}");
    Ok(())
}

fn counted(reasons: &Value) -> BTreeMap<&str, u64> {
    let reasons = reasons.as_object().into_iter().flatten();
    reasons.map(|(name, count)| (name.as_str(), count.as_u64().unwrap_or(u64::MAX))).collect()
}

#[cfg(test)]
mod tests {
    use super::check;
    use serde_json::json;

    #[test]
    fn a_reason_that_is_not_expected_is_named() {
        let stats = |event: &str, declined: &str, taken: u64| {
            let cell = json!({ "taken": taken, "declined": { declined: 3 } });
            json!({ "state": "active", "ops": { "MUL_MAT": { "q4_1": cell } }, "events": { event: 1 } })
        };
        assert!(check(&stats("memory_pressure", "not_faster", 1)).is_ok());
        assert!(check(&stats("memory_pressure", "not_faster", 0)).is_err());
        let error = check(&stats("memory_locked", "not_faster", 1)).unwrap_err().to_string();
        assert!(error.contains(r#"{"memory_locked": 1}"#), "{error}");
        assert!(check(&stats("memory_budget", "internal_error", 1)).is_err());
        assert!(check(&json!({ "state": "waiting" })).is_err());
    }
}
