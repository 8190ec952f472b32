//! A llama-server that runs.

use std::net::TcpListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use zen5turbo_tests::{MemoryGroup, clean_environment, llama, shim};

use crate::client::Client;
use crate::log::{Log, Seen};
use crate::options::Options;

/// How long it may take until the model is loaded.
const START: Duration = Duration::from_secs(180);
/// How long it may take after SIGTERM until the process has ended: it waits for the graph that it computes.
const END: Duration = Duration::from_secs(60);

/// Memory of the group that a server is in while nothing is to be squeezed: more than any machine has.
pub const PLENTY: u64 = 1 << 44;

/// A server; killed with the value, or with this process, if it was not stopped before.
pub struct Server {
    child: Child,
    log: Option<Log>,
    /// Where it listens.
    pub port: u16,
    /// Where the shim writes its statistics at the end.
    pub stats: PathBuf,
    /// Its memory can be limited, where a control group can be made.
    pub group: Option<MemoryGroup>,
}

impl Server {
    /// Starts one and waits until it answers. `name` is that of its files; with `kernels` under the shim with that
    /// value of `ZEN5TURBO_KERNELS`, else stock.
    pub fn start(options: &Options, name: &str, kernels: Option<&str>, more: &[&str]) -> Result<Self> {
        // The port may be taken by somebody else before the server has it; then it ends, and says so.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).context("a free port")?.port();
        let stats = options.out.join(name).with_extension("stats.json");
        let log = options.out.join(name).with_extension("log");
        let (reader, writer) = std::io::pipe().context("a pipe")?;
        let mut command = Command::new(llama("llama-server"));
        clean_environment(&mut command);
        command.arg("-m").arg(&options.model);
        command.args(["--host", "127.0.0.1", "--port", &port.to_string(), "-t", &options.threads.to_string()]);
        command.args(["-np", &options.slots.to_string(), "-c", &(options.slots * options.context).to_string()]);
        // Prompts that the server keeps beside its slots would grow up to a limit of their own.
        command.args(["--context-shift", "--no-ui", "--cache-ram", "0", "--metrics"]).args(more);
        command.stdin(Stdio::null()).stdout(writer.try_clone().context("a pipe")?).stderr(writer);
        if let Some(kernels) = kernels {
            command.env("LD_PRELOAD", shim()).env("ZEN5TURBO_GATE", "off").env("ZEN5TURBO_STATS", &stats);
            // Copies of weights are made and given back: by default there are none on one NUMA node.
            command.env("ZEN5TURBO_HUGEPAGES", "thp");
            // A calibration of this machine changes kernels, and so the order of sums, between two runs.
            command.env("ZEN5TURBO_KERNELS", kernels).env("ZEN5TURBO_TUNE", "off");
        }
        // SAFETY: prctl is a system call that touches no memory of this process. The thread that starts the server is
        // the main one, which lives as long as the process.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        let group = MemoryGroup::try_new(PLENTY);
        let child = command.spawn().context("llama-server cannot be started")?;
        drop(command); // with its ends of the pipe
        if let Some(group) = &group {
            group.join(child.id()).context("the control group")?;
        }
        let mut server = Self { child, log: Some(Log::start(reader, log)), port, stats, group };
        server.wait_until_loaded()?;
        Ok(server)
    }

    fn wait_until_loaded(&mut self) -> Result<()> {
        let begin = Instant::now();
        let client = Client::new(self.port);
        while !client.get("/health").is_ok_and(|reply| reply.status == 200) {
            self.check_alive()?;
            ensure!(begin.elapsed() < START, "llama-server does not answer {} s after its start", START.as_secs());
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What its log tells up to now.
    pub fn seen(&self) -> Seen {
        self.log.as_ref().map(Log::seen).unwrap_or_default()
    }

    /// An error when it has ended.
    pub fn check_alive(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait().context("waiting for llama-server")? {
            bail!("llama-server ended with {status}, expected it to go on");
        }
        Ok(())
    }

    /// SIGTERM; it must end with status 0 in time. What its log told, and how many seconds it took.
    pub fn stop(mut self) -> Result<(Seen, f64)> {
        let begin = Instant::now();
        // SAFETY: only sends a signal, to a child that has not been waited for.
        unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
        let status = loop {
            if let Some(status) = self.child.try_wait().context("waiting for llama-server")? {
                break status;
            }
            ensure!(begin.elapsed() < END, "llama-server runs {} s after SIGTERM, expected its end", END.as_secs());
            std::thread::sleep(Duration::from_millis(10));
        };
        let (code, signal) = (status.code(), status.signal());
        ensure!(status.success(), "after SIGTERM exit status {code:?}, signal {signal:?}, expected status 0");
        let seconds = begin.elapsed().as_secs_f64();
        let seen = self.log.take().map(Log::finish).transpose().context("the log")?.unwrap_or_default();
        Ok((seen, seconds))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
