//! Pages that are read ahead: at a cold start, and of a model that is larger than memory.

use zen5turbo_tests::{Cold, MemoryGroup, Outcome, Program, Refusal, gemma, llama, synthetic_q4_k};

/// Less than the synthetic model of 257 MiB needs beside buffers of some 50 MiB.
const LITTLE_MEMORY: u64 = 216 << 20;

fn engaged(model: &Cold) -> Program {
    model.generation(Program::engaged(llama("llama-completion")), 8)
}

/// With this value of the knob, from a cold cache.
fn run(model: &Cold, prefetch: &str) -> Outcome {
    let _ = model.drop_pages();
    engaged(model).knob("PREFETCH", prefetch).run().success()
}

#[test]
fn a_cold_model_is_read_ahead_and_a_warm_one_is_not() {
    let model = Cold::new(&gemma());
    let off = run(&model, "off");
    assert_eq!(off.stats().number("/memory/prefetch/bytes"), 0);
    for knob in ["pages", "auto"] {
        let is_cold = model.drop_pages();
        let cold = run(&model, knob);
        cold.stats().assert_healthy();
        assert_eq!((cold.shim_lines(), &cold.stdout), (vec![], &off.stdout));
        let bytes = cold.stats().number("/memory/prefetch/bytes");
        let size = model.size();
        assert!(!is_cold || bytes > size / 4, "{bytes} of {size}\n{}", cold.stats());
        assert_eq!(cold.stats().number("/memory/prefetch/released"), 0);
    }
    std::fs::read(model.file()).unwrap();
    let warm = engaged(&model).knob("PREFETCH", "pages").run().success();
    assert_eq!(warm.stats().number("/memory/prefetch/bytes"), 0, "{}", warm.stats());
    assert_eq!(warm.stdout, off.stdout);
}

#[test]
fn a_model_larger_than_memory_stays_within_it_and_answers_the_same() {
    let model = Cold::new(&synthetic_q4_k());
    let free = run(&model, "off");
    let Some(group) = MemoryGroup::new(LITTLE_MEMORY) else { return };
    let is_cold = model.drop_pages();
    let inside = Refusal::new().unprivileged().in_group(&group);
    let run = engaged(&model).knob("PREFETCH", "pages");
    let run = run.inside(&inside).run().success();
    run.stats().assert_healthy();
    assert_eq!(run.stdout, free.stdout);
    if is_cold {
        let stats = run.stats();
        assert_eq!(stats.events("model_larger_than_memory"), 1, "{stats}");
        assert!(stats.number("/memory/prefetch/bytes") > 0, "{stats}");
        assert!(stats.number("/memory/prefetch/released") > 0, "{stats}");
        assert_eq!(stats.number("/memory/weights/wanted"), 0, "nothing is copied to pages of our own\n{stats}");
    }
}

#[test]
fn mappings_that_are_refused_end_the_reading_and_nothing_else() {
    let model = Cold::new(&gemma());
    let off = run(&model, "off");
    let is_cold = model.drop_pages();
    // MAP_SHARED | MAP_FIXED, with or without MAP_POPULATE, of 8 MiB: what only the reader maps.
    let rules = ["mmap:ENOMEM:arg1=0x800000:arg3=0x11", "mmap:ENOMEM:arg1=0x800000:arg3=0x8011"];
    let refusal = Refusal::new().unprivileged().calls(&rules);
    let run = engaged(&model).knob("PREFETCH", "pages");
    let run = run.inside(&refusal).run().success();
    assert_eq!(run.stdout, off.stdout);
    assert_eq!(run.shim_lines(), [""; 0]);
    assert!(!is_cold || run.stats().events("read_ahead_refused") == 1, "{}", run.stats());
}
