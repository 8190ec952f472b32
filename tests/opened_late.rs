//! Backends that are opened by dlopen with RTLD_LOCAL, stripped, as prebuilt packages have them.

use zen5turbo_tests::{Fixture, MILAN, Program, ZEN5, dl_backends, gemma, llama_dl, work_dir};

/// A program that is not linked with ggml, started with all the backends there are.
fn opened_late(dir: &tempfile::TempDir, start: impl Fn(std::path::PathBuf) -> Program) -> Program {
    let program = start(Fixture::new("opened_late").ggml_headers().options("-lm").build(dir, "opened_late"));
    dl_backends().iter().fold(program, |p, backend| p.arg(backend))
}

#[test]
fn a_real_model_is_computed_with_every_decline_named() {
    let prompt = "The capital of France is";
    let run = Program::engaged(llama_dl("llama-completion"))
        .arg("-m")
        .arg(gemma())
        .args("-no-cnv --no-warmup --temp 0 --seed 1 -t 2 -n 24 -p")
        .arg(prompt)
        .run()
        .success();
    let text = run.stdout.trim();
    assert!(text.starts_with(prompt) && text.split_whitespace().count() > 12, "{run}");
    let stats = run.stats();
    let libraries = stats.libraries();
    assert!(libraries.iter().any(|(path, status)| path.contains("libggml-cpu-") && *status == "bound"), "{stats}");
    for ty in ["q4_K", "q5_0", "q6_K", "q8_0"] {
        assert!(stats.taken("MUL_MAT", Some(ty)) > 0, "{ty} was not taken\n{stats}");
        assert!(stats.declined("MUL_MAT", Some(ty)).is_empty(), "{ty} was declined\n{stats}");
    }
    stats.assert_healthy();
    assert_eq!(run.shim_lines(), [""; 0]);
}

#[test]
fn a_program_that_is_not_linked_with_ggml_engages_at_the_first_hook() {
    let dir = work_dir();
    let stock = opened_late(&dir, Program::new).run().success();
    let run = opened_late(&dir, Program::engaged).run().success();
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("computed\n", stock.stderr.as_str()));
    assert_eq!(run.stats().taken("MUL_MAT", Some("q8_0")), 1, "{}", run.stats());
    run.stats().assert_healthy();
}

#[test]
fn a_strict_gate_ends_the_program_at_the_first_hook_before_any_work() {
    let dir = work_dir();
    let run = opened_late(&dir, Program::preloaded).on(MILAN).run().exit(78);
    assert!(run.only_line().contains("not an AMD Zen 5"), "{run}");
    assert_eq!(run.stdout, "");
}

#[test]
fn a_strict_gate_ends_llama_cpp_of_this_build() {
    let program = Program::preloaded(llama_dl("llama-completion")).arg("-m").arg(gemma());
    let run = program.args("-no-cnv --no-warmup -n 1 -p x").on(MILAN).run().exit(78);
    assert!(run.only_line().contains("not an AMD Zen 5"), "{run}");
    assert_eq!(run.stdout, "");
}

#[test]
fn passthrough_and_kill_switch_let_it_work() {
    let dir = work_dir();
    let run = opened_late(&dir, Program::preloaded).var("ZEN5TURBO", "0").run().success();
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("computed\n", ""));
    for cpu in [ZEN5, MILAN] {
        let run =
            opened_late(&dir, Program::preloaded).on(cpu).knob("GATE", "passthrough").with_stats().run().success();
        assert_eq!(run.stdout, "computed\n");
        assert!(run.only_line().contains("ZEN5TURBO_GATE=passthrough"), "{run}");
        assert_eq!(run.stats().taken("MUL_MAT", None), 0);
    }
}
