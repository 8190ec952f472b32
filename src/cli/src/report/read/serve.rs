//! Servers under load, by `zen5turbo ab --serve`.

use serde_json::Value;

use super::super::contents::{At, Contents, Cpu, Served};
use super::Read;
use crate::text;

/// What tells such a record from others.
pub const KIND: &str = "serve";

/// Figures by scenario and arm. Which figures there are is the record's matter.
pub fn read(whole: &Value) -> Result<Read, String> {
    let word = |name: &str| match &whole[name] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let arms = arms(&whole["arms"]);
    let mut rows: Vec<(String, String, Vec<Option<String>>)> = Vec::new();
    for (number, (_, arm)) in arms.iter().enumerate() {
        let mut figures = Vec::new();
        walk(arm, &mut Vec::new(), &mut figures);
        for (scenario, name, value) in figures {
            let index = rows.iter().position(|(s, n, _)| (s, n) == (&scenario, &name)).unwrap_or_else(|| {
                rows.push((scenario, name, vec![None; arms.len()]));
                rows.len() - 1
            });
            rows[index].2[number] = Some(value);
        }
    }
    if rows.is_empty() {
        return Err(format!(
            "found a serve record of version {} without figures in its arms; expected one for each scenario: read it with the version that made it",
            word("version")
        ));
    }
    let served = Served {
        at: At {
            date: word("date"),
            cpu: Cpu::parse(&word("cpu")),
            version: version(&word("version")),
            file: String::new(),
        },
        model: word("model"),
        kind: word("type"),
        threads: word("threads"),
        arms: arms.into_iter().map(|(name, _)| name).collect(),
        rows,
    };
    Ok(Read {
        what: "ab --serve",
        contents: Contents { served: vec![served], ..Contents::default() },
        note: String::new(),
    })
}

fn version(version: &str) -> String {
    if version.contains('.') { format!("zen5turbo {version}") } else { String::new() }
}

/// Arms by name: an object of objects, or a list of objects with a name.
fn arms(value: &Value) -> Vec<(String, &Value)> {
    match value {
        Value::Object(arms) => arms.iter().map(|(name, arm)| (name.clone(), arm)).collect(),
        Value::Array(arms) => {
            let name = |(i, arm): (usize, &Value)| {
                ["name", "arm"]
                    .iter()
                    .find_map(|key| arm[*key].as_str())
                    .map_or_else(|| format!("arm {}", i + 1), str::to_owned)
            };
            arms.iter().enumerate().map(|at| (name(at), at.1)).collect()
        }
        _ => Vec::new(),
    }
}

/// Every number below `value`: where it stands, its name with the unit, and the number. Lists are raw values, and have no
/// place in a table.
fn walk(value: &Value, path: &mut Vec<String>, figures: &mut Vec<(String, String, String)>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                path.push(name.clone());
                walk(member, path, figures);
                path.pop();
            }
        }
        Value::Array(list) => {
            // A list of scenarios that have names.
            for member in list.iter().filter(|member| member.is_object()) {
                let name = ["scenario", "name"].iter().find_map(|key| member[*key].as_str());
                let Some(name) = name else { continue };
                path.push(name.to_owned());
                walk(member, path, figures);
                path.pop();
            }
        }
        Value::Number(number) => {
            let Some((name, place)) = path.split_last() else { return };
            let place: Vec<&str> = place.iter().map(String::as_str).filter(|word| *word != "scenarios").collect();
            let value = number.as_f64().map_or_else(
                || number.to_string(),
                |n| if n.fract() == 0.0 { format!("{n:.0}") } else { text::number(n) },
            );
            figures.push((place.join(", ").replace('_', " "), named(name), value));
        }
        _ => {}
    }
}

/// `first_token_ms_p50` is `first token p50, ms`.
fn named(name: &str) -> String {
    const UNITS: [(&str, &str); 7] = [
        ("tokens_per_s", "tokens/s"),
        ("tokens_per_second", "tokens/s"),
        ("requests_per_s", "requests/s"),
        ("per_s", "/s"),
        ("ms", "ms"),
        ("seconds", "s"),
        ("percent", "%"),
    ];
    let words = |text: &str| text.split('_').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    let padded = format!("_{name}_");
    for (unit, shown) in UNITS {
        if let Some((before, after)) = padded.split_once(&format!("_{unit}_")) {
            let rest = words(&format!("{before}_{after}"));
            return if rest.is_empty() { shown.to_owned() } else { format!("{rest}, {shown}") };
        }
    }
    words(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_named_with_their_unit() {
        assert_eq!(named("first_token_ms_p50"), "first token p50, ms");
        assert_eq!(named("tokens_per_s"), "tokens/s");
        assert_eq!(named("requests"), "requests");
    }

    #[test]
    fn arms_and_scenarios_may_be_lists_or_objects() {
        let list = serde_json::json!({"kind": "serve", "version": "0.1.0", "cpu": "AMD EPYC", "arms": [
            {"name": "stock", "scenarios": [{"scenario": "server", "first_token_ms_p99": 12.25, "raw": [1, 2]}]},
            {"name": "shim", "scenarios": [{"scenario": "server", "first_token_ms_p99": 8}]}]});
        let object = serde_json::json!({"kind": "serve", "version": "0.1.0", "arms": {
            "shim": {"server": {"first_token_ms_p99": 8}}, "stock": {"server": {"first_token_ms_p99": 12.25}}}});
        let rows = |value: &Value| read(value).unwrap().contents.served.remove(0).rows;
        let values = |a: &str, b: &str| {
            vec![("server".to_owned(), "first token p99, ms".to_owned(), vec![Some(a.to_owned()), Some(b.to_owned())])]
        };
        assert_eq!(rows(&list), values("12.2", "8"));
        assert_eq!(rows(&object), values("8", "12.2"));
        assert!(read(&serde_json::json!({"kind": "serve", "version": 9})).unwrap_err().contains("version 9"));
    }
}
