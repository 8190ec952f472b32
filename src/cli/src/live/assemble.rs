//! From counters and names to the statistics document.

use serde_json::{Value, json};
use zen5turbo_telemetry::Member;
use zen5turbo_telemetry::document::{ByName, Document, Names, SegmentText, Words};
use zen5turbo_telemetry::live::Snapshot;

/// The document, as the process would write it: without `blas`, `computed`, `direct`, `memory.numa`, `memory.weights.now`, the
/// status of copies and the size from which they are made.
///
/// # Errors
/// What was found in the place of the names.
pub fn statistics(snapshot: &Snapshot) -> Result<Document, String> {
    let text: Value = match snapshot.text.as_str() {
        "" => json!({}), // there was no room for it
        text => serde_json::from_str(text).map_err(|_| "names that are not JSON".to_owned())?,
    };
    let text = SegmentText::read(&plain(text)).ok_or("names that are not a JSON object")?;
    let told = Told { names: text.names, kernels: text.kernels_in_use };
    Ok(Document::counted(text.about, &snapshot.counters, &told))
}

/// The names that a segment tells; the number of what it does not name.
struct Told {
    names: Words,
    kernels: ByName<ByName<ByName<String>>>,
}

fn name(names: &[String], number: usize) -> String {
    names.get(number).cloned().unwrap_or_else(|| number.to_string())
}

impl Names for Told {
    fn operation(&self, number: usize) -> String {
        name(&self.names.ops, number)
    }

    fn weight_type(&self, number: usize) -> String {
        name(&self.names.types, number)
    }

    fn reason(&self, number: usize) -> String {
        name(&self.names.reasons, number)
    }

    fn graphs(&self, class: usize) -> String {
        name(&self.names.graphs, class)
    }

    fn kernels(&self, operation: usize, weight_type: usize) -> ByName<String> {
        let types = self.kernels.get(&self.operation(operation));
        types.and_then(|types| types.get(&self.weight_type(weight_type))).cloned().unwrap_or_default()
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
        let document = statistics(&snapshot(&text.to_string())).unwrap();
        let value = serde_json::to_value(&document).unwrap();
        assert_eq!(
            value["graphs"],
            json!({"1": {"count": 2, "columns": 0, "ns": 0, "barriers": {"between": 0, "inside": 0}}})
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
            let document = statistics(&snapshot(text)).unwrap();
            assert!(document.operations().any(|(_, kind, operation)| kind == "12" && operation.taken == 5), "{text}");
        }
        for text in ["[]", "7", "{", "\u{1}"] {
            assert!(statistics(&snapshot(text)).unwrap_err().contains("not"), "{text}");
        }
    }

    #[test]
    fn names_cannot_steer_the_terminal() {
        let text = r#"{"program": "a\u001b[31mb\n", "config": {"\u0007key": "\u009b"}, "threads_limit": ["\u009b"]}"#;
        let about = statistics(&snapshot(text)).unwrap().about;
        assert_eq!((about.program.as_str(), about.config["?key"].as_str()), ("a?[31mb?", "?"));
        assert_eq!(about.threads_limit, r#"["?"]"#);
    }
}
