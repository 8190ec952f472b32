//! From counters and names to the object of the statistics file.

use serde_json::{Map, Value, json};
use zen5turbo_telemetry::Json;
use zen5turbo_telemetry::document::{self, Names, member};
use zen5turbo_telemetry::live::Snapshot;

/// The object, as `src/shim/src/gate/report.rs` writes it: without `blas`, `computed`, `direct`, `memory.numa`,
/// `memory.weights.now` and the status of copies.
///
/// # Errors
/// What was found in the place of the names.
pub fn statistics(snapshot: &Snapshot) -> Result<Value, String> {
    let text: Value = match snapshot.text.as_str() {
        "" => json!({}), // there was no room for it
        text => serde_json::from_str(text).map_err(|_| "names that are not JSON".to_owned())?,
    };
    let Value::Object(mut whole) = plain(text) else { return Err("names that are not a JSON object".into()) };
    let mut take = |key: &str| whole.remove(key).unwrap_or_default();
    let names = Told { names: take(member::NAMES), kernels: take(member::KERNELS_IN_USE) };
    let mut counted = Json::default();
    counted.open(None);
    document::counted(&mut counted, &snapshot.counters, &names);
    counted.close();
    let counted: Map<String, Value> = serde_json::from_str(&counted.finish()).expect("it was written as JSON");
    whole.extend(counted);
    Ok(Value::Object(whole))
}

/// The names that a segment tells; the number of what it does not name.
struct Told {
    names: Value,
    kernels: Value,
}

impl Told {
    fn name(&self, of: &str, number: usize) -> String {
        self.names[of][number].as_str().map_or_else(|| number.to_string(), str::to_owned)
    }
}

impl Names for Told {
    fn operation(&self, number: usize) -> String {
        self.name(member::OPS, number)
    }

    fn weight_type(&self, number: usize) -> String {
        self.name(member::TYPES, number)
    }

    fn reason(&self, number: usize) -> String {
        self.name(member::REASONS, number)
    }

    fn graphs(&self, class: usize) -> String {
        self.name(member::GRAPHS, class)
    }

    fn kernels(&self, operation: usize, weight_type: usize) -> Vec<(String, String)> {
        let kernels = &self.kernels[self.operation(operation)][self.weight_type(weight_type)];
        let kernels = kernels.as_object().into_iter().flatten();
        kernels.filter_map(|(regime, name)| Some((regime.clone(), name.as_str()?.to_owned()))).collect()
    }
}

/// Without control characters: what a program calls itself must not steer the terminal.
fn plain(value: Value) -> Value {
    let clean = |text: String| text.chars().map(|c| if c.is_control() { '?' } else { c }).collect::<String>();
    match value {
        Value::String(text) => Value::String(clean(text)),
        Value::Array(list) => list.into_iter().map(plain).collect(),
        Value::Object(members) => members.into_iter().map(|(key, value)| (clean(key), plain(value))).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zen5turbo_telemetry::live::Counters;

    fn snapshot(text: &str) -> Snapshot {
        // SAFETY: integers, of which zeros are valid.
        let mut counters: Box<Counters<u64>> = unsafe { Box::new(std::mem::zeroed()) };
        counters.graphs[1].count = 2;
        counters.cells[0][12].calls = 5;
        counters.cells[1][64].declined[1] = 3;
        counters.events[2] = 1;
        Snapshot { pid: 7, text: text.into(), counters }
    }

    #[test]
    fn numbers_get_their_names() {
        let types: Vec<String> = (0..65).map(|i| if i == 12 { "q4_K".into() } else { format!("type_{i}") }).collect();
        let text = json!({"version": "1", "names": {"ops": ["MUL_MAT", "MUL_MAT_ID"], "types": types,
            "reasons": ["a", "b", "c"], "graphs": ["0", "1", "2-16", "many"]},
            "kernels_in_use": {"MUL_MAT": {"q4_K": {"1": "avx2"}}}});
        let value = statistics(&snapshot(&text.to_string())).unwrap();
        assert_eq!(
            value["graphs"],
            json!({"1": {"count": 2, "columns": 0, "ns": 0, "barriers": {"between": 0, "skipped": 0, "inside": 0}}})
        );
        let q4 = &value["ops"]["MUL_MAT"]["q4_K"];
        assert_eq!((&q4["taken"], &q4["kernels"]), (&json!(5), &json!({"1": "avx2"})));
        assert_eq!(value["ops"]["MUL_MAT_ID"]["type_64"]["declined"], json!({"b": 3}));
        assert_eq!(value["events"], json!({"c": 1}));
        assert!(value.get("names").is_none() && value["version"] == "1");
    }

    #[test]
    fn names_that_are_missing_or_lie_become_numbers_or_an_error() {
        for text in ["", "{}", r#"{"names": 3, "kernels_in_use": [], "ops": 1}"#, r#"{"names": {"ops": ["x"]}}"#] {
            let value = statistics(&snapshot(text)).unwrap();
            let ops = value["ops"].as_object().unwrap();
            assert!(ops.values().any(|types| types["12"]["taken"] == 5), "{text}");
        }
        for text in ["[]", "7", "{", "\u{1}"] {
            assert!(statistics(&snapshot(text)).unwrap_err().contains("not"), "{text}");
        }
    }

    #[test]
    fn names_cannot_steer_the_terminal() {
        let text = r#"{"program": "a\u001b[31mb\n", "\u0007key": ["\u009b"]}"#;
        let value = statistics(&snapshot(text)).unwrap();
        assert_eq!(value["program"], "a?[31mb?");
        assert_eq!(value["?key"][0], "?");
    }
}
