//! A short soak: two minutes of what `scripts/soak.sh` does for a day.

use std::time::Duration;

use zen5turbo_tests::{Program, Stats, smollm2, work_dir};

#[test]
fn a_server_under_load_keeps_its_answers_and_its_size() {
    let dir = work_dir();
    let run = Program::new(env!("CARGO_BIN_EXE_soak"))
        .args("--duration 110s --context 1024 --out")
        .arg(dir.path())
        .arg("--model")
        .arg(smollm2())
        .limit(Duration::from_secs(1800))
        .run()
        .success();
    let summary = std::fs::read_to_string(dir.path().join("summary.json")).expect("a summary was written");
    println!("{}{summary}", run.stdout);
    let summary = Stats::parse(&summary);
    for what in ["cycles", "counts/completions", "counts/cancelled", "counts/abandoned", "shifts", "copied"] {
        assert!(summary.number(&format!("/{what}")) > 0, "{what} is 0\n{summary}");
    }
    let squeezed = summary.number("/squeezes") > 0;
    println!("memory was squeezed: {squeezed}"); // not where no control group can be made
    assert!(!squeezed || summary.number("/given_back") > 0, "no weights were given back\n{summary}");
}
