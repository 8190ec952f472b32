//! ggml's functions for single rows (fixtures/direct.c) and repacked weights (fixtures/repacked.c): reached through its
//! tables and directly, right, counted, and left alone where they are to be.

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use zen5turbo_tests::distance::compare_with_stock;
use zen5turbo_tests::{Fixture, Outcome, Program, Stats, ZEN5, dl_backends, llama, llama_dl, tiers, work_dir};

/// Those that are exported, by the kernels that win: with AVX2, and with AVX-512 only.
const AVX2: [&str; 26] = [
    "dequantize_row_q4_0",
    "dequantize_row_q4_1",
    "dequantize_row_q5_0",
    "dequantize_row_q5_1",
    "dequantize_row_q8_0",
    "dequantize_row_q2_K",
    "dequantize_row_q3_K",
    "dequantize_row_q4_K",
    "dequantize_row_q5_K",
    "dequantize_row_q6_K",
    "dequantize_row_iq4_nl",
    "dequantize_row_iq4_xs",
    "dequantize_row_mxfp4",
    "dequantize_row_iq2_xxs",
    "dequantize_row_iq2_xs",
    "dequantize_row_iq2_s",
    "dequantize_row_iq3_xxs",
    "dequantize_row_iq3_s",
    "dequantize_row_iq1_s",
    "dequantize_row_iq1_m",
    "dequantize_row_tq1_0",
    "dequantize_row_tq2_0",
    "dequantize_row_nvfp4",
    "dequantize_row_q1_0",
    "dequantize_row_q2_0",
    "quantize_row_q8_K",
];
const AVX512: [&str; 4] =
    ["quantize_row_q8_0", "quantize_row_q8_1", "ggml_vec_dot_iq4_nl_q8_0", "ggml_vec_dot_mxfp4_q8_0"];

fn exported() -> impl Iterator<Item = &'static str> {
    AVX2.into_iter().chain(AVX512)
}

/// A program that opens ggml, as it is built for a machine.
fn opening(dir: &TempDir) -> PathBuf {
    Fixture::new("direct").ggml_headers().options("-lm").build(dir, "direct")
}

/// A program that is linked with it.
fn linked(dir: &TempDir) -> PathBuf {
    Fixture::new("direct").linked_with_ggml().build(dir, "direct")
}

fn with(program: Program, base: &Path, cpu: &Path) -> Program {
    program.arg(base).arg(cpu)
}

fn native(program: Program) -> Program {
    with(program, &llama("libggml-base.so"), &llama("libggml-cpu.so"))
}

/// The names of functions whose entry in the tables does not lead to the library's own.
fn redirected(run: &Outcome) -> Vec<&str> {
    assert!(run.stdout.ends_with("\n0 failures\n"), "{run}");
    let mut names: Vec<_> = run.stdout.lines().filter_map(|line| line.strip_suffix(" redirected")).collect();
    names.sort_unstable();
    names
}

fn all() -> Vec<&'static str> {
    let mut names: Vec<_> = exported().collect();
    names.sort_unstable();
    names
}

fn assert_taken(stats: &Stats, names: &[&str]) {
    for name in exported() {
        let (taken, expected) = (stats.number(&format!("/direct/{name}/taken")), names.contains(&name));
        assert_eq!(taken > 100, expected, "{name}\n{stats}");
    }
    stats.assert_healthy();
}

fn assert_left(stats: &Stats, names: &[&str], reason: &str) {
    for name in names {
        assert_eq!(stats.text(&format!("/direct/{name}/left")), reason, "{name}\n{stats}");
    }
}

#[test]
fn tables_and_symbols_lead_to_ours_and_the_bytes_are_those_of_ggml() {
    let dir = work_dir();
    let program = linked(&dir);
    assert_eq!(redirected(&native(Program::new(&program)).run().success()), [""; 0]);
    for tier in tiers() {
        let run = native(Program::engaged(&program)).knob("KERNELS", tier.knob).run().success();
        assert_eq!(redirected(&run), all(), "{run}");
        assert_eq!(run.stderr, "");
        match tier.name {
            "avx512vnni" => assert_taken(run.stats(), &all()),
            "avx2" => {
                assert_taken(run.stats(), &AVX2);
                assert_left(run.stats(), &AVX512, "stock_is_faster");
            }
            _ => {
                assert_taken(run.stats(), &[]);
                assert_left(run.stats(), &all(), "stock_is_faster");
            }
        }
    }
}

/// The caller is a program that sees neither library: it has a pointer out of a table.
#[test]
fn libraries_opened_with_rtld_local_are_hooked_as_well() {
    let dir = work_dir();
    let program = opening(&dir);
    for backend in dl_backends() {
        let base = llama_dl("libggml-base.so");
        let stock = with(Program::new(&program), &base, &backend).run().success();
        assert_eq!(redirected(&stock), [""; 0]);
        let run = with(Program::engaged(&program), &base, &backend).run().success();
        assert_eq!(redirected(&run), all(), "{run}");
        assert_eq!(run.stderr, "");
        if tiers()[0].name == "avx512vnni" {
            assert_taken(run.stats(), &all());
        }
    }
}

#[test]
fn kill_switch_passthrough_and_kernels_off_leave_them_to_ggml() {
    let dir = work_dir();
    let program = linked(&dir);
    let run = native(Program::preloaded(&program)).var("ZEN5TURBO", "0").run().success();
    assert_eq!((redirected(&run), run.stderr.as_str()), (all(), ""));
    let run = native(Program::engaged(&program)).knob("KERNELS", "off").run().success();
    assert_taken(run.stats(), &[]);
    assert_left(run.stats(), &all(), "kernels_off");
    let run = native(Program::preloaded(&program)).on(ZEN5).knob("GATE", "passthrough").with_stats().run().success();
    assert_eq!(redirected(&run), all());
    assert_taken(run.stats(), &[]);
    assert_left(run.stats(), &all(), "gate_passthrough");
}

/// A library whose function does something else, or is too old to be known, is called unchanged.
#[test]
fn functions_that_differ_or_are_not_known_are_left_alone() {
    for (option, reason) in [("", "original_differs"), ("-DOLD", "signature_unknown")] {
        let dir = work_dir();
        let library = Fixture::new("direct_other").options("-shared -fPIC").options(option);
        let library = library.build(&dir, "libggml-other.so");
        let program = Fixture::new("direct_other").options("-DPROGRAM").path_option("-Wl,-rpath,", dir.path());
        let program = program.path_option("", &library).build(&dir, "program");
        let run = Program::engaged(program).run().success();
        assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("2 4 6\n", ""));
        assert_eq!(run.stats().number("/direct/dequantize_row_q8_0/taken"), 0);
        assert_left(run.stats(), &["dequantize_row_q8_0"], reason);
    }
}

/// A program that computes products as ggml did before December 2024; `options` are those of its library.
fn products(dir: &TempDir, options: &str) -> PathBuf {
    let base = llama("libggml-base.so");
    let built = |fixture: Fixture| fixture.ggml_headers().path_option("-Wl,-rpath,", base.parent().expect("a folder"));
    let library = built(Fixture::new("sgemm").options("-DLIBRARY -shared -fPIC -Wl,--no-as-needed").options(options));
    let library = library.path_option("", &base).build(dir, "libggml-old.so");
    let program = built(Fixture::new("sgemm")).path_option("-Wl,-rpath,", dir.path()).options("-Wl,--no-as-needed");
    program.path_option("", &library).path_option("", &base).options("-lm").build(dir, "products")
}

#[test]
fn products_of_a_ggml_without_the_operation_hook_are_computed_through_llamafile_sgemm() {
    let dir = work_dir();
    let program = products(&dir, "");
    assert_eq!(Program::new(&program).run().success().stdout, "0 computed, 193 left, 0 failures\n");
    for tier in tiers() {
        let run = Program::engaged(&program).knob("KERNELS", tier.knob).run().success();
        assert_eq!(run.stderr, "");
        let stats = run.stats();
        if tier.name == "scalar" {
            assert_eq!(run.stdout, "0 computed, 193 left, 0 failures\n");
            assert_left(stats, &["llamafile_sgemm"], "stock_is_faster");
            continue;
        }
        assert_eq!(run.stdout, "192 computed, 1 left, 0 failures\n");
        assert_eq!(stats.number("/direct/llamafile_sgemm/taken"), 192);
        for ty in ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_K", "q3_K", "q4_K", "q5_K", "q6_K", "iq4_nl", "iq4_xs"] {
            assert_eq!(stats.taken("MUL_MAT", Some(ty)), 16, "{ty}\n{stats}");
        }
        stats.assert_healthy();
    }
}

#[test]
fn llamafile_sgemm_of_other_builds_is_left_alone() {
    for (options, reason) in [("-DNEWER", "signature_unknown"), ("-DREFUSES", "original_differs")] {
        let dir = work_dir();
        let run = Program::engaged(products(&dir, options)).run().success();
        assert_eq!(run.stdout, "0 computed, 193 left, 0 failures\n");
        // With the operation hook, which is all that this ggml has, it is told that nothing is taken over.
        assert_eq!(run.shim_lines().len(), usize::from(options == "-DNEWER"), "{run}");
        assert_left(run.stats(), &["llamafile_sgemm"], reason);
    }
}

/// Products of repacked weights, by type, and how many fixtures/repacked.c computes that are large enough.
const REPACKED: [(&str, u64); 5] = [
    ("q4_0_8x8_q8_0", 352),
    ("q4_K_8x8_q8_K", 128),
    ("q2_K_8x8_q8_K", 128),
    ("iq4_nl_8x8_q8_0", 352),
    ("mxfp4_8x8_q8_0", 352),
];

#[test]
fn products_of_repacked_weights_are_those_of_ggml_but_for_the_order_of_additions() {
    let dir = work_dir();
    let program = Fixture::new("repacked").linked_with_ggml().build(&dir, "repacked");
    let run = |program: Program| program.arg(llama("libggml-cpu.so")).run().success();
    let stock = run(Program::new(&program)).stdout;
    for tier in tiers() {
        let run = run(Program::engaged(&program).knob("KERNELS", tier.knob));
        assert_eq!((run.stdout.as_str(), run.stderr.as_str()), (stock.as_str(), ""));
        for (name, large) in REPACKED {
            let expected = if tier.name == "scalar" { 0 } else { large };
            assert_eq!(run.stats().number(&format!("/direct/ggml_gemm_{name}/taken")), expected, "{}", run.stats());
            assert_left(run.stats(), &[&format!("ggml_gemv_{name}")], "stock_is_faster");
        }
        run.stats().assert_healthy();
    }
}

/// Repacked as it is by default without the shim, the prompt goes through these functions.
#[test]
fn answers_with_repacked_weights_are_as_close_to_stock_as_two_paths_of_stock() {
    let perplexity = llama("llama-perplexity");
    let (run, _) = compare_with_stock(&perplexity, 4, "", |path| Program::engaged(path).knob("REPACK", "keep"));
    assert!(run.stats().number("/direct/ggml_gemm_q4_K_8x8_q8_K/taken") > 500, "{}", run.stats());
}

#[test]
fn products_of_repacked_weights_that_differ_or_are_not_known_are_left_alone() {
    let base = llama("libggml-base.so");
    let linked = |fixture: Fixture| {
        let fixture = fixture.path_option("-Wl,-rpath,", base.parent().expect("a folder"));
        fixture.options("-Wl,--no-as-needed").path_option("", &base)
    };
    for (option, reason) in [("", "original_differs"), ("-DOLD", "signature_unknown")] {
        let dir = work_dir();
        let library = linked(Fixture::new("repacked_other").options("-shared -fPIC").options(option));
        let library = library.build(&dir, "libggml-other.so");
        let program =
            linked(Fixture::new("repacked_other").options("-DPROGRAM")).path_option("-Wl,-rpath,", dir.path());
        let run = Program::engaged(program.path_option("", &library).build(&dir, "program")).run().success();
        assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("0 44\n", ""));
        assert_eq!(run.stats().number("/direct/ggml_gemm_q4_K_8x8_q8_K/taken"), 0);
        assert_left(run.stats(), &["ggml_gemm_q4_K_8x8_q8_K"], reason);
    }
}
