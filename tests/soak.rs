//! What `scripts/soak.sh` does for a day: two minutes of it in the nightly run, and as much as needs to happen once in the
//! usual one.

use std::time::Duration;

use zen5turbo_tests::{Need, Program, SHIPPED, Stats, skip, smollm2, work_dir};

/// The time that it takes for everything to have happened once.
#[test]
fn a_server_under_load_keeps_its_answers() {
    soak("30s");
}

#[test]
#[ignore = "nightly"]
fn a_server_under_load_for_longer_keeps_its_answers_and_its_size() {
    soak("110s");
}

fn soak(duration: &str) {
    let dir = work_dir();
    // A program is started without the variables of this one; the soak has to take the same library.
    let which = std::env::var_os(SHIPPED).unwrap_or_default();
    let run = Program::new(env!("CARGO_BIN_EXE_soak"))
        .var(SHIPPED, which)
        .arg("--duration")
        .arg(duration)
        .args("--context 1024 --out")
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
    if !squeezed {
        skip(Need::Cgroup, "no control group can be made here: memory was not squeezed");
    }
    assert!(!squeezed || summary.number("/given_back") > 0, "no weights were given back\n{summary}");
}
