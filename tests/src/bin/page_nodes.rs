//! `page-nodes FILE MIN_MIB PROGRAM ARGS...` runs a program and, while it lives, appends to FILE a
//! line whenever the nodes of its pages have changed: a `Snapshot` of its mappings of at least MIN_MIB.
//! A program that stops itself (SIGSTOP) is looked at and goes on, so it can choose a moment.
//! The exit status is the program's, 128 + N when signal N killed it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use zen5turbo_tests::Snapshot;

/// Often enough for a program that runs for seconds; every look takes CPU time from it.
const INTERVAL: Duration = Duration::from_millis(500);

fn main() {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let [file, min_mib, program, args @ ..] = &args[..] else {
        panic!("usage: page-nodes FILE MIN_MIB PROGRAM ARGS...");
    };
    let min = min_mib.to_str().and_then(|n| n.parse::<usize>().ok()).expect("MIN_MIB is a number") << 20;
    let mut file = File::create(file).expect("FILE can be written");
    let begin = Instant::now();
    let pid = start(program, args);
    let mut last = Vec::new();
    loop {
        let change = change(pid);
        if let Some(Change::Ended(status)) = change {
            std::process::exit(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()));
        }
        // An error: the program has just ended.
        if let Ok(snapshot) = Snapshot::take(pid, min, begin.elapsed().as_millis() as u64)
            && snapshot.mappings != last
        {
            let line = serde_json::to_string(&snapshot).expect("a snapshot can be written");
            writeln!(file, "{line}").expect("FILE can be written");
            last = snapshot.mappings;
        }
        match change {
            // SAFETY: only sends a signal, to a child that has not been waited for.
            Some(_) => unsafe { _ = libc::kill(pid as libc::pid_t, libc::SIGCONT) },
            None => std::thread::sleep(INTERVAL),
        }
    }
}

/// The process number of the program; `change` waits for it, since `Child` does not tell of a stop.
fn start(program: &OsStr, args: &[OsString]) -> u32 {
    Command::new(program).args(args).spawn().expect("PROGRAM can be started").id()
}

enum Change {
    Stopped,
    Ended(ExitStatus),
}

/// What has happened to the child since the last call.
fn change(pid: u32) -> Option<Change> {
    let mut status = 0;
    // SAFETY: `pid` is a child that nobody else waits for; the pointer is to a local.
    let got = unsafe { libc::waitpid(pid as libc::pid_t, &raw mut status, libc::WNOHANG | libc::WUNTRACED) };
    assert!(got >= 0, "waitpid: {}", std::io::Error::last_os_error());
    (got > 0).then(
        || {
            if libc::WIFSTOPPED(status) { Change::Stopped } else { Change::Ended(ExitStatus::from_raw(status)) }
        },
    )
}
