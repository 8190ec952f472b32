//! From counters and names to the object of the statistics file.

use serde_json::{Map, Value, json};
use zen5turbo_telemetry::live::{Cell, Counters, Snapshot};

/// The object, as `src/shim/src/stats/report.rs` writes it: without `blas`, `computed`, `direct`, `memory.numa`,
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
    let names = whole.remove("names").unwrap_or_default();
    let kernels = whole.remove("kernels_in_use").unwrap_or_default();
    let counters = &snapshot.counters;
    whole.insert("graphs".into(), graphs(counters, &names["graphs"]));
    whole.insert("threads".into(), threads(counters));
    whole.insert("ops".into(), operations(counters, &names, &kernels));
    whole.insert("memory".into(), memory(counters));
    whole.insert("events".into(), reasons(&counters.events, &names["reasons"]));
    Ok(Value::Object(whole))
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

/// The name of an index, or its number.
fn name(names: &Value, index: usize) -> String {
    names[index].as_str().map_or_else(|| index.to_string(), str::to_owned)
}

fn graphs(counters: &Counters<u64>, names: &Value) -> Value {
    let used = counters.graphs.iter().enumerate().filter(|(_, graphs)| graphs.count > 0);
    used.map(|(i, g)| (name(names, i), json!({"count": g.count, "columns": g.columns, "ns": g.ns})))
        .collect::<Map<_, _>>()
        .into()
}

fn threads(counters: &Counters<u64>) -> Value {
    let t = &counters.threads;
    let [count, us] = t.sleeps;
    json!({
        "asked": t.asked, "used": t.used, "budget": t.budget, "capped": t.capped, "pools": t.pools,
        "lost_mcpu": t.lost_mcpu, "sleeps": {"count": count, "us": us},
    })
}

fn operations(counters: &Counters<u64>, names: &Value, kernels: &Value) -> Value {
    let used = |cell: &Cell<u64>| cell.calls > 0 || cell.declined.iter().any(|&n| n > 0);
    let mut operations = Map::new();
    for (op, cells) in counters.cells.iter().enumerate() {
        let op = name(&names["ops"], op);
        let mut types = Map::new();
        for (ty, cell) in cells.iter().enumerate().filter(|(_, cell)| used(cell)) {
            let ty = name(&names["types"], ty);
            let kernels = kernels[&op][&ty].as_object().cloned().unwrap_or_default();
            let declined = reasons(&cell.declined, &names["reasons"]);
            types.insert(
                ty,
                json!({"taken": cell.calls, "ns": cell.ns, "bytes": cell.bytes, "mac": cell.macs,
                       "kernels": kernels, "declined": declined}),
            );
        }
        operations.insert(op, types.into());
    }
    operations.into()
}

fn reasons(counts: &[u64], names: &Value) -> Value {
    let counted = counts.iter().enumerate().filter(|(_, n)| **n > 0);
    counted.map(|(i, n)| (name(names, i), Value::from(*n))).collect::<Map<_, _>>().into()
}

fn memory(counters: &Counters<u64>) -> Value {
    let (w, p, b) = (&counters.weights, &counters.prefetch, &counters.buffers);
    let pair = |[count, bytes]: [u64; 2]| json!({"count": count, "bytes": bytes});
    json!({
        "weights": {
            "mapped": w.mapped, "wanted": w.wanted, "cached": w.cached, "copied": {"thp": w.thp, "2m": w.huge, "1g": w.giant},
            "freed": w.freed, "us": w.us, "rested_us": w.rested_us,
        },
        "prefetch": {"bytes": p.bytes, "calls": p.calls, "us": p.us, "released": p.released},
        "buffers": {"thp": pair(b.thp), "hugetlb_2m": pair(b.hugetlb), "freed": b.freed},
        "heap": pair(counters.heap),
        "copies": {"measured": counters.copies.measured, "streamed": pair(counters.copies.streamed)},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(value["graphs"], json!({"1": {"count": 2, "columns": 0, "ns": 0}}));
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
