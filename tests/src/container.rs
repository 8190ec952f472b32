//! Containers of an image with Ollama's layout, run by podman as a user of it would.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{Need, Outcome, Program, Stats, TIME_LIMIT, archive, gemma, need, skip, work_dir};

/// Ollama's layout without Ollama: `scripts/containers.sh` makes it.
pub const OLLAMA: &str = "docker.io/ollama/ollama";

/// A working podman, which has the image [`OLLAMA`].
pub struct Engine {
    podman: PathBuf,
}

impl Engine {
    /// `None` where no container can run. Then the test is skipped with the words of the program that refused.
    #[must_use]
    pub fn new() -> Option<Self> {
        static REFUSED: OnceLock<Option<String>> = OnceLock::new();
        let podman = need(".deps/podman/podman", "scripts/setup.sh containers");
        let engine = Self { podman };
        let refused = REFUSED.get_or_init(|| engine.refused());
        if let Some(words) = refused {
            skip(Need::Containers, words);
            return None;
        }
        Some(engine)
    }

    /// Why no container can run here.
    fn refused(&self) -> Option<String> {
        if let Ok(words) = fs::read_to_string(self.podman.with_file_name("refused")) {
            return Some(format!("scripts/setup.sh containers: {}", words.trim()));
        }
        let output = self.output(&["run", "--rm", "--entrypoint", "/bin/true", OLLAMA]);
        (!output.status.success()).then(|| format!("podman: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }

    fn output(&self, args: &[&str]) -> Output {
        Command::new(&self.podman).args(args).output().expect("podman can be started")
    }

    /// What a podman command that must succeed wrote to stdout.
    fn podman(&self, args: &[&str]) -> String {
        let output = self.output(args);
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "podman {args:?}\nstdout: {stdout}\nstderr: {stderr}");
        stdout.trim().to_owned()
    }

    /// The number of the image of `scripts/ollama/Dockerfile`, built in the folder of the unpacked archive, once for all tests.
    #[must_use]
    pub fn with_shim(&self) -> &'static str {
        static BUILT: OnceLock<String> = OnceLock::new();
        BUILT.get_or_init(|| {
            let dir = work_dir();
            let folder = unpacked(dir.path());
            let dockerfile = folder.join("scripts/ollama/Dockerfile");
            // The base is here; no registry is asked. A name would be shared with other checkouts.
            let args =
                ["build", "--quiet", "--pull=never", "-f", &dockerfile.to_string_lossy(), &folder.to_string_lossy()];
            self.podman(&args)
        })
    }

    /// Starts a container in the background. `options` are those of `podman run`, separated by blanks.
    #[must_use]
    pub fn run(&self, image: &str, options: &str) -> Container {
        let port = TcpListener::bind(("127.0.0.1", 0)).and_then(|l| l.local_addr()).expect("a port is free").port();
        let model = fs::canonicalize(gemma()).expect("the model is there");
        let (volume, host) =
            (format!("{}:/models/gemma.gguf:ro", model.display()), format!("OLLAMA_HOST=127.0.0.1:{port}"));
        // The time limit is for the case that the test is killed.
        let mut args = vec!["run", "--detach", "--timeout", "600", "--volume", &volume];
        args.extend(["--env", &host, "--env", "OLLAMA_MODELS=/models"]);
        args.extend(options.split_whitespace());
        args.push(image);
        let id = self.podman(&args);
        Container { engine: Self { podman: self.podman.clone() }, id, port }
    }
}

/// The folder that the archive has inside, unpacked into `dir`.
///
/// # Panics
/// When the archive cannot be unpacked.
#[must_use]
pub fn unpacked(dir: &Path) -> PathBuf {
    let archive = archive();
    let status = Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(dir).status();
    assert!(status.expect("tar can be started").success(), "{} cannot be unpacked", archive.display());
    dir.join(archive.file_name().expect("a file").to_string_lossy().trim_end_matches(".tar.gz"))
}

/// A container that runs in the background; it goes with the value.
pub struct Container {
    engine: Engine,
    id: String,
    port: u16,
}

impl Container {
    /// The text that the runner adds to a prompt, greedily. Waits for the model to be loaded.
    #[must_use]
    pub fn complete(&self, prompt: &str, tokens: u32) -> String {
        let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(TIME_LIMIT)).build().into();
        let url = |path: &str| format!("http://127.0.0.1:{}/{path}", self.port);
        let deadline = Instant::now() + TIME_LIMIT;
        while agent.get(url("health")).call().is_err() {
            assert!(self.runs() && Instant::now() < deadline, "the runner does not answer\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        let body = json!({"prompt": prompt, "n_predict": tokens, "temperature": 0, "seed": 1, "cache_prompt": false});
        let reply = agent.post(url("completion")).send_json(body).and_then(|mut r| r.body_mut().read_json::<Value>());
        let reply = reply.unwrap_or_else(|e| panic!("no completion: {e}\n{}", self.log()));
        reply["content"].as_str().expect("a text").to_owned()
    }

    /// A command inside, as by `docker exec`.
    #[must_use]
    pub fn exec(&self, command: &str) -> Outcome {
        Program::new(&self.engine.podman).arg("exec").arg(&self.id).args(command).run()
    }

    /// The statistics of the runner, asked for inside.
    #[must_use]
    pub fn stats(&self) -> Stats {
        only_program(&self.exec("zen5turbo top --json").success())
    }

    /// The number of the runner outside: it is the only child of the container's first process.
    #[must_use]
    pub fn runner(&self) -> u32 {
        let first = self.inspect("{{.State.Pid}}");
        let children = fs::read_to_string(format!("/proc/{first}/task/{first}/children")).expect("it runs");
        children.trim().parse().unwrap_or_else(|_| panic!("not one child: {children:?}\n{}", self.log()))
    }

    /// Stops it as `docker stop` does and waits for its end, whose status it returns.
    #[must_use]
    pub fn stop(&self) -> i32 {
        self.engine.podman(&["stop", "--time", "60", &self.id]);
        self.status()
    }

    /// Waits until it ends by itself.
    #[must_use]
    pub fn wait(&self) -> i32 {
        self.engine.podman(&["wait", &self.id]);
        self.status()
    }

    fn status(&self) -> i32 {
        self.inspect("{{.State.ExitCode}}").parse().expect("a number")
    }

    fn runs(&self) -> bool {
        self.inspect("{{.State.Running}}") == "true"
    }

    fn inspect(&self, format: &str) -> String {
        self.engine.podman(&["inspect", "--format", format, &self.id])
    }

    /// All that the server and its children wrote.
    #[must_use]
    pub fn log(&self) -> String {
        let output = self.engine.output(&["logs", &self.id]);
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let output = self.engine.output(&["rm", "--force", "--time", "0", &self.id]);
        if !output.status.success() {
            eprintln!("container {} stays: {}", self.id, String::from_utf8_lossy(&output.stderr));
        }
    }
}

/// The statistics in what `zen5turbo top --json` wrote, of llama-server and of no other program.
///
/// # Panics
/// When it saw another number of programs.
#[must_use]
pub fn only_program(top: &Outcome) -> Stats {
    let seen: Value = serde_json::from_str(&top.stdout).unwrap_or_else(|e| panic!("{e}\n{top}"));
    let programs = seen["programs"].as_array().expect("a list");
    assert_eq!(programs.len(), 1, "{top}");
    assert_eq!(programs[0]["program"], "llama-server", "{top}");
    Stats::parse(&programs[0]["statistics"].to_string())
}
