//! `zen5turbo setup`: what it writes does what it says, and can be undone by what it says.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use zen5turbo_tests::{MILAN, Outcome, Program, command, fake_ggml, work_dir};

/// The library, by the path that the command prints.
fn shim() -> std::path::PathBuf {
    zen5turbo_tests::shim().canonicalize().expect("it is there")
}

fn setup(what: &str) -> Program {
    Program::new(command()).args("setup").args(what).arg("--lib").arg(shim())
}

/// The lines behind a word, such as `undo`.
fn lines<'a>(run: &'a Outcome, word: &str) -> Vec<&'a str> {
    let start = run.stdout.lines().skip_while(|line| !line.starts_with(word));
    let first = start.clone().take(1).map(|line| line[word.len()..].trim());
    first.chain(start.skip(1).take_while(|line| line.starts_with("      ")).map(str::trim)).collect()
}

/// A systemctl that knows one unit, and tells what it starts.
fn systemctl(dir: &Path, program: &Path) -> String {
    let script = format!(
        "#!/bin/sh\ncase $* in *llm.service) echo 'LoadState=loaded'; echo 'ExecStart={{ path={} ; argv[]=x }}'; echo \
         'Environment=LD_PRELOAD=/usr/lib/other.so';; *) echo 'LoadState=not-found';; esac\n",
        program.display()
    );
    let path = dir.join("systemctl");
    fs::write(&path, script).expect("a new file");
    fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("the file is ours");
    format!("{}:/usr/bin:/bin", dir.display())
}

#[test]
fn a_drop_in_file_is_written_once_and_undone() {
    let dir = work_dir();
    let write = || setup("ollama-systemd --gate off --write").arg("--root").arg(dir.path()).run();
    let run = write().success();
    let file = dir.path().join("etc/systemd/system/ollama.service.d/zen5turbo.conf");
    let text = fs::read_to_string(&file).expect("it was written");
    let expected =
        format!("[Service]\nEnvironment=\"LD_PRELOAD={}\"\nEnvironment=\"ZEN5TURBO_GATE=off\"\n", shim().display());
    assert!(text.ends_with(&expected), "{text}");
    assert_eq!(lines(&run, "then")[0], "systemctl daemon-reload", "{run}");
    assert_eq!(lines(&run, "undo").len(), 3, "{run}");
    assert!(write().success().stdout.contains("nothing was written"));
    fs::write(&file, "[Service]\nUser=me\n").expect("the folder is ours");
    let run = write().exit(1);
    assert!(run.only_line().contains("this command did not make it"), "{run}");
}

#[test]
fn a_unit_is_asked_what_it_starts() {
    let (dir, program) = fake_ggml("", "");
    let path = systemctl(dir.path(), &program);
    let run = setup("systemd llm --gate off").var("PATH", &path).run().success();
    assert!(run.stdout.contains(&format!("LD_PRELOAD={}:/usr/lib/other.so\"", shim().display())), "{run}");
    let run = setup("systemd none --gate off").var("PATH", &path).run().exit(1);
    assert!(run.only_line().contains("systemd has no unit none.service"), "{run}");
    let (dir, program) = fake_ggml("", "-Wl,-Bsymbolic");
    let run = setup("systemd llm --gate off").var("PATH", systemctl(dir.path(), &program)).run().exit(78);
    assert!(run.stderr.contains("nothing was set up") && run.stderr.contains("-Bsymbolic"), "{run}");
    assert_eq!(run.stdout, "");
}

#[test]
fn on_another_cpu_it_refuses_with_the_reason_of_doctor() {
    let run = setup("docker").on(MILAN).run().exit(78);
    assert!(run.stderr.contains("not an AMD Zen 5") && run.stderr.contains("ZEN5TURBO_GATE=off"), "{run}");
    assert!(setup("docker --gate off").on(MILAN).run().success().stdout.contains("-e ZEN5TURBO_GATE=off"));
}

/// The lines are run by a login shell; what is said to undo them takes them away.
#[test]
fn lines_of_a_login_shell_preload_the_library_and_are_taken_away() {
    let home = work_dir();
    let profile = home.path().join(".profile");
    fs::write(&profile, "MINE=kept\n").expect("a new file");
    let run = setup("shell --gate off --write").var("HOME", home.path()).run().success();
    let login = || {
        let shell = Program::new("/bin/sh").var("HOME", home.path()).arg("-c");
        shell.arg(". ~/.profile; echo $MINE $LD_PRELOAD $ZEN5TURBO_GATE").run().success().stdout
    };
    assert_eq!(login(), format!("kept {} off\n", shim().display()));
    let undo = lines(&run, "undo")[0];
    let _ = Program::new("/bin/sh").arg("-c").arg(undo).run().success();
    assert_eq!(fs::read_to_string(&profile).expect("it is there"), "MINE=kept\n", "{undo}");
}

/// The lines for a program in Python start it anew once, under the library and with its arguments.
#[test]
fn lines_of_a_python_program_start_it_anew() {
    let run = setup("python --gate off").run().success();
    let dir = work_dir();
    let lines: Vec<&str> = run.stdout.lines().skip_while(|line| !line.contains("import os, sys")).collect();
    let lines: Vec<&str> = lines
        .iter()
        .take_while(|line| !line.is_empty())
        .map(|line| line.strip_prefix("    ").unwrap_or(line))
        .collect();
    let program = dir.path().join("program.py");
    let rest = "print(sys.argv[1:], os.environ['ZEN5TURBO_GATE'], any('libzen5turbo' in line for line in open('/proc/self/maps')))\n";
    fs::write(&program, format!("{}\n{rest}", lines.join("\n"))).expect("a new file");
    let run = Program::new("/usr/bin/python3").arg(&program).args("a -b").run().success();
    assert_eq!(run.stdout, "['a', '-b'] off True\n", "{run}");
}

#[test]
fn bad_input_is_one_line_that_says_what_to_do() {
    let said = |what: &str, words: &str| {
        let run = setup(what).args("--gate off").run().exit(1);
        assert!(run.only_line().contains(words), "{words:?} in {run}");
    };
    said("systemd", "needs the name of a unit");
    said("systemd ../x", "is no name of a unit");
    said("shell name", "takes no name");
    said("python --write", "there is no file to write");
    said("compose a/b", "is no name of a service");
    let closed = work_dir();
    let library = closed.path().join("libzen5turbo.so");
    fs::copy(shim(), &library).expect("a new file");
    fs::set_permissions(closed.path(), PermissionsExt::from_mode(0o700)).expect("the folder is ours");
    let run = Program::new(command())
        .args("setup ollama-systemd --gate off --root /nonexistent --lib")
        .arg(&library)
        .run()
        .exit(1);
    assert!(run.only_line().contains("install -D -m 644"), "{run}");
}
