//! `zen5turbo doctor` on the layouts in which ggml is published: a small ggml in each of them, and the verdict against what
//! happens under the shim.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use zen5turbo_tests::{Fixture, Outcome, Program, Waiting, command, fake_ggml, shim, work_dir};

fn doctor(target: impl AsRef<Path>) -> Outcome {
    Program::new(command()).arg("doctor").arg("--lib").arg(shim()).args("--gate off").arg(target.as_ref()).run()
}

fn verdict(run: &Outcome) -> &str {
    run.stdout.lines().last().unwrap_or_default()
}

fn engages(target: impl AsRef<Path>) -> Outcome {
    let run = doctor(target).success();
    assert_eq!(verdict(&run), "verdict: will engage", "{run}");
    run
}

/// A folder with libggml-base.so, and a program that is linked with it alone. `text` is kept in the library.
fn base_and_program(text: &str) -> (TempDir, PathBuf) {
    let dir = work_dir();
    let source = dir.path().join("text.c");
    fs::write(&source, format!("const char fake_text_kept[] = \"{text}\";\n")).expect("a new file");
    let base = Fixture::new("fake_ggml_base")
        .ggml_headers()
        .path_option("", &source)
        .options("-shared -fPIC -Wl,-soname,libggml-base.so")
        .build(&dir, "libggml-base.so");
    let program = Fixture::new("only_base")
        .options("-Wl,--no-as-needed")
        .path_option("-Wl,-rpath,", dir.path())
        .path_option("", &base)
        .build(&dir, "program");
    (dir, program)
}

/// Puts a CPU backend at `path`.
fn backend(dir: &TempDir, path: &Path) {
    fs::create_dir_all(path.with_file_name("")).expect("a new folder");
    let cpu = Fixture::new("fake_ggml_cpu").and("fake_ggml_extra").ggml_headers();
    let cpu = cpu.options("-shared -fPIC -Wl,--no-as-needed").path_option("-Wl,-rpath,", dir.path());
    let built = cpu.path_option("", &dir.path().join("libggml-base.so")).build(dir, "backend.so");
    fs::rename(built, path).expect("within one folder");
}

/// Debian: `/usr/lib/x86_64-linux-gnu/ggml/backends0/libggml-cpu-zen4.so`.
#[test]
fn backends_in_a_folder_beside_the_library_are_found() {
    let (dir, program) = base_and_program("");
    for name in ["zen4", "haswell", "x64"] {
        backend(&dir, &dir.path().join(format!("ggml/backends0/libggml-cpu-{name}.so")));
    }
    let run = engages(&program);
    let lines = run.stdout.lines().filter(|line| line.contains("ggml:libggml-cpu-*.so (3)")).count();
    assert_eq!(lines, 1, "variants are one line: {run}");
}

/// `GGML_BACKEND_DIR`, which is compiled into the library that opens backends.
#[test]
fn backends_in_the_folder_that_the_library_names_are_found() {
    let elsewhere = work_dir();
    let folder = elsewhere.path().join("backends");
    let (dir, program) = base_and_program(&folder.display().to_string());
    backend(&dir, &folder.join("libggml-cpu.so"));
    let run = engages(&program);
    assert!(run.stdout.contains("(opened at run time)"), "{run}");
}

/// A module whose backends lie elsewhere: what it names of ggml is no ggml inside it.
#[test]
fn a_program_whose_backend_is_not_found_is_not_known_and_run_starts_it() {
    let (dir, program) = base_and_program("");
    let run = doctor(&program).exit(1);
    assert!(verdict(&run).starts_with("verdict: not known: "), "{run}");
    assert!(
        verdict(&run).contains("its CPU backend was found neither") && !run.stdout.contains("static build"),
        "{run}"
    );
    let elsewhere = work_dir();
    let hidden = elsewhere.path().join("libggml-cpu.so");
    backend(&dir, &hidden);
    let run =
        Program::new(command()).args("run --gate off --lib").arg(shim()).arg("--").arg(&program).arg(&hidden).run();
    let run = run.success();
    assert!(run.stdout.contains("a tensor takes") && run.stderr.contains("is not known"), "{run}");
}

/// `libggml-cpu-67036419.so.0.13.1`, as auditwheel names it; links and copies of it are told once.
#[test]
fn versioned_names_and_copies_are_one_library() {
    let (dir, _) = base_and_program("");
    let real = dir.path().join("libggml-cpu-67036419.so.0.13.1");
    backend(&dir, &real);
    std::os::unix::fs::symlink(&real, dir.path().join("libggml-cpu-67036419.so.0")).expect("a new link");
    fs::remove_file(dir.path().join("program")).expect("it was built");
    let run = engages(dir.path());
    assert_eq!(run.stdout.matches("\nprogram ").count(), 1, "{run}");
}

/// xllamacpp, llama-cpp-cffi, @fugood/llama.node: all of ggml inside an extension module.
#[test]
fn a_module_with_ggml_inside_offers_all_hooks_and_its_process_has_engaged() {
    let dir = work_dir();
    let module = Fixture::new("fake_ggml_base")
        .and("fake_ggml_cpu")
        .and("fake_ggml_extra")
        .ggml_headers()
        .options("-shared -fPIC -Wl,-soname,_module.abi3.so")
        .build(&dir, "_module.abi3.so");
    let run = engages(&module);
    assert!(!run.stdout.contains("hook:ggml_cpu_extra_work_size"), "no false alarm: {run}");
    let _ = engages(dir.path());
    let program = Fixture::new("fake_program")
        .ggml_headers()
        .options("-Wl,--no-as-needed")
        .path_option("-Wl,-rpath,", dir.path())
        .path_option("", &module)
        .build(&dir, "program");
    let run = Program::engaged(&program).run().success();
    assert_eq!(run.stats().taken("MUL_MAT", Some("q8_0")), 2, "{run}");
    let process = {
        let shim = shim();
        let vars = [("LD_PRELOAD", shim.to_str().expect("UTF-8")), ("ZEN5TURBO_GATE", "off")];
        Waiting::start(&program, &[], &vars)
    };
    let run = doctor(process.pid().to_string()).success();
    assert!(run.stdout.contains("active: _module.abi3.so calls the shim"), "{run}");
    assert_eq!(verdict(&run), "verdict: has engaged", "{run}");
    let all = Program::new(command()).args("doctor --all").run();
    let part = all.stdout.split("process ").find(|part| part.starts_with(&format!("{} ", process.pid())));
    assert!(
        part.is_some_and(|part| part.contains("has engaged") && part.contains("libzen5turbo.so is loaded")),
        "{all}"
    );
}

/// gpt4all: no hook, and products that go through llamafile_sgemm.
#[test]
fn a_ggml_without_the_hook_is_reached_in_part_when_its_products_can_be() {
    let dir = work_dir();
    let library = |more: &str, name: &str| {
        let parts = Fixture::new("fake_ggml_base").and("fake_ggml_cpu").and("fake_ggml_extra");
        let parts = if more.is_empty() { parts } else { parts.and(more) };
        parts.ggml_headers().options("-DBEFORE_HOOK -shared -fPIC").build(&dir, name)
    };
    let run = engages(library("fake_sgemm", "libmodel.so"));
    assert!(
        run.stdout.contains("limited program.ggml") && run.stdout.contains("calls through the loader: llamafile_sgemm"),
        "{run}"
    );
    // A fork such as ik_llama.cpp.
    let run = doctor(library("", "libggml.so")).exit(1);
    assert!(verdict(&run).contains("or a fork without it; only functions for single rows"), "{run}");
}

/// One set of findings for all programs of a build.
#[test]
fn a_folder_of_programs_that_fail_alike_is_told_once() {
    let (dir, program) = fake_ggml("", "-Wl,-Bsymbolic");
    for name in ["llama-cli", "llama-server", "llama-bench"] {
        fs::copy(&program, dir.path().join(name)).expect("a new file");
    }
    let run = doctor(dir.path()).exit(1);
    assert_eq!(run.stdout.matches("\nprogram ").count(), 1, "{run}");
    assert!(run.stdout.contains("llama-cli, llama-server, program"), "{run}");
}
