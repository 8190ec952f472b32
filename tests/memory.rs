//! Resident memory, against stock with and without its repacked copy of the weights.

use std::time::Instant;

use zen5turbo_tests::{Program, llama, synthetic_q4_k};

/// The largest resident set of a short llama-bench, in KiB. The time is only shown.
fn bench(what: &str, start: fn(std::path::PathBuf) -> Program, options: &str) -> f64 {
    let program = start(llama("llama-bench")).arg("-m").arg(synthetic_q4_k()).args("-p 64 -n 8 -t 2 -r 1");
    let begin = Instant::now();
    let run = program.args(options).run().success();
    println!("{what}: {} MiB, {:.2} s with the load", run.max_rss_kib / 1024, begin.elapsed().as_secs_f64());
    run.max_rss_kib as f64
}

#[test]
fn resident_memory_is_not_above_that_of_stock() {
    let repacked = bench("stock --repack 1", Program::new, "--repack 1");
    let plain = bench("stock --repack 0", Program::new, "--repack 0");
    let shim = bench("zen5turbo", Program::engaged, "");
    assert!(shim <= repacked * 1.02, "{shim} KiB with the shim, {repacked} KiB in stock's default");
    // Scratch and statistics are ours.
    let allowed = plain * 1.02 + 10.0 * 1024.0;
    assert!(shim <= allowed, "{shim} KiB with the shim, {plain} KiB in stock with --repack 0");
}
