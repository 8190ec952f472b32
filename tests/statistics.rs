//! The file of `ZEN5TURBO_STATS`: there while a program computes, whole, and harmless where it cannot be written.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use zen5turbo_telemetry::{Document, Member};
use zen5turbo_tests::{Fixture, Program, Stats, clean_environment, command, gemma, llama, shim, work_dir};

/// A program that is killed when the test ends, as Ollama ends its runners.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// llama-completion, generating for minutes.
fn generating(stats: &Path) -> Killed {
    let mut command = Command::new(llama("llama-completion"));
    clean_environment(&mut command);
    command.arg("-m").arg(gemma()).args(["-no-cnv", "--temp", "0", "--ignore-eos", "-t", "1", "-c", "16384"]);
    command.args(["-n", "16000", "-p", "Berlin"]);
    command.env("LD_PRELOAD", shim()).env("ZEN5TURBO_GATE", "off").env("ZEN5TURBO_STATS", stats);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Killed(command.spawn().expect("the program can be started"))
}

/// Reads the document as the command does, and fails the test when the types of the document lack a part of it.
fn read_without_a_rest(text: &str) -> Document {
    let written: Value = serde_json::from_str(text).expect("JSON");
    let document = Document::read(&written).expect("an object");
    assert_eq!(serde_json::to_value(&document).expect("JSON"), written);
    document
}

/// Waits until the file is another than the one with this inode: its text, its inode, and when it was found.
fn next_file(path: &Path, before: u64) -> (Stats, u64, Instant) {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        assert!(Instant::now() < deadline, "{} was not written", path.display());
        if let Ok(mut file) = File::open(path) {
            let inode = file.metadata().expect("an open file").ino();
            if inode != before {
                let mut text = String::new();
                file.read_to_string(&mut text).expect("text");
                return (Stats::parse(&text), inode, Instant::now());
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_program_that_is_killed_leaves_what_it_took_over() {
    let dir = work_dir();
    let path = dir.path().join("stats.json");
    let mut program = generating(&path);
    let pid = u64::from(program.0.id());
    let (first, inode, at) = next_file(&path, 0);
    assert_eq!((first.number("/pid"), first.text("/state")), (pid, "active"));
    // Replaced at a time, not changed, and not at every graph.
    let (second, inode, second_at) = next_file(&path, inode);
    assert!(second_at - at > Duration::from_millis(1800), "{:?}", second_at - at);
    assert!(second.taken("MUL_MAT", None) > first.taken("MUL_MAT", None), "{second}");
    let (third, ..) = next_file(&path, inode);
    program.0.kill().expect("a child");
    program.0.wait().expect("a child");
    let text = fs::read_to_string(&path).expect("the file stays");
    let left = Stats::parse(&text);
    assert!(left.taken("MUL_MAT", Some("q8_0")) >= third.taken("MUL_MAT", Some("q8_0")), "{left}");
    assert!(left.taken("MUL_MAT", Some("q8_0")) > 100, "{left}");
    let read = read_without_a_rest(&text);
    assert_eq!((read.computed, read.about.pid), (Some(true), pid));
    let taken = read.operation("MUL_MAT", "q8_0").expect("products of the model").taken;
    assert_eq!(taken, left.taken("MUL_MAT", Some("q8_0")));
    left.assert_healthy();
}

#[test]
fn a_program_that_lists_its_devices_says_that_nothing_was_computed() {
    let dir = work_dir();
    let path = dir.path().join("stats.json");
    let run = Program::engaged(llama("llama-server")).args("--list-devices");
    let _ = run.var("ZEN5TURBO_STATS", &path).run().success();
    let file: Value = serde_json::from_str(&fs::read_to_string(&path).expect("a file")).expect("JSON");
    assert_eq!((&file["state"], &file["computed"]), (&"active".into(), &false.into()), "{file:#}");
    let shown = Program::new(command()).arg("stats").arg(&path).run().success();
    assert!(shown.stdout.contains("Nothing was computed"), "{shown}");
}

#[test]
fn a_pipe_is_written_to_once_at_the_end() {
    let dir = work_dir();
    let pipe = dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo can be started").success());
    let mut reader = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&pipe).expect("a pipe");
    let program = Fixture::new("one_product").linked_with_ggml().build(&dir, "one_product");
    let run = Program::engaged(program).var("ZEN5TURBO_STATS", &pipe).run().success();
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("computed\n", ""));
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("the writer has ended");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert_eq!(Stats::parse(&text).taken("MUL_MAT", Some("q4_0")), 1);
    assert_eq!(read_without_a_rest(&text).taken(), 1);
}

/// A file beyond the limit would be a signal, which ends the program.
#[test]
fn a_file_that_may_not_be_so_large_is_one_line_and_changes_nothing() {
    let dir = work_dir();
    let program = Fixture::new("one_product").linked_with_ggml().build(&dir, "one_product");
    let limited = Program::engaged("/bin/sh").arg("-c").arg("ulimit -f 1; exec \"$0\"").arg(&program);
    let run = limited.var("ZEN5TURBO_STATS", dir.path().join("stats.json")).run().success();
    assert_eq!(run.stdout, "computed\n", "{run}");
    assert!(run.only_line().contains("cannot be written"), "{run}");
    assert!(!dir.path().join("stats.json").exists());
}
