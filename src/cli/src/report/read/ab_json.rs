//! The summary of `zen5turbo ab`: the file of --json, or the last line of a measurement in the file of --jsonl.

use serde_json::Value;

use super::super::contents::{Arm, At, Contents, Cpu, Said, Speed, Spread};
use super::{Other, Read, Refused, serve};

/// The object of --json.
pub fn read(whole: &Value) -> Result<Read, String> {
    let contents = Contents { speeds: speeds(whole)?, ..Contents::default() };
    Ok(Read { what: "ab, summary", contents, note: String::new() })
}

/// A file with one object in each line. `error` says why it is not one object.
pub fn lines(text: &str, error: &dyn std::fmt::Display) -> Result<Read, Refused> {
    let (mut speeds_of_all, mut broken, mut begun, mut ended) = (Vec::new(), Vec::new(), 0, 0);
    let mut objects = 0;
    for (line, text) in text.lines().enumerate().filter(|(_, text)| !text.trim().is_empty()) {
        let Ok(object) = serde_json::from_str::<Value>(text) else {
            broken.push(line + 1);
            continue;
        };
        objects += 1;
        if object["ns"].is_object() && object["columns"].is_number() {
            return Err(Refused::Other(Other {
                what: "every time of tune (--jsonl); its choices are in the file of --out",
                seen: Vec::new(),
            }));
        }
        if object["kind"] == serve::KIND {
            return Err(Refused::Other(Other {
                what: "every run of ab --serve (--jsonl); its figures are in the file of --json",
                seen: Vec::new(),
            }));
        }
        if object["phase"].is_string() || object["counts"].is_object() || object["distance"].is_object() {
            return Err(Refused::Other(Other {
                what: "a server under load for hours (scripts/soak.sh)",
                seen: Vec::new(),
            }));
        }
        match object["record"].as_str() {
            Some("start") => begun += 1,
            Some("end") => {
                ended += 1;
                speeds_of_all.extend(speeds(&object).map_err(|why| Refused::Bad(format!("line {}: {why}", line + 1)))?);
            }
            _ => {}
        }
    }
    if objects == 0 || (ended == 0 && begun == 0) {
        return Err(Refused::Bad(format!(
            "found damaged JSON ({error}); expected one object, or one in each line: copy the file anew"
        )));
    }
    if ended == 0 {
        return Err(Refused::Bad(format!(
            "found {begun} measurement{} of `ab` without an end; expected a line with \"record\": \"end\": its finished pairs are in the file of --csv, else measure again",
            if begun == 1 { "" } else { "s" }
        )));
    }
    let mut notes = Vec::new();
    if begun > ended {
        notes.push(format!("{} of {begun} measurements have no end", begun - ended));
    }
    if let Some(first) = broken.first() {
        notes.push(format!("{} damaged lines were not used, the first is line {first}", broken.len()));
    }
    let contents = Contents { speeds: speeds_of_all, ..Contents::default() };
    Ok(Read { what: "ab, every run", contents, note: notes.join("; ") })
}

/// The rows of a summary.
pub fn speeds(whole: &Value) -> Result<Vec<Speed>, String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let circumstances = &whole["circumstances"];
    let versions = whole["engagement"].as_array().into_iter().flatten().map(|arm| text(&arm["shim_version"]));
    let version =
        versions.max().filter(|version| !version.is_empty()).unwrap_or_else(|| text(&circumstances["version"]));
    let at = At {
        date: text(&circumstances["date"]),
        cpu: Cpu::parse(&text(&circumstances["cpu"])),
        version: if version.is_empty() { version } else { format!("zen5turbo {version}") },
        file: String::new(),
    };
    let rows = whole["summary"].as_array().into_iter().flatten().enumerate();
    rows.map(|(i, row)| speed(row, &at).ok_or_else(|| wrong(i))).collect()
}

fn wrong(row: usize) -> String {
    format!(
        "found no medians, reference and ratios in row {} of its summary; expected those of this version's `zen5turbo ab`: read it with the version that made it",
        row + 1
    )
}

fn speed(row: &Value, at: &At) -> Option<Speed> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let (reference, unit) = (text(&row["reference"])?, text(&row["unit"])?);
    let interval = |value: &Value| Some((value["low"].as_f64()?, value["high"].as_f64()?));
    let noise = interval(&row["stock_against_itself"]["interval"]).map(|(low, high)| {
        let far = high.max(1.0 / low).max(1.0);
        (1.0 / far, far)
    });
    let pairs = row["pairs"].as_u64()? as usize;
    let speed = unit == "tokens/s";
    let arms = row["ratios"].as_object()?.iter().map(|(name, ratio)| {
        let interval = interval(&ratio["interval"]);
        let median = ratio["median"].as_f64()?;
        let good = (median > 1.0) == speed;
        let said = match (ratio["difference"].as_bool()?, interval, noise) {
            (true, ..) if good => Said::Better,
            (true, ..) => Said::Worse,
            (false, None, _) => Said::TooFew,
            (false, Some((low, high)), None) if low > 1.0 || high < 1.0 => Said::NoCheck,
            (false, ..) => Said::NoDifference,
        };
        let values = spread(&row["arms"][name])?;
        Some(Arm { name: name.clone(), values, pairs, ratio: median, interval, said, bytes_per_token: None })
    });
    Some(Speed {
        at: at.clone(),
        model: text(&row["model"])?,
        kind: String::new(),
        test: text(&row["test"])?,
        threads: row["threads"].as_u64()?.try_into().ok()?,
        unit,
        build: String::new(),
        stock: (reference.clone(), spread(&row["arms"][&reference])?),
        noise,
        arms: arms.collect::<Option<Vec<_>>>()?,
    })
}

fn spread(values: &Value) -> Option<Spread> {
    let number = |name: &str| values[name].as_f64();
    Some(Spread { low: number("min")?, median: number("median")?, high: number("max")? })
}
