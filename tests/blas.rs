//! `ZEN5TURBO_BLAS`: the products of a ggml built with OpenBLAS, computed by a BLIS library.

use std::path::{Path, PathBuf};

use zen5turbo_tests::distance::compare_with_stock;
use zen5turbo_tests::{Fixture, MILAN, Outcome, Program, ZEN5, gemma, need, work_dir};

/// Debian's libblis4-pthread.
const BLIS: &str = "/usr/lib/x86_64-linux-gnu/blis-pthread/libblis.so.4";

fn program(name: &str) -> PathBuf {
    need(Path::new(".deps/llama.cpp-blas/bin").join(name), "scripts/setup.sh builds")
}

/// A prompt of 64 tokens, whose products ggml gives to BLAS.
fn bench(start: fn(PathBuf) -> Program, library: &str) -> Outcome {
    let program = start(program("llama-bench")).arg("-m").arg(gemma()).args("-p 64 -n 0 -r 1 -t 2 --no-warmup");
    program.knob("BLAS", library).run().success()
}

#[test]
fn debians_blis_computes_what_openblas_would() {
    let blis = need(BLIS, "scripts/setup.sh builds");
    let (ours, _) = compare_with_stock(&program("llama-perplexity"), 1, "", |path| {
        Program::engaged(path).var("ZEN5TURBO_BLAS", &blis).knob("LOG", "info").knob("REPACK", "off")
    });
    // One chunk, 18 layers of seven products.
    assert!(ours.stats().number("/blas/calls") > 18 * 6, "{}", ours.stats());
    assert!(ours.shim_lines().iter().any(|line| line.starts_with("cblas_sgemm is sent to /usr/lib/")), "{ours}");
}

/// BLIS's own calls between its functions stay in it, although OpenBLAS has functions of the same names.
#[test]
fn the_library_is_opened_for_itself_and_told_the_threads() {
    let dir = work_dir();
    let fake = Fixture::new("fake_blis").options("-shared -fPIC").build(&dir, "libfake.so");
    let run = bench(Program::engaged, &fake.to_string_lossy());
    assert!(run.stderr.contains("fake BLIS: called, threads 2"), "{run}");
    assert!(run.stats().number("/blas/calls") > 10, "{}", run.stats());
    assert_eq!(run.shim_lines(), [""; 0]);
    let run = bench(|path| Program::engaged(path).var("BLIS_NUM_THREADS", "1"), &fake.to_string_lossy());
    assert!(run.stderr.contains("fake BLIS: called, threads 0"), "{run}");
}

/// Only AMD's own library knows architectures by name.
#[test]
fn amds_library_is_told_that_the_cpu_is_a_zen5() {
    let dir = work_dir();
    let aocl = Fixture::new("fake_blis").options("-shared -fPIC -DVERSION=\"AOCL-BLIS\"").build(&dir, "libaocl.so");
    let fake = Fixture::new("fake_blis").options("-shared -fPIC").build(&dir, "libfake.so");
    let on_zen5: fn(PathBuf) -> Program = |path| Program::engaged(path).on(ZEN5);
    let on_milan: fn(PathBuf) -> Program = |path| Program::engaged(path).on(MILAN);
    for (start, library, architecture) in
        [(on_zen5, &aocl, "zen5"), (on_milan, &aocl, "not set"), (on_zen5, &fake, "not set")]
    {
        let run = bench(start, &library.to_string_lossy());
        assert!(run.stderr.contains(&format!("architecture {architecture}\n")), "{run}");
    }
}

#[test]
fn a_library_that_cannot_be_used_is_one_line_and_the_programs_own_computes() {
    let dir = work_dir();
    let wide = Fixture::new("fake_blis").options("-shared -fPIC -DINT_BITS=64").build(&dir, "libwide.so");
    for (library, reason, says) in [
        ("/nowhere/libblis.so", "blas_not_loaded", "cannot be opened"),
        ("/lib/x86_64-linux-gnu/libm.so.6", "blas_symbols_missing", "it has no cblas_sgemm"),
        (&*wide.to_string_lossy(), "blas_integers_differ", "64 bits"),
    ] {
        let run = bench(Program::engaged, library);
        assert!(run.stdout.contains("pp64"), "{run}");
        let lines = run.shim_lines();
        assert!(lines.len() == 1 && lines[0].contains(says) && lines[0].contains("the program's own"), "{run}");
        let stats = run.stats();
        assert_eq!((stats.events(reason), stats.number("/blas/calls")), (1, 0), "{stats}");
        stats.assert_healthy();
    }
}

#[test]
fn the_library_is_not_opened_where_the_shim_does_nothing() {
    let dir = work_dir();
    let fake = Fixture::new("fake_blis").options("-shared -fPIC").build(&dir, "libfake.so");
    let off: [fn(PathBuf) -> Program; 3] = [
        |path| Program::preloaded(path).var("ZEN5TURBO", "0"),
        |path| Program::preloaded(path).knob("GATE", "passthrough").on(ZEN5),
        |path| Program::preloaded(path).knob("GATE", "passthrough").on(MILAN),
    ];
    for start in off {
        let run = bench(start, &fake.to_string_lossy());
        assert!(run.stdout.contains("pp64") && !run.stderr.contains("fake BLIS"), "{run}");
    }
    // A program without ggml, whose BLAS stays its own.
    let source = Fixture::new("own_blas").options("-lopenblas").build(&dir, "own_blas");
    let run = Program::preloaded(source).var("ZEN5TURBO_BLAS", &fake).run().success();
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("22 28 49 64\n", ""), "{run}");
}
