//! `page-nodes FILE MIN_MIB PROGRAM ARGS...` runs a program and, while it lives, appends to FILE a
//! line whenever the nodes of its pages have changed: a `Snapshot` of its mappings of at least MIN_MIB.
//! Its exit status is the program's, 128 + N when signal N killed it.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::{Duration, Instant};

use zen5turbo_tests::Snapshot;

/// Looking costs the guest some milliseconds for 10,000 pages; twice in a second leaves it its CPUs.
const INTERVAL: Duration = Duration::from_millis(500);

fn main() {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let [file, min_mib, program, args @ ..] = &args[..] else {
        panic!("usage: page-nodes FILE MIN_MIB PROGRAM ARGS...");
    };
    let min = min_mib.to_str().and_then(|n| n.parse::<usize>().ok()).expect("MIN_MIB is a number") << 20;
    let mut file = File::create(file).expect("FILE can be written");
    let begin = Instant::now();
    let mut child = Command::new(program).args(args).spawn().expect("PROGRAM can be started");
    let mut last = Vec::new();
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            break status;
        }
        // An error: the program has just ended.
        if let Ok(snapshot) = Snapshot::take(child.id(), min, begin.elapsed().as_millis() as u64)
            && snapshot.mappings != last
        {
            let line = serde_json::to_string(&snapshot).expect("a snapshot can be written");
            writeln!(file, "{line}").expect("FILE can be written");
            last = snapshot.mappings;
        }
        std::thread::sleep(INTERVAL);
    };
    std::process::exit(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()));
}
