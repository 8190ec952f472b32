//! Memory of a process, against stock with and without its repacked copy of the weights.

use std::time::Instant;

use zen5turbo_tests::{Outcome, Program, llama, synthetic_q4_k};

/// Scratch and statistics of ours, in KiB.
const OURS: f64 = 10.0 * 1024.0;

/// What a short llama-bench needed at most, in KiB, all of it and without the pages of files.
struct Peak {
    resident: f64,
    anonymous: f64,
    run: Outcome,
}

impl Peak {
    fn copied(&self) -> u64 {
        self.run.stats().number("/memory/weights/copied/thp")
    }
}

fn bench(what: &str, start: fn(&str) -> Program, options: &str, huge_pages: &str) -> Peak {
    // The shell samples the program's memory while it runs; the kernel keeps a peak only of all together.
    let script = r#""$0" "$@" >/dev/null 2>&1 & p=$!
        while kill -0 $p 2>/dev/null; do grep -s RssAnon /proc/$p/status; sleep 0.02; done; wait $p"#;
    // Several nodes would be a reason for copies.
    let program = start("/bin/sh").knob("HUGEPAGES", huge_pages).knob("NUMA", "off");
    let program = program.arg("-c").arg(script).arg(llama("llama-bench"));
    let program = program.arg("-m").arg(synthetic_q4_k()).args("-p 64 -n 24 -t 2 -r 1").args(options);
    let begin = Instant::now();
    let run = program.run().success();
    let samples = run.stdout.lines().filter_map(|line| line.split_whitespace().nth(1)?.parse::<u32>().ok());
    let anonymous = samples.max().expect("the program was seen while it ran");
    let (mib, seconds) = (run.max_rss_kib / 1024, begin.elapsed().as_secs_f64());
    println!("{what}: {mib} MiB, {} of them anonymous, {seconds:.2} s with the load", anonymous / 1024);
    Peak { resident: run.max_rss_kib as f64, anonymous: anonymous.into(), run }
}

#[test]
fn memory_is_not_above_that_of_stock() {
    let repacked = bench("stock --repack 1", |p| Program::new(p), "--repack 1", "off");
    let plain = bench("stock --repack 0", |p| Program::new(p), "--repack 0", "off");

    let off = bench("zen5turbo, small pages", |p| Program::engaged(p), "", "off");
    let allowed = plain.resident * 1.02 + OURS;
    assert!(off.resident <= repacked.resident * 1.02, "{} of {} KiB", off.resident, repacked.resident);
    assert!(off.resident <= allowed, "{} KiB, {} in stock with --repack 0", off.resident, plain.resident);
    assert!(off.anonymous <= plain.anonymous * 1.02 + OURS, "{} of {} KiB", off.anonymous, plain.anonymous);

    // On one NUMA node nothing is copied.
    let auto = bench("zen5turbo", |p| Program::engaged(p), "", "auto");
    assert_eq!(auto.copied(), 0, "{}", auto.run.stats());
    assert!(auto.resident <= allowed, "{} KiB, {} in stock with --repack 0", auto.resident, plain.resident);
    assert!(auto.anonymous <= plain.anonymous * 1.02 + OURS, "{} of {} KiB", auto.anonymous, plain.anonymous);

    // Copies are anonymous, as the repacked weights are, and the pages of the file behind them are let go.
    let thp = bench("zen5turbo, copies", |p| Program::engaged(p), "", "thp");
    println!("{} MiB copied", thp.copied() >> 20);
    assert!(thp.resident <= repacked.resident * 1.02, "{} of {} KiB", thp.resident, repacked.resident);
    assert!(thp.anonymous <= repacked.anonymous * 1.02 + OURS, "{} of {} KiB", thp.anonymous, repacked.anonymous);
}
