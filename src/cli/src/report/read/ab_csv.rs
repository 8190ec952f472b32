//! The raw values of `zen5turbo ab --csv`.

use super::super::contents::{At, Contents, Cpu};
use super::super::pairs::{Runs, Test};
use super::Read;
use super::csv::{Row, Table};
use crate::statistics::Looks;

/// The most pairs where neither option names a number.
const MAX_PAIRS: u32 = 24;

/// Compares the arms as `ab` did when it was measured.
pub fn read(table: &Table) -> Result<Read, String> {
    let mut bad = Vec::new();
    // Measurements follow one another in a file.
    let mut all: Vec<(At, Test, f64, Runs)> = Vec::new();
    for row in &table.rows {
        let (Some(threads), Some(pair), Some(value)) =
            (row.number::<u32>("threads"), row.number::<u32>("pair"), row.number::<f64>("value"))
        else {
            bad.push(row.line);
            continue;
        };
        let text = |column: &str| row.get(column).to_owned();
        let at = At { date: text("date"), cpu: Cpu::parse(row.get("cpu")), ..At::default() };
        let test = Test {
            model: text("model"),
            kind: text("model_type"),
            test: text("test"),
            threads,
            unit: text("unit"),
            build: build(row.get("binary")),
        };
        let index = all.iter().rposition(|(a, t, ..)| *a == at && *t == test).unwrap_or_else(|| {
            all.push((at, test, confidence(row.get("args")), Runs::default()));
            all.len() - 1
        });
        all[index].3.add(&arm(row), pair, value);
    }
    let speeds: Vec<_> = all
        .iter()
        .filter_map(|(at, test, confidence, runs)| runs.compare(at.clone(), test.clone(), *confidence))
        .collect();
    if speeds.is_empty() {
        let lines = table.rows.len();
        return Err(format!(
            "found {lines} values and no pair with both stock and another arm; expected at least one: measure again"
        ));
    }
    let mut note = table.note(&bad);
    let alone = all.len() - speeds.len();
    if alone > 0 {
        let more = format!("{alone} tests have no pair with both stock and another arm");
        note = if note.is_empty() { more } else { format!("{note}; {more}") };
    }
    Ok(Read { what: "ab, raw values", contents: Contents { speeds, ..Contents::default() }, note })
}

/// The folder of a build, where it is no installed program: `llama.cpp-avx2` of `.deps/llama.cpp-avx2/bin/llama-bench`.
fn build(binary: &str) -> String {
    let folders: Vec<&str> = binary.split('/').rev().skip(1).filter(|name| *name != "bin").collect();
    folders.first().copied().unwrap_or_default().to_owned()
}

/// An arm's name with the kernels that were asked for.
fn arm(row: &Row) -> String {
    let variant = row.get("variant");
    let kernels = row.get("shim_environment").split_whitespace().find_map(|set| set.strip_prefix("ZEN5TURBO_KERNELS="));
    match kernels {
        Some(kernels) if kernels != "auto" => format!("{variant}, kernels {kernels}"),
        _ => variant.to_owned(),
    }
}

/// The confidence of an interval, by the rule that the command's arguments chose.
fn confidence(args: &str) -> f64 {
    let option = |name: &str| {
        let words: Vec<&str> = args.split([' ', '=']).collect();
        let at = words.iter().position(|word| *word == name)?;
        words.get(at + 1)?.parse::<u32>().ok()
    };
    let looks = match option("--pairs") {
        Some(pairs) => Looks::fixed(pairs),
        None => Looks::up_to(option("--max-pairs").unwrap_or(MAX_PAIRS)),
    };
    looks.confidence()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_confidence_is_that_of_the_rule() {
        assert!((confidence("ab -m x --pairs 6 --csv y") - 0.95).abs() < 1e-9);
        assert!((confidence("ab -m x --pairs=6") - 0.95).abs() < 1e-9);
        assert!(confidence("ab -m x") > 0.98 && confidence("ab --max-pairs 8") < 0.96);
    }

    #[test]
    fn a_build_is_named_by_its_folder() {
        assert_eq!(build(".deps/llama.cpp-avx2/bin/llama-bench"), "llama.cpp-avx2");
        assert_eq!(build("/usr/bin/llama-bench"), "usr");
        assert_eq!(build("llama-bench"), "");
    }
}
