//! C programs and libraries, compiled when a test runs and kept below the target folder.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::key::Key;
use crate::{Program, llama, root};

/// A new folder below the build's own, removed with the value.
#[must_use]
pub fn work_dir() -> TempDir {
    let tmp = target().join("tmp");
    std::fs::create_dir_all(&tmp).expect("the target folder is writable");
    tempfile::tempdir_in(tmp).expect("a folder can be made there")
}

/// The build's own folder.
pub(crate) fn target() -> PathBuf {
    let program = std::env::current_exe().expect("the test program has a path");
    // TARGET/PROFILE/deps/PROGRAM
    program.ancestors().nth(3).expect("the test program lies in a target folder").to_owned()
}

/// The folder of ggml's public headers.
#[must_use]
pub fn ggml_headers() -> PathBuf {
    crate::need(".deps/llama.cpp/src/ggml/include", "scripts/setup.sh llama")
}

/// A C or C++ source of the folder `fixtures`, to be compiled.
pub struct Fixture {
    sources: Vec<PathBuf>,
    options: Vec<OsString>,
    /// What options name: folders and files that the result depends on.
    paths: Vec<PathBuf>,
}

impl Fixture {
    /// `fixtures/NAME.c`; a name with an ending is that file's.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { sources: vec![source(name)], options: Vec::new(), paths: Vec::new() }
    }

    /// One more source.
    #[must_use]
    pub fn and(mut self, name: &str) -> Self {
        self.sources.push(source(name));
        self
    }

    /// Options of the compiler, separated by blanks. They come after the source.
    #[must_use]
    pub fn options(mut self, text: &str) -> Self {
        self.options.extend(text.split_whitespace().map(OsString::from));
        self
    }

    /// One option that holds a path.
    #[must_use]
    pub fn path_option(mut self, option: &str, path: &Path) -> Self {
        let mut option = OsString::from(option);
        option.push(path);
        self.options.push(option);
        self.paths.push(path.to_owned());
        self
    }

    /// The headers of ggml, without its libraries.
    #[must_use]
    pub fn ggml_headers(self) -> Self {
        self.path_option("-I", &ggml_headers())
    }

    /// Linked with the CPU backend of the stock build, as programs usually are.
    #[must_use]
    pub fn linked_with_ggml(self) -> Self {
        let folder = llama("libggml-cpu.so").with_file_name("");
        self.ggml_headers()
            .path_option("-L", &folder)
            .path_option("-Wl,-rpath,", &folder)
            .options("-Wl,--no-as-needed -lggml-cpu -lggml-base -lm")
    }

    /// Linked with libllama of the stock build, and with what that needs.
    #[must_use]
    pub fn linked_with_llama(self) -> Self {
        let headers = crate::need(".deps/llama.cpp/src/include", "scripts/setup.sh llama");
        self.path_option("-I", &headers).linked_with_ggml().options("-lllama -lggml")
    }

    /// Linked with the CPU backend for AVX2, for the emulated machine. It is made to be opened, but
    /// links as well.
    #[must_use]
    pub fn linked_with_avx2(self) -> Self {
        let folder = crate::dl_backend_avx2().with_file_name("");
        self.ggml_headers()
            .path_option("-L", &folder)
            .path_option("-Wl,-rpath,", &folder)
            .options("-Wl,--no-as-needed -l:libggml-cpu-haswell.so -lggml-base -lm")
    }

    /// Compiles into `dir/output`, or copies there what an earlier test made of the same sources by the same compiler. A
    /// library when the options say so.
    #[must_use]
    pub fn build(self, dir: &TempDir, output: &str) -> PathBuf {
        let path = dir.path().join(output);
        let is_cpp = self.sources.iter().any(|source| source.extension().is_some_and(|e| e == "cc"));
        let (compiler, standard) = if is_cpp { ("c++", "-std=gnu++17") } else { ("cc", "-std=gnu11") };
        let mut cc = Command::new(compiler);
        cc.args([standard, "-O2", "-g", "-Wall", "-Wextra", "-Werror"]);
        cc.args(&self.sources).args(&self.options).arg("-lpthread").arg("-ldl");
        let Some(kept) = self.kept(&cc) else {
            compile(cc, &path);
            return path;
        };
        if !kept.exists() {
            std::fs::create_dir_all(kept.with_file_name("")).expect("the target folder is writable");
            let part = tempfile::tempdir_in(kept.with_file_name("")).expect("a folder can be made there");
            let part = part.path().join("output");
            compile(cc, &part);
            std::fs::rename(part, &kept).expect("within one folder");
        }
        // A copy: some tests change the file's rights. Made by a process of its own, because a child that is forked while
        // this process writes a program inherits the descriptor, and then nobody can start the program.
        let copied = Command::new("cp").arg(&kept).arg(&path).status().expect("cp can be started");
        assert!(copied.success(), "{} cannot be copied", kept.display());
        path
    }

    /// Where the result of this command is kept. `None` where it depends on what another test has made.
    fn kept(&self, cc: &Command) -> Option<PathBuf> {
        let target = target();
        let made = target.join("tmp").to_string_lossy().into_owned();
        if cc.get_args().any(|arg| arg.to_string_lossy().contains(&made)) {
            return None;
        }
        let mut key = Key::new();
        key.text(compiler_version(cc.get_program()));
        cc.get_args().for_each(|arg| key.text(arg));
        for path in &self.paths {
            // Links below .deps name the build that is used.
            let real = path.canonicalize().unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            key.text(&real);
            if real.is_file() {
                key.file(&real);
            }
        }
        self.sources.iter().for_each(|source| key.file(source));
        let headers = std::fs::read_dir(self.sources[0].with_file_name("")).expect("the folder of the fixtures");
        let mut headers: Vec<_> = headers.map(|entry| entry.expect("an entry").path()).collect();
        headers.retain(|path| path.extension().is_some_and(|e| e == "h"));
        headers.sort();
        headers.iter().for_each(|header| key.file(header));
        Some(target.join("fixtures").join(key.name()))
    }
}

fn compile(mut cc: Command, output: &Path) {
    cc.arg("-o").arg(output);
    let result = cc.output();
    let result = result.unwrap_or_else(|e| panic!("{cc:?} cannot be started ({e}); run: scripts/setup.sh shim"));
    assert!(result.status.success(), "{cc:?} failed\n{}", String::from_utf8_lossy(&result.stderr));
}

/// What a compiler says of itself.
fn compiler_version(compiler: &OsStr) -> String {
    let output = Command::new(compiler).arg("--version").output();
    let output = output.unwrap_or_else(|e| panic!("{compiler:?} cannot be started ({e}); run: scripts/setup.sh shim"));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn source(name: &str) -> PathBuf {
    let path = root().join("tests/fixtures").join(name);
    if path.extension().is_some() { path } else { path.with_extension("c") }
}

/// A program that loads the CPU backends made to be opened, computes and unloads them, `rounds` times.
#[must_use]
pub fn reopened(dir: &TempDir, start: impl Fn(PathBuf) -> Program, rounds: u32) -> Program {
    let folder = crate::llama_dl("libggml.so").with_file_name("");
    let program = Fixture::new("reopened")
        .ggml_headers()
        .path_option("-L", &folder)
        .path_option("-Wl,-rpath,", &folder)
        .options("-lggml -lggml-base -lm")
        .build(dir, "reopened");
    crate::dl_backends().iter().fold(start(program).arg(rounds.to_string()), |p, backend| p.arg(backend))
}

/// `fixtures/copied.c` and its model, made in the folder.
#[must_use]
pub fn copied_fixture(dir: &TempDir) -> (PathBuf, PathBuf) {
    let program = Fixture::new("copied").linked_with_ggml().build(dir, "copied");
    let model = dir.path().join("model.gguf");
    let _ = Program::new(&program).arg("make").arg(&model).run().success();
    (program, model)
}

/// An ELF file as `ld -Bsymbolic` would have marked it: an entry of its dynamic section that says nothing to the loader
/// (DT_RELACOUNT) becomes DT_SYMBOLIC.
///
/// # Panics
/// When it has no such entry, or several.
#[must_use]
pub fn linked_symbolically(mut file: Vec<u8>) -> Vec<u8> {
    const RELACOUNT: [u8; 8] = 0x6fff_fff9_u64.to_le_bytes();
    let entries: Vec<usize> = (0..file.len() - 16).step_by(8).filter(|&at| file[at..at + 8] == RELACOUNT).collect();
    assert_eq!(entries.len(), 1, "one such entry");
    file[entries[0]..entries[0] + 8].copy_from_slice(&16_u64.to_le_bytes());
    file
}

/// Builds the fake ggml of a variant (see `fixtures/fake_ggml.h`) and a program that uses it, whose path is
/// returned. `options` are more options for the library with the CPU backend.
#[must_use]
pub fn fake_ggml(variant: &str, options: &str) -> (TempDir, PathBuf) {
    let dir = work_dir();
    let define = if variant.is_empty() { String::new() } else { format!("-D{variant}") };
    let library = |fixture: Fixture, name: &str, more: &str| {
        let options = format!("{define} -shared -fPIC -Wl,--no-as-needed -Wl,-soname,{name} {more}");
        fixture.ggml_headers().options(&options)
    };
    let base = library(Fixture::new("fake_ggml_base"), "libggml-base.so", "").build(&dir, "libggml-base.so");
    let cpu = library(Fixture::new("fake_ggml_cpu").and("fake_ggml_extra"), "libggml-cpu.so", options);
    let cpu = cpu.path_option("", &base).path_option("-Wl,-rpath,", dir.path()).build(&dir, "libggml-cpu.so");
    let program = Fixture::new("fake_program")
        .ggml_headers()
        .options("-Wl,--no-as-needed")
        .path_option("-Wl,-rpath,", dir.path())
        .path_option("", &cpu)
        .path_option("", &base)
        .build(&dir, "program");
    (dir, program)
}
