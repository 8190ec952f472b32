//! A program with the shim behaves as without it: what it starts, its signals, its threads, other preloaded
//! libraries, sanitizers, a whole shell. Forked children that compute, and preloading twice: `processes.rs`.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use zen5turbo_tests::{
    Fixture, Outcome, Program, dl_backends, gemma, llama, llama_dl, need, reopened, root, shim, work_dir,
};

/// The value of `LD_PRELOAD` that lists these.
fn list(libraries: [&Path; 2]) -> String {
    libraries.map(|path| path.display().to_string()).join(":")
}

/// The shim before and after `other`.
fn both_orders(other: &Path) -> [String; 2] {
    [list([&shim(), other]), list([other, &shim()])]
}

fn with_ggml(dir: &TempDir, name: &str) -> PathBuf {
    Fixture::new(name).linked_with_ggml().build(dir, name)
}

/// Fails the test unless the program took products over and had no trouble.
fn assert_took_over(run: &Outcome) {
    assert!(run.stats().taken("MUL_MAT", None) > 0, "{run}\n{}", run.stats());
    run.stats().assert_healthy();
    assert_eq!(run.shim_lines(), [""; 0], "{run}");
}

#[test]
fn programs_are_started_in_every_way_while_a_thread_computes() {
    let dir = work_dir();
    let program = with_ggml(&dir, "spawning");
    let stock = Program::new(&program).run().success();
    assert_eq!(stock.stdout.lines().last(), Some("0 failures"), "{stock}");
    let run = Program::engaged(&program).run().success();
    assert_eq!((&run.stdout, &run.stderr), (&stock.stdout, &stock.stderr));
    assert_took_over(&run);
}

#[test]
fn signals_arrive_as_before_and_their_state_is_the_programs() {
    let dir = work_dir();
    let program = with_ggml(&dir, "signalled");
    let stock = Program::new(&program).run().success();
    assert_eq!(stock.stdout.lines().last(), Some("0 failures"), "{stock}");
    let run = Program::engaged(&program).run().success();
    assert_eq!((&run.stdout, &run.stderr), (&stock.stdout, &stock.stderr));
    assert_took_over(&run);
}

#[test]
fn threads_that_are_older_than_the_shim_or_than_ggml_work_on() {
    let dir = work_dir();
    let busy = Fixture::new("busy").options("-shared -fPIC -fno-builtin").build(&dir, "busy.so");
    let linked = with_ggml(&dir, "one_product");
    let late = Fixture::new("opened_late").ggml_headers().options("-lm").build(&dir, "opened_late");
    for preload in both_orders(&busy) {
        for (program, backends) in [(&linked, Vec::new()), (&late, dl_backends())] {
            for (malloc, memcpy) in [("off", "off"), ("65536", "65536")] {
                let run = backends.iter().fold(Program::engaged(program), |p, backend| p.arg(backend));
                let run = run.knob("MALLOC", malloc).knob("MEMCPY", memcpy).var("LD_PRELOAD", &preload).run().success();
                assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("computed\n", ""), "{run}");
                assert_took_over(&run);
            }
        }
    }
}

#[test]
fn backends_that_come_and_go_leave_no_mapping_and_no_descriptor() {
    let dir = work_dir();
    let run = reopened(&dir, Program::engaged, 60).run().success();
    let words: Vec<_> = run.stdout.split_whitespace().collect();
    let added = |name: &str| -> i64 {
        let at = words.iter().position(|word| *word == name).unwrap_or_else(|| panic!("{run}"));
        words[at + 1].parse().unwrap_or_else(|_| panic!("{run}"))
    };
    assert!(added("computed") >= 60 && added("mappings") <= 4 && added("descriptors") <= 0, "{run}");
    assert_took_over(&run);
}

/// The backend's calls then never reach a preloaded library.
#[test]
fn a_backend_that_binds_to_itself_first_computes_as_without_the_shim() {
    let dir = work_dir();
    let program = Fixture::new("opened_late").ggml_headers().options("-lm").build(&dir, "opened_late");
    let run = dl_backends().iter().fold(Program::engaged(program), |p, backend| p.arg(backend));
    let run = run.var("DEEPBIND", "1").run().success();
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("computed\n", ""));
    assert!(!run.has_stats(), "{}", run.stats());
}

/// As with `-ngl`: what a device computes never comes here, and its memory, which the CPU cannot touch, is left alone.
#[test]
fn beside_a_device_only_the_products_of_the_cpu_are_taken() {
    let dir = work_dir();
    let run = Program::engaged(with_ggml(&dir, "hybrid")).run().success();
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("device 9, CPU 9\n0 failures\n", ""));
    assert_took_over(&run);
    let products = run.stats().taken("MUL_MAT", None) + run.stats().declined("MUL_MAT", None).values().sum::<u64>();
    assert_eq!(products, 9, "{}", run.stats());
}

/// Debian's builds, before and after the shim; the answer is the one with glibc's own.
#[test]
fn other_allocators_serve_a_real_program_in_both_orders() {
    let generation = |file: PathBuf| {
        Program::engaged(file)
            .arg("-m")
            .arg(gemma())
            .args("-no-cnv --no-warmup --temp 0 --seed 1 -c 512 -b 64 -ub 64 -t 2 -n 12 -p Berlin")
    };
    let plain = generation(llama("llama-completion")).run().success();
    assert!(plain.stdout.contains("Berlin"), "{plain}");
    for name in ["libjemalloc.so.2", "libmimalloc.so.2"] {
        let other = need(Path::new("/usr/lib/x86_64-linux-gnu").join(name), "scripts/setup.sh preloads");
        for (preload, file) in both_orders(&other).iter().zip([llama("llama-completion"), llama_dl("llama-completion")])
        {
            let run = generation(file).var("LD_PRELOAD", preload).knob("MALLOC", "auto").run().success();
            assert_eq!(run.stdout, plain.stdout, "{preload}");
            // An allocator before the shim answers every call itself.
            let below = u64::from(preload.starts_with(&*shim().to_string_lossy()));
            assert_eq!(run.stats().events("foreign_allocator"), below, "{preload}\n{}", run.stats());
            assert_eq!(run.stats().number("/memory/heap/count"), 0, "{preload}");
            assert_took_over(&run);
        }
    }
}

/// GCC's AddressSanitizer as a shared library, which is how `gcc -fsanitize=address` links it.
fn address_sanitizer() -> PathBuf {
    let output = Command::new("cc").arg("-print-file-name=libasan.so").output().expect("cc can be started");
    let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    assert!(path.is_absolute(), "cc has no libasan.so; run: scripts/setup.sh shim");
    path
}

/// Leaks of the program are not looked for: that needs ptrace, which containers may not have.
fn sanitized(program: &Path) -> Program {
    Program::engaged(program).var("ASAN_OPTIONS", "detect_leaks=0")
}

#[test]
fn a_sanitized_program_refuses_the_shim_in_its_own_words_or_runs_after_the_sanitizer() {
    let dir = work_dir();
    let plain = Fixture::new("sanitized").options("-fsanitize=address -O1").build(&dir, "sanitized");
    let linked = Fixture::new("one_product").linked_with_ggml().options("-fsanitize=address -O1");
    let linked = linked.build(&dir, "one_product");
    let after = list([&address_sanitizer(), &shim()]);
    for (program, output) in [(&plain, "ok\n"), (&linked, "computed\n")] {
        let refused = sanitized(program).run().exit(1);
        assert!(refused.stderr.contains("ASan runtime does not come first"), "{refused}");
        assert_eq!(refused.stdout, "");
        let run = sanitized(program).var("LD_PRELOAD", &after).run().success();
        assert_eq!((run.stdout.as_str(), run.stderr.as_str()), (output, ""), "{run}");
        // Told not to insist, it runs below the shim, too.
        let run = sanitized(program).var("ASAN_OPTIONS", "detect_leaks=0:verify_asan_link_order=0").run().success();
        assert_eq!((run.stdout.as_str(), run.stderr.as_str()), (output, ""), "{run}");
    }
    let run = sanitized(&plain).arg("overflow").var("LD_PRELOAD", &after).run().exit(1);
    assert!(run.stderr.contains("heap-buffer-overflow") && run.stderr.contains("sanitized.c"), "{run}");
}

#[test]
fn a_sanitizer_linked_into_the_program_runs_with_the_shim() {
    let dir = work_dir();
    let program = Fixture::new("sanitized").options("-fsanitize=address -static-libasan -O1").build(&dir, "static");
    let run = sanitized(&program).run().success();
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("ok\n", ""), "{run}");
    let run = sanitized(&program).arg("overflow").run().exit(1);
    assert!(run.stderr.contains("heap-buffer-overflow"), "{run}");
}

/// The gate is strict here, as it is by default: no program of a shell has ggml.
#[test]
fn a_whole_shell_writes_what_it_writes_without_the_shim() {
    let script = root().join("tests/fixtures/shell.sh");
    let shell = |shell: &str, start: fn(PathBuf) -> Program| {
        let dir = work_dir();
        let run = start(PathBuf::from(shell)).arg(&script).arg(dir.path()).var("LC_ALL", "C").run().exit(9);
        (run.stdout, run.stderr)
    };
    let stock = shell("/bin/sh", Program::new);
    assert!(stock.0.lines().count() > 25 && stock.1 == "to stderr\n", "{}\n{}", stock.0, stock.1);
    assert_eq!(shell("/bin/sh", Program::preloaded), stock);
    assert_eq!(shell("/bin/bash", Program::preloaded), stock);
}
