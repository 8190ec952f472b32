//! The gate, the kill switch, and programs that have nothing to do with ggml.

use zen5turbo_tests::{Fixture, MILAN, Program, ZEN5, gemma, llama, work_dir};

/// A short generation with Gemma, greedy, on two threads.
fn generation(start: impl Fn(std::path::PathBuf) -> Program) -> Program {
    start(llama("llama-completion"))
        .arg("-m")
        .arg(gemma())
        .args("-no-cnv --no-warmup --temp 0 --seed 1 -t 2 -n 12 -p Berlin")
}

/// Every number and address replaced, since times and places differ from run to run.
fn without_numbers(text: &str) -> Vec<String> {
    let mark = |word: &str| word.chars().any(|c| c.is_ascii_digit());
    text.lines()
        .map(|line| line.split_whitespace().map(|w| if mark(w) { "#" } else { w }).collect::<Vec<_>>().join(" "))
        .collect()
}

#[test]
fn the_kill_switch_changes_nothing_and_prints_nothing() {
    let stock = generation(Program::new).run().success();
    let killed = generation(Program::preloaded)
        .var("ZEN5TURBO", "0")
        .knob("GATE", "nonsense")
        .knob("LOG", "debug")
        .with_stats()
        .run()
        .success();
    assert!(stock.stdout.contains("Berlin"), "{stock}");
    assert_eq!(killed.stdout, stock.stdout);
    assert_eq!(without_numbers(&killed.stderr), without_numbers(&stock.stderr));
    assert!(!killed.has_stats(), "statistics were written");
}

#[test]
fn nothing_is_printed_in_normal_operation() {
    let stock = generation(Program::new).run().success();
    let run = generation(Program::engaged).run().success();
    assert!(run.stats().taken("MUL_MAT", None) > 0, "{}", run.stats());
    assert!(!run.stderr.contains("zen5turbo"), "{run}");
    let lines = |text: &str| {
        // The list of buffers names the repacked one only without the shim.
        let mut lines = without_numbers(text);
        lines.retain(|line| !line.contains("buffer size") && !line.contains("repack") && !line.contains("REPACK"));
        lines
    };
    assert_eq!(lines(&run.stderr), lines(&stock.stderr));
}

#[test]
fn a_strict_gate_ends_the_program_with_78_and_one_line() {
    let run = generation(Program::preloaded).on(MILAN).with_stats().run().exit(78);
    let line = run.only_line();
    for part in [
        "error: this CPU is",
        "family 19h, model 01h",
        "not an AMD Zen 5",
        "family 1Ah",
        "ZEN5TURBO_GATE=off",
        "ZEN5TURBO=0",
        "78",
    ] {
        assert!(line.contains(part), "{part:?} is not in {line:?}");
    }
    assert_eq!(run.stdout, "");
}

#[test]
fn a_zen5_passes_the_strict_gate() {
    let run = generation(Program::preloaded).on(ZEN5).with_stats().run().success();
    assert_eq!(run.stats().text("/gate/decision"), "run");
    assert!(run.stats().taken("MUL_MAT", None) > 0, "{}", run.stats());
    assert_eq!(run.shim_lines(), [""; 0]);
}

#[test]
fn passthrough_says_so_once_and_leaves_all_to_ggml_on_every_cpu() {
    let stock = generation(Program::new).run().success();
    for (cpu, says) in [(ZEN5, "everything is left"), (MILAN, "not an AMD Zen 5")] {
        let run = generation(Program::preloaded).on(cpu).knob("GATE", "passthrough").with_stats().run().success();
        let lines = run.shim_lines();
        assert!(lines.len() == 1 && lines[0].contains("ZEN5TURBO_GATE=passthrough"), "{run}");
        assert!(lines[0].contains(says) && !lines[0].starts_with("error:"), "{run}");
        assert_eq!(run.stdout, stock.stdout);
        let stats = run.stats();
        assert_eq!(stats.text("/state"), "passthrough");
        assert_eq!(stats.taken("MUL_MAT", None) + stats.taken("MUL_MAT_ID", None), 0);
        assert_eq!(stats.events("gate_passthrough"), 1, "{stats}");
        stats.assert_healthy();
    }
}

/// With the default gate, in a container the shim is in all of these.
#[test]
fn programs_without_ggml_are_untouched_and_silent() {
    let dir = work_dir();
    std::fs::write(dir.path().join("a file"), "text").expect("the folder is writable");
    let programs: [(&str, &[&str], i32); 4] = [
        ("ls", &["-a"], 0),
        ("sh", &["-c", "ls; echo to stderr >&2; exit 3"], 3),
        ("sh", &["-c", "cat * | wc -c; (exit 0); env true"], 0),
        ("cat", &["no such file"], 1),
    ];
    for (name, arguments, code) in programs {
        let program = |start: fn(String) -> Program| {
            let start = start("/usr/bin/env".into()).arg("-C").arg(dir.path()).arg(name);
            arguments.iter().fold(start, |p, a| p.arg(a))
        };
        let stock = program(Program::new).run().exit(code);
        let run = program(Program::preloaded).knob("KERNELS", "nonsense").with_stats().run().exit(code);
        assert_eq!((&run.stdout, &run.stderr), (&stock.stdout, &stock.stderr));
        assert!(!run.has_stats(), "{name} wrote statistics");
    }
}

#[test]
fn the_gate_is_passed_before_main_when_ggml_is_linked() {
    let dir = work_dir();
    let program = Fixture::new("one_product").linked_with_ggml().build(&dir, "one_product");
    let run = Program::preloaded(&program).on(MILAN).run().exit(78);
    assert_eq!((run.only_line().is_empty(), run.stdout.as_str()), (false, ""));
    let _ = Program::new(&program).run().success();
}
