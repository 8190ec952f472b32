//! Running one child process to its end, with its output and what it used.

use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// A child that has ended.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    /// From spawn to end.
    pub wall: Duration,
    /// Largest resident set, bytes.
    pub max_rss: u64,
    /// Whether it was killed here because it ran past its limit.
    pub timed_out: bool,
    /// Whether it was killed here because it was no longer wanted.
    pub stopped: bool,
}

/// What is done while a child runs.
pub struct Watch<'a> {
    /// The child is killed after this time.
    pub limit: Duration,
    /// The child is killed soon after this becomes true.
    pub stop: Option<&'static AtomicBool>,
    /// Called with the child's process id every [`TICK`], from another thread.
    pub sample: Option<&'a (dyn Fn(u32) + Sync)>,
}

/// How often a running child is looked at.
pub const TICK: Duration = Duration::from_millis(50);

impl Finished {
    /// The last lines of stderr, which is where a program says why it failed.
    pub fn last_words(&self, lines: usize) -> String {
        let all: Vec<&str> = self.stderr.lines().filter(|l| !l.trim().is_empty()).collect();
        let tail = &all[all.len().saturating_sub(lines)..];
        if tail.is_empty() { "(nothing on stderr)".to_owned() } else { tail.join("\n") }
    }

    /// How it ended, in words.
    pub fn ending(&self) -> String {
        if self.timed_out {
            return format!("was killed after {:.0} s without an end", self.wall.as_secs_f64());
        }
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("exited with status {code}"),
            (None, Some(signal)) => format!("was killed by signal {signal}"),
            (None, None) => "ended in an unknown way".to_owned(),
        }
    }
}

/// Runs `command` with nothing on stdin, its output captured, for at most `limit`.
pub fn run(command: Command, limit: Duration) -> Result<Finished> {
    run_watched(command, &Watch { limit, stop: None, sample: None })
}

/// [`run`], with more to do meanwhile. The child gets a process group of its own, which dies with it
/// when it is killed here; and it does not outlive this process, however that ends.
pub fn run_watched(mut command: Command, watch: &Watch<'_>) -> Result<Finished> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    tie(&mut command);
    let start = Instant::now();
    let mut child = command.spawn().with_context(|| format!("cannot start {program}"))?;
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let pid = child.id() as libc::pid_t;

    // The watchdog may signal the pid only while it is surely still this child: the main thread
    // waits without reaping, ends the watchdog, and reaps last.
    let (done, waiting) = mpsc::channel::<()>();
    let (waited, wall, (timed_out, stopped)) = thread::scope(|scope| {
        let watchdog = scope.spawn(move || watch_over(pid, start, watch, &waiting));
        let waited = wait_without_reaping(pid);
        let wall = start.elapsed();
        drop(done);
        (waited, wall, watchdog.join().unwrap_or_default())
    });
    waited.with_context(|| format!("cannot wait for {program}"))?;
    let (status, max_rss) = reap(pid).with_context(|| format!("cannot wait for {program}"))?;
    Ok(Finished {
        status,
        stdout: stdout.join().unwrap_or_default(),
        stderr: stderr.join().unwrap_or_default(),
        wall,
        max_rss,
        timed_out,
        stopped,
    })
}

/// Puts the child into a process group of its own, which a signal of the terminal does not reach, and has the
/// kernel kill it when this process ends.
pub fn tie(command: &mut Command) {
    command.process_group(0);
    // SAFETY: prctl is async-signal-safe and touches no memory.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
}

/// Kills the group of `pid` when it is late or to stop: which of the two.
fn watch_over(pid: libc::pid_t, start: Instant, watch: &Watch<'_>, done: &mpsc::Receiver<()>) -> (bool, bool) {
    let kill = || {
        // SAFETY: kill has no memory effects; the child, whose id is its group's, is not reaped
        // before this thread ends.
        unsafe { libc::kill(-pid, libc::SIGKILL) };
    };
    while done.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
        if watch.stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
            kill();
            return (false, true);
        }
        if start.elapsed() > watch.limit {
            kill();
            return (true, false);
        }
        if let Some(sample) = watch.sample {
            sample(pid as u32);
        }
    }
    (false, false)
}

fn drain<R: Read + Send + 'static>(pipe: Option<R>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // A broken pipe only shortens the text; the exit status tells what happened.
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// How a child has ended, if it has; its process number stays taken.
pub fn ended_without_reaping(pid: libc::pid_t) -> std::io::Result<Option<ExitStatus>> {
    // SAFETY: an all-zero siginfo_t is a valid value, and waitid only writes to it.
    let (rc, info) = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        (libc::waitid(libc::P_PID, pid as libc::id_t, &mut info, flags), info)
    };
    if rc != 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: waitid has filled it in for a child, or left it zero.
    let (of, status) = unsafe { (info.si_pid(), info.si_status()) };
    // As wait would give it: the signal below, the exit status above.
    let raw = if info.si_code == libc::CLD_EXITED { (status & 0xff) << 8 } else { status };
    Ok((of != 0).then(|| ExitStatus::from_raw(raw)))
}

/// Waits until the child has ended; its process number stays taken.
pub fn wait_without_reaping(pid: libc::pid_t) -> std::io::Result<()> {
    loop {
        // SAFETY: an all-zero siginfo_t is a valid value, and waitid only writes to it.
        let rc = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            libc::waitid(libc::P_PID, pid as libc::id_t, &mut info, libc::WEXITED | libc::WNOWAIT)
        };
        if rc == 0 {
            return Ok(());
        }
        let error = std::io::Error::last_os_error();
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn reap(pid: libc::pid_t) -> std::io::Result<(ExitStatus, u64)> {
    loop {
        let mut status = 0;
        // SAFETY: an all-zero rusage is a valid value; wait4 only writes to the two.
        let (rc, usage) = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            (libc::wait4(pid, &mut status, 0, &mut usage), usage)
        };
        if rc == pid {
            // ru_maxrss is in KiB on Linux.
            return Ok((ExitStatus::from_raw(status), usage.ru_maxrss as u64 * 1024));
        }
        let error = std::io::Error::last_os_error();
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_status_and_memory_of_a_child_are_returned() {
        let f = run(sh("echo out; echo err >&2; exit 78"), Duration::from_secs(20)).unwrap();
        assert_eq!((f.stdout.as_str(), f.stderr.as_str()), ("out\n", "err\n"));
        assert_eq!(f.status.code(), Some(78));
        assert_eq!(f.ending(), "exited with status 78");
        assert!(f.max_rss > 100_000, "{}", f.max_rss);
        assert!(!f.timed_out);
    }

    #[test]
    fn how_a_child_has_ended_is_known_before_it_is_reaped() {
        for (script, code, signal) in [("exit 7", Some(7), None), ("kill -9 $$", None, Some(9))] {
            let mut child = sh(script).spawn().unwrap();
            let pid = child.id() as libc::pid_t;
            wait_without_reaping(pid).unwrap();
            for _ in 0..2 {
                let status = ended_without_reaping(pid).unwrap().unwrap();
                assert_eq!((status.code(), status.signal()), (code, signal));
            }
            assert_eq!(child.wait().unwrap().code(), code);
        }
        let mut child = sh("exec sleep 60").spawn().unwrap();
        assert_eq!(ended_without_reaping(child.id() as libc::pid_t).unwrap(), None);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_child_that_hangs_is_killed_and_said_so() {
        let f = run(sh("exec sleep 60"), Duration::from_millis(200)).unwrap();
        assert!(f.timed_out && f.wall < Duration::from_secs(20));
        assert!(f.ending().contains("killed after"), "{}", f.ending());
    }

    #[test]
    fn a_child_that_is_no_longer_wanted_is_killed_with_its_own_children() {
        static STOP: AtomicBool = AtomicBool::new(false);
        let watch = Watch {
            limit: Duration::from_secs(60),
            stop: Some(&STOP),
            sample: Some(&|_| STOP.store(true, Ordering::Relaxed)),
        };
        // The pipe to the grandchild stays open as long as it lives: the call returns when both are gone.
        let f = run_watched(sh("sleep 60; echo late"), &watch).unwrap();
        assert!(f.stopped && !f.timed_out && f.wall < Duration::from_secs(20));
        assert_eq!(f.stdout, "");
    }

    #[test]
    fn a_program_that_does_not_exist_is_named() {
        let e = run(Command::new("/nonexistent/x"), Duration::from_secs(1)).unwrap_err();
        assert!(format!("{e:#}").contains("/nonexistent/x"));
    }
}
