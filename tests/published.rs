//! Builds of llama.cpp as others publish them: what doctor says of each, against what happens under the shim.
//!
//! `scripts/setup.sh published` fetches them. One that this machine cannot run is told by the test that skips it.

use std::fs;
use std::path::{Path, PathBuf};

use zen5turbo_tests::{
    Debian, Need, Outcome, Program, Stats, archive, command, gemma, need, package_name, shim, skip, smollm2, work_dir,
};

const PROMPT: &str = "The capital of France is";

/// Tokens that are generated.
const COUNT: &str = "12";

fn published(name: &str) -> PathBuf {
    need(Path::new(".deps/published").join(name), "scripts/setup.sh published")
}

fn doctor(target: &Path) -> Outcome {
    Program::new(command()).arg("doctor").arg("--lib").arg(shim()).args("--gate off").arg(target).run()
}

fn verdict(run: &Outcome) -> &str {
    run.stdout.lines().last().unwrap_or_default()
}

/// The weight types of Gemma were taken over, and nothing of theirs was left.
fn assert_engaged(stats: &Stats) {
    for ty in ["q4_K", "q5_0", "q6_K", "q8_0"] {
        assert!(stats.taken("MUL_MAT", Some(ty)) > 0, "{ty} was not taken\n{stats}");
        assert!(stats.declined("MUL_MAT", Some(ty)).is_empty(), "{ty} was declined\n{stats}");
    }
    stats.assert_healthy();
}

/// The program without and with the shim: both continue the text, and the shim computes.
fn assert_continues(program: impl Fn(Program) -> Program, start: &Path) {
    let stock = program(Program::new(start)).run().success();
    let ours = program(Program::engaged(start)).run().success();
    let words = |run: &Outcome| run.stdout.split_whitespace().count();
    assert!(words(&stock) > 4 && words(&ours) > 4, "{stock}\n{ours}");
    println!("same text: {}", stock.stdout == ours.stdout);
    assert_engaged(ours.stats());
}

#[test]
fn xllamacpp_engages() {
    let python = need(".deps/venv/bin/python", "scripts/setup.sh models");
    let folder = published("xllamacpp");
    let run = doctor(&folder.join("xllamacpp")).success();
    assert_eq!(verdict(&run), "verdict: will engage", "{run}");
    assert!(!run.stdout.contains("not called through the loader"), "no false alarm: {run}");
    let script = need("tests/fixtures/published_xllamacpp.py", "git checkout tests");
    let program = |program: Program| {
        program.var("PYTHONPATH", &folder).arg("-B").arg(&script).arg(gemma()).arg(PROMPT).arg(COUNT)
    };
    assert_continues(program, &python);
}

/// Its names have 80 bytes, so that a tensor takes 352 instead of 336.
#[test]
fn llama_node_with_longer_names_engages() {
    let Some(node) = ["/usr/bin/node", "/usr/local/bin/node"].map(Path::new).into_iter().find(|path| path.exists())
    else {
        return skip(Need::Node, "there is no node");
    };
    let module = published("llama.node").join("index.node");
    let run = doctor(&module).success();
    assert!(run.stdout.contains("a tensor takes 384 bytes, with a name of 80 instead of 64"), "{run}");
    let script = need("tests/fixtures/published_node.js", "git checkout tests");
    let program = |program: Program| program.arg(&script).arg(&module).arg(gemma()).arg(PROMPT).arg(COUNT);
    assert_continues(program, node);
}

/// `libggml-cpu-67036419.so.0.13.1` beside its siblings, and copies under three names in the folder above.
#[test]
fn the_libraries_of_pywhispercpp_are_found_under_their_names() {
    for folder in ["pywhispercpp/pywhispercpp.libs", "pywhispercpp"] {
        let run = doctor(&published(folder)).success();
        assert_eq!(verdict(&run), "verdict: will engage", "{run}");
        assert_eq!(run.stdout.matches("\nprogram ").count(), 1, "{run}");
    }
}

/// Whisper "base" without its weights, which whisper.cpp computes as any other: half a minute of sound.
#[test]
fn pywhispercpp_encodes_with_the_products_taken_over() {
    let dir = work_dir();
    let folder = published("pywhispercpp");
    let script = need("tests/fixtures/published_whisper.py", "git checkout tests");
    let encode = |program: Program| {
        let program = program.var("PYTHONPATH", &folder).arg("-B").arg(&script).arg(dir.path().join("model.bin"));
        program.args("q8_0 1").run().success()
    };
    let python = need(".deps/venv/bin/python", "scripts/setup.sh models");
    let (stock, ours) = (encode(Program::new(&python)), encode(Program::engaged(&python)));
    for (who, run) in [("stock", &stock), ("zen5turbo", &ours)] {
        let time = run.stderr.lines().find(|line| line.starts_with("encoded in ")).unwrap_or_else(|| panic!("{run}"));
        println!("{who}: {time}");
        assert_eq!(run.stdout, "encoded 1 times\n", "{run}");
    }
    let stats = ours.stats();
    // Six layers with eight products each.
    assert_eq!(stats.taken("MUL_MAT", Some("q8_0")), 48, "{stats}");
    assert!(stats.declined("MUL_MAT", Some("q8_0")).is_empty(), "{stats}");
    stats.assert_healthy();
}

/// Debian's llama.cpp: shared, 14 variants in `ggml/backends0`, another glibc, and our Debian package.
#[test]
fn debians_llama_cpp_and_our_package_for_it() {
    let Some(debian) = Debian::new() else { return };
    let package = debian.file(&need(archive().with_file_name(package_name(".deb")), "scripts/package.sh"));
    let model = debian.file(&gemma());
    let run = debian.run(&format!("dpkg -i {package} && zen5turbo --version")).success();
    assert!(run.stdout.contains(concat!("zen5turbo ", env!("CARGO_PKG_VERSION"))), "{run}");
    let run = debian.run("zen5turbo doctor --gate off llama-completion").success();
    assert!(run.stdout.contains("ggml:libggml-cpu-*.so (14)"), "variants are told once: {run}");
    assert_eq!(verdict(&run), "verdict: will engage", "{run}");
    for file in ["/usr/share/bash-completion/completions/zen5turbo", "/usr/share/zsh/vendor-completions/_zen5turbo"] {
        assert!(debian.read(file).contains("doctor"), "{file}");
    }
    let complete =
        format!("llama-completion -m {model} -no-cnv --no-warmup --temp 0 --seed 1 -t 2 -n {COUNT} -p '{PROMPT}'");
    let stock = debian.run(&complete).success();
    let ours = debian.run(&format!("zen5turbo run --gate off --stats /t/stats.json -- {complete}")).success();
    for run in [&stock, &ours] {
        assert!(run.stdout.trim().starts_with(PROMPT) && run.stdout.split_whitespace().count() > 8, "{run}");
    }
    assert_eq!(ours.stderr.lines().count(), stock.stderr.lines().count(), "{stock}\n{ours}");
    assert_engaged(&Stats::parse(&debian.read("/t/stats.json")));
    // The archive, unpacked there: the same command and library from another place.
    let packed = debian.file(&archive());
    let name = concat!("/t/zen5turbo-", env!("CARGO_PKG_VERSION"), "-x86_64-linux/bin/zen5turbo");
    let run = debian.run(&format!("tar -xzf {packed} -C /t && {name} doctor --gate off llama-completion")).success();
    assert_eq!(verdict(&run), "verdict: will engage", "{run}");
    // The newest package on PyPI needs glibc 2.38.
    let folder = debian.file(&published("llama-cpp-py-sync"));
    let script = debian.file(&need("tests/fixtures/published_cffi.py", "git checkout tests"));
    let generate = format!("python3 -B {script} {folder} {model} '{PROMPT}' {COUNT}");
    let stock = debian.run(&generate).success();
    let ours = debian.run(&format!("zen5turbo run --gate off --stats /t/python.json -- {generate}")).success();
    assert_eq!((stock.stdout.lines().count(), ours.stdout.lines().count()), (12, 12), "{stock}\n{ours}");
    assert_engaged(&Stats::parse(&debian.read("/t/python.json")));
}

/// `pip install` of the wheel, without a network.
#[test]
fn the_wheel_gives_the_command_and_the_library() {
    let wheel = need(archive().with_file_name(package_name(".whl")), "scripts/package.sh");
    let dir = work_dir();
    let env = dir.path().join("venv");
    let python = need(".deps/venv/bin/python", "scripts/setup.sh models");
    let _ = Program::new(python).args("-m venv").arg(&env).run().success();
    let bin = env.join("bin");
    let _ = Program::new(bin.join("python")).args("-m pip install --quiet --no-index").arg(&wheel).run().success();
    let run = Program::new(bin.join("zen5turbo")).args("doctor --gate off").run().success();
    assert!(run.stdout.contains("lib/libzen5turbo.so"), "{run}");
    let run = Program::new(bin.join("python")).args("-m zen5turbo completions bash").run().success();
    assert!(run.stdout.contains("_zen5turbo"), "{run}");
    let run =
        Program::new(bin.join("python")).arg("-c").arg("import zen5turbo; print(zen5turbo.path())").run().success();
    let library = PathBuf::from(run.stdout.trim());
    assert!(library.starts_with(&env) && library.is_file(), "{run}");
    let stats = dir.path().join("stats.json");
    let complete = need(".deps/llama.cpp/bin/llama-completion", "scripts/setup.sh llama");
    let run = Program::new(bin.join("python"))
        .args("-m zen5turbo run --gate off --stats")
        .arg(&stats)
        .arg("--")
        .arg(complete);
    let run =
        run.arg("-m").arg(smollm2()).args("-no-cnv --no-warmup --temp 0 -t 2 -n 4 -p").arg(PROMPT).run().success();
    assert!(run.stdout.trim().starts_with(PROMPT), "{run}");
    let stats = Stats::parse(&fs::read_to_string(&stats).expect("the statistics were written"));
    assert!(stats.taken("MUL_MAT", Some("q4_1")) > 0, "{stats}");
}

/// What is handed on has its checksum, and a name and a version of its own.
#[test]
fn every_package_has_its_checksum() {
    let dist = archive().with_file_name("");
    let sums = fs::read_to_string(dist.join("SHA256SUMS")).expect("scripts/package.sh writes it");
    for name in [
        archive().file_name().expect("a file").to_string_lossy().into_owned(),
        package_name(".deb"),
        package_name(".whl"),
    ] {
        assert_eq!(sums.lines().filter(|line| line.ends_with(&format!("  {name}"))).count(), 1, "{name} in\n{sums}");
    }
    let check = Program::new("/bin/sh").arg("-c").arg("cd \"$0\" && sha256sum --check --quiet SHA256SUMS").arg(&dist);
    let _ = check.run().success();
}
