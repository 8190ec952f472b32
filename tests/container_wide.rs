//! `LD_PRELOAD` set for a whole container, with the gate as it is by default: whatever is started there behaves as without
//! it. A program that the loader keeps the library out of does not notice it.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use zen5turbo_tests::{Fixture, Need, Outcome, Program, command, is_root, need, root, shim, skip, work_dir};

/// Output, errors and status with the variable are those without.
fn assert_alike(what: &str, program: impl Fn(fn(PathBuf) -> Program) -> Program) -> Outcome {
    let (stock, ours) = (program(Program::new).run(), program(Program::preloaded).run());
    assert_eq!((&ours.stdout, &ours.stderr), (&stock.stdout, &stock.stderr), "{what}");
    assert_eq!(ours.status(), stock.status(), "{what}: {ours}");
    ours
}

/// A text of some pages.
fn text() -> PathBuf {
    root().join("CHANGELOG.md")
}

#[test]
fn checks_of_a_container_answer_and_fail_as_without_it() {
    let text = text();
    let of = |path: &str, args: &[&str]| {
        assert_alike(path, |start| args.iter().fold(start(path.into()), |program, arg| program.arg(arg)))
    };
    let file = text.to_str().expect("UTF-8");
    assert!(of("/bin/cat", &[file]).stdout.len() > 1000);
    assert!(!of("/bin/cat", &["/no/such/file"]).stderr.is_empty());
    let _ = of("/bin/sh", &["-c", "test -e /proc/self && echo ready; exit 5"]);
    let _ = of("/bin/sh", &["-c", "kill -TERM $$"]);
    let _ = of("/bin/false", &[]);
    let _ = of("/usr/bin/timeout", &["0.1", "sleep", "5"]);
    let _ = of("/usr/bin/id", &[]);
    let _ = of("/usr/bin/find", &["/etc/ld.so.conf.d", "-name", "*.conf", "-newermt", "1970-01-02"]);
    let _ = of("/usr/bin/python3", &["-c", "import socket, ssl, json; print(json.dumps([1])); raise SystemExit(4)"]);
}

/// What Docker's documentation uses as a check of health.
#[test]
fn curl_gets_what_a_server_says_and_fails_where_there_is_none() {
    let curl = Path::new("/usr/bin/curl");
    if !curl.exists() {
        return println!("not tried: there is no curl");
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}/health", listener.local_addr().expect("an address"));
    let server = std::thread::spawn(move || {
        for body in ["{\"status\":\"ok\"}"; 2] {
            let (mut stream, _) = listener.accept().expect("a client");
            let _ = stream.read(&mut [0; 1024]).expect("a request");
            write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).expect("a client");
        }
    });
    let ask = || assert_alike("curl", |start| start(curl.into()).args("--fail --silent --show-error").arg(&url));
    assert_eq!(ask().stdout, "{\"status\":\"ok\"}");
    server.join().expect("the server ends");
    assert_eq!(ask().status().code(), Some(7));
}

fn ordinary(dir: &TempDir, name: &str, options: &str) -> PathBuf {
    Fixture::new("ordinary").options(options).build(dir, name)
}

/// GCC with the headers and the libraries of musl, as `musl-gcc` calls it.
fn musl() -> String {
    let specs = need("/usr/lib/x86_64-linux-musl/musl-gcc.specs", "scripts/setup.sh preloads");
    format!("-specs={}", specs.display())
}

/// No loader reads the variable there; what they start has it again.
#[test]
fn static_programs_of_glibc_and_musl_run_as_without_it() {
    let dir = work_dir();
    for (name, options) in [("shared", String::new()), ("glibc", "-static".into()), ("musl", musl() + " -static")] {
        let program = ordinary(&dir, name, &options);
        let run = assert_alike(name, |start| start(program.clone()).arg(text()));
        assert_eq!(run.status().code(), Some(3), "{run}");
        assert!(run.stdout.ends_with("started\n"), "{run}");
    }
}

/// musl's loader takes the variable, and a library for glibc is an error to it. It says so; doctor and run say so before.
#[test]
fn a_program_of_musl_is_ended_by_its_loader_and_doctor_says_so() {
    let dir = work_dir();
    let program = ordinary(&dir, "musl", &musl());
    let run = Program::new(&program).arg(text()).run().exit(3);
    assert!(run.stdout.ends_with("started\n"), "{run}");
    let run = Program::preloaded(&program).arg(text()).run().exit(127);
    assert!(run.stderr.contains("libzen5turbo.so") && run.stdout.is_empty(), "{run}");
    let run = Program::new(command()).arg("doctor").arg("--lib").arg(shim()).args("--gate off").arg(&program).run();
    let run = run.exit(1);
    assert!(run.stdout.contains("a program for musl libc") && run.stdout.contains("instead of Alpine"), "{run}");
    let start = Program::new(command()).args("run --gate off --lib").arg(shim()).arg("--").arg(&program).run();
    assert!(start.stderr.contains("musl") && !start.stdout.contains("started"), "{start}");
}

/// The loader drops a variable with a path in it, for a program that gains rights.
#[test]
fn a_program_that_becomes_root_runs_as_without_it() {
    if !is_root("this user cannot make a program that becomes root") {
        return;
    }
    // Where nobody can get at it.
    let dir = tempfile::tempdir().expect("a folder for temporary files");
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("the folder is ours");
    let file = dir.path().join("text");
    std::fs::copy(text(), &file).expect("room for a copy");
    let program = ordinary(&dir, "privileged", "");
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o4755)).expect("the file is ours");
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"].map(Into::into).to_vec();
    let run = assert_alike("set-user-ID", |start| {
        start(program.clone()).arg(&file).started_by("/usr/bin/setpriv", nobody.clone())
    });
    if !run.stdout.contains("user 0\n") {
        skip(Need::Root, "the folder for temporary files takes no set-user-ID programs");
    }
}
