//! Servers under load, by `zen5turbo ab --serve --json`.

use serde_json::Value;

use super::super::contents::{At, Contents, Cpu, Said, Served, ServedRow};
use super::Read;
use crate::text;

/// What tells such a record from others.
pub const KIND: &str = "serve";

/// The version of the document that is understood.
const VERSION: u32 = 1;

/// Every figure of each scenario, by arm, with the ratios.
pub fn read(whole: &Value) -> Result<Read, String> {
    let word = |name: &str| match &whole[name] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    if whole["version"] != VERSION {
        return Err(format!(
            "found a serve record of version {}; expected {VERSION}: read it with the version that made it, {}",
            whole["version"],
            word("command_version")
        ));
    }
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let arms = list(&whole["arms"]);
    let ratios = list(&whole["ratios"]);
    let mut compared: Vec<String> = ratios.iter().filter_map(|ratio| Some(ratio["arm"].as_str()?.to_owned())).collect();
    compared.dedup();
    compared.sort_unstable();
    compared.dedup();
    let mut rows = Vec::new();
    for scenario in list(&whole["load"]["scenarios"]).iter().filter_map(Value::as_str) {
        let mut names: Vec<&String> = Vec::new();
        for (name, value) in arms.iter().flat_map(|arm| arm[scenario].as_object().into_iter().flatten()) {
            if value.is_number() && !names.contains(&name) {
                names.push(name);
            }
        }
        rows.extend(names.into_iter().map(|name| ServedRow {
            scenario: scenario.replace('_', " "),
            figure: named(name),
            values: arms.iter().map(|arm| value(&arm[scenario], name)).collect(),
            ratios: compared.iter().map(|arm| ratio(&ratios, scenario, name, arm)).collect(),
        }));
    }
    if rows.is_empty() {
        return Err("found a serve record without figures; expected some for each scenario: measure again".to_owned());
    }
    let command = word("command_version");
    let served = Served {
        at: At {
            date: word("date"),
            cpu: Cpu::parse(&word("cpu")),
            version: if command.is_empty() { command } else { format!("zen5turbo {command}") },
            file: String::new(),
        },
        model: word("model"),
        kind: word("type"),
        threads: word("threads"),
        clients: word("clients"),
        pairs: word("pairs"),
        arms: arms.iter().map(|arm| arm["name"].as_str().unwrap_or("?").to_owned()).collect(),
        compared,
        rows,
    };
    let contents = Contents { served: vec![served], ..Contents::default() };
    Ok(Read { what: "ab --serve", contents, note: String::new() })
}

/// A figure with the smallest and largest of the pairs.
fn value(figures: &Value, name: &str) -> Option<String> {
    let number = |value: &Value| value.as_f64().filter(|n| n.is_finite());
    let shown = |n: f64| if n.fract() == 0.0 { format!("{n:.0}") } else { text::number(n) };
    let middle = number(&figures[name])?;
    let spread = &figures["spread"][name];
    Some(match (number(&spread[0]), number(&spread[1])) {
        (Some(low), Some(high)) if low < high => format!("{} ({}..{})", shown(middle), shown(low), shown(high)),
        _ => shown(middle),
    })
}

/// A ratio to stock with its interval, and what it supports.
fn ratio(ratios: &[Value], scenario: &str, figure: &str, arm: &str) -> Option<(String, Said)> {
    let ratio = ratios.iter().find(|r| r["scenario"] == scenario && r["figure"] == figure && r["arm"] == arm)?;
    let median = ratio["median"].as_f64()?;
    let interval = ratio["interval"]["low"].as_f64().zip(ratio["interval"]["high"].as_f64());
    let is_good = (median > 1.0) == (ratio["better"] == "higher");
    let said = match (ratio["difference"] == true, interval) {
        (true, _) if is_good => Said::Better,
        (true, _) => Said::Worse,
        (false, Some(_)) => Said::NoDifference,
        (false, None) => Said::TooFew,
    };
    let interval = interval.map_or_else(String::new, |(low, high)| format!(" ({low:.2}..{high:.2})"));
    Some((format!("{median:.2}{interval}"), said))
}

/// `first_token_ms_p50` is `first token p50, ms`.
fn named(name: &str) -> String {
    const UNITS: [(&str, &str); 4] =
        [("requests_per_s", "requests/s"), ("per_s", "/s"), ("ms", "ms"), ("seconds", "s")];
    let words = |text: &str| text.split('_').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    let padded = format!("_{name}_");
    for (unit, shown) in UNITS {
        if let Some((before, after)) = padded.split_once(&format!("_{unit}_")) {
            let rest = words(&format!("{before}_{after}"));
            return match rest.as_str() {
                "" => shown.to_owned(),
                _ if shown == "/s" => format!("{rest}/s"),
                _ => format!("{rest}, {shown}"),
            };
        }
    }
    words(name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn figures_are_named_with_their_unit() {
        let names = ["first_token_ms_p50", "tokens_per_s", "highest_rate_requests_per_s", "errors"];
        assert_eq!(names.map(named), ["first token p50, ms", "tokens/s", "highest rate, requests/s", "errors"]);
    }

    #[test]
    fn a_record_gives_every_figure_of_every_arm_and_its_ratios() {
        let arm = |name: &str, ms: f64| json!({"name": name, "server": {"first_token_ms_p99": ms, "errors": 0, "spread": {"first_token_ms_p99": [8, 16]}}});
        let record = json!({
            "kind": "serve", "version": 1, "command_version": "0.1.0", "load": {"scenarios": ["server"]}, "pairs": 6,
            "arms": [arm("stock", 12.25), arm("shim", 9.0)],
            "ratios": [{"scenario": "server", "figure": "first_token_ms_p99", "arm": "shim", "better": "lower",
                "median": 0.75, "interval": {"low": 0.7, "high": 0.8}, "difference": true}],
        });
        let served = read(&record).unwrap().contents.served.remove(0);
        assert_eq!(
            (served.arms.len(), served.compared, served.at.version),
            (2, vec!["shim".into()], "zen5turbo 0.1.0".into())
        );
        let [errors, first] = &served.rows[..] else { panic!("{:?}", served.rows) };
        assert_eq!(
            (errors.figure.as_str(), &errors.values[1], &errors.ratios[0]),
            ("errors", &Some("0".into()), &None)
        );
        assert_eq!(first.values, [Some("12.2 (8..16)".into()), Some("9 (8..16)".into())]);
        assert_eq!(first.ratios, [Some(("0.75 (0.70..0.80)".into(), Said::Better))]);
        let mut other = record.clone();
        other["version"] = json!(2);
        assert!(read(&other).unwrap_err().contains("version 2; expected 1"));
        other = record;
        other["load"] = json!({});
        assert!(read(&other).unwrap_err().contains("without figures"));
    }
}
