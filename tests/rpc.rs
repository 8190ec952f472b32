//! One model on two workers: llama.cpp's own server for other machines under the shim, here on loopback.
//!
//! Weights and activations come over the network into buffers of the worker, not out of a file that it maps. The client is
//! stock llama.cpp, which computes nothing but the sampling.

use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use zen5turbo_tests::{
    Outcome, Program, Stats, TIME_LIMIT, clean_environment, command, gemma, llama_dl, need, root, shim, work_dir,
};

/// Continued alike by stock and by the shim.
const PROMPT: &str = "Monday, Tuesday,";

fn rpc(name: &str) -> PathBuf {
    need(Path::new(".deps/llama.cpp-rpc/bin").join(name), "scripts/setup.sh rpc")
}

/// A worker that serves until the value is dropped.
struct Worker {
    child: Child,
    address: String,
}

impl Worker {
    /// Starts it, under `zen5turbo run` where a file for statistics is given.
    fn start(stats: Option<&Path>) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        let mut started = match stats {
            None => Command::new(rpc("ggml-rpc-server")),
            Some(file) => {
                let mut run = Command::new(command());
                run.args(["run", "--gate", "off", "--lib"]).arg(shim()).arg("--stats").arg(file);
                run.arg("--").arg(rpc("ggml-rpc-server"));
                run
            }
        };
        clean_environment(&mut started);
        started.args(["--port", &port.to_string(), "--threads", "1"]).process_group(0);
        started.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let worker =
            Self { child: started.spawn().expect("the program can be started"), address: format!("127.0.0.1:{port}") };
        worker.await_answer();
        worker
    }

    fn await_answer(&self) {
        let deadline = Instant::now() + TIME_LIMIT;
        while TcpStream::connect(&self.address).is_err() {
            assert!(Instant::now() < deadline, "no worker at {}", self.address);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Worker {
    /// `zen5turbo run` passes the signal on.
    fn drop(&mut self) {
        // SAFETY: the child is not waited for yet, so the number is its own.
        unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
        let _ = self.child.wait();
    }
}

/// llama-completion, with all layers on these workers.
fn generate(workers: &[Worker; 2]) -> Outcome {
    let [first, second] = workers;
    let client = Program::new(llama_dl("llama-completion")).var("GGML_BACKEND_PATH", rpc("libggml-rpc.so"));
    let client = client.arg("-m").arg(gemma()).arg("--rpc").arg(format!("{},{}", first.address, second.address));
    client.args("-ngl 99 -no-cnv --no-warmup --temp 0 --seed 1 -t 1 -n 16 -p").arg(PROMPT).run().success()
}

/// The statistics of a worker, which it writes while it serves.
fn assert_computed(dir: &TempDir, file: &str) {
    let text = std::fs::read_to_string(dir.path().join(file)).expect("the worker wrote its statistics");
    let stats = Stats::parse(&text);
    assert!(stats.taken("MUL_MAT", Some("q4_K")) > 0, "{stats}");
    assert!(stats.declined("MUL_MAT", Some("q4_K")).is_empty(), "{stats}");
    stats.assert_healthy();
}

#[test]
fn two_workers_compute_with_the_shim_and_the_text_is_that_of_stock() {
    let stock = generate(&[Worker::start(None), Worker::start(None)]);
    let dir = work_dir();
    let files = ["first.json", "second.json"];
    let ours = generate(&files.map(|file| Worker::start(Some(&dir.path().join(file)))));
    assert!(stock.stdout.trim().starts_with(PROMPT) && stock.stdout.split_whitespace().count() > 8, "{stock}");
    assert_eq!(ours.stdout, stock.stdout);
    for file in files {
        assert_computed(&dir, file);
    }
}

/// What `doctor` promises of the worker, and the commands of the page.
#[test]
fn doctor_knows_the_worker_and_the_page_has_these_commands() {
    let doctor = Program::new(command()).arg("doctor").arg("--lib").arg(shim()).args("--gate off");
    let run = doctor.arg(rpc("ggml-rpc-server")).run().success();
    assert!(run.stdout.ends_with("verdict: will engage\n"), "{run}");
    let page = std::fs::read_to_string(root().join("docs/serving.md")).expect("a page");
    for words in ["zen5turbo run -- ggml-rpc-server ", " --rpc ", " -ngl 99"] {
        assert!(page.contains(words), "{words:?} is not in docs/serving.md");
    }
}
