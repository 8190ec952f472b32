//! Tests of [`super`], on made processes. A real one is looked into by tests/doctor.rs.

use super::*;
use crate::doctor::check::{Report, Status};
use crate::root::tests::tree;

const LIBRARY: &str = "7f0000000000-7f0000001000 r--p 00000000 08:01 7     /opt/my llama/libzen5turbo.so\n";

#[test]
fn maps_are_read_with_blanks_in_paths_and_without_anonymous_memory() {
    let mapping = Mapping::parse(LIBRARY.trim_end()).unwrap();
    let path = "/opt/my llama/libzen5turbo.so".to_owned();
    assert_eq!(mapping, Mapping { start: 0x7f00_0000_0000, end: 0x7f00_0000_1000, offset: 0, path });
    assert!(mapping.is_shim());
    assert_eq!(Mapping::parse("7f0000000000-7f0000001000 rw-p 00000000 00:00 0 "), None);
    assert_eq!(Mapping::parse("7f0000000000-7f0000001000 rw-p 00000000 00:00 0     [heap]"), None);
    assert!(Mapping { path: "/x/libzen5turbo.so (deleted)".into(), ..mapping }.is_shim());
}

fn check(environment: &str, maps: &str, id: &str) -> Check {
    let files = [("proc/7/environ", environment), ("proc/7/maps", maps), ("proc/7/status", "Seccomp:\t2\n")];
    let (_folder, root) = tree(&files);
    let section = Process::open(&root, 7).unwrap().section();
    section.checks.iter().find(|check| check.id == id).unwrap_or_else(|| panic!("{id} in {section:?}")).clone()
}

#[test]
fn a_process_without_the_library_is_told_why() {
    let no = check("HOME=/\0", "", "process.shim");
    assert_eq!((no.status, no.found.as_str()), (Status::No, "not loaded"));
    let ignored = check("LD_PRELOAD=/x/libzen5turbo.so\0", "", "process.shim");
    assert!(ignored.found.contains("though LD_PRELOAD=/x/libzen5turbo.so"), "{ignored:?}");
    let ok = check("", LIBRARY, "process.shim");
    assert_eq!(ok.status, Status::Ok);
    let replaced = check("", &LIBRARY.replace(".so\n", ".so (deleted)\n"), "process.shim");
    assert!(replaced.status == Status::Ok && replaced.found.contains("replaced"), "{replaced:?}");
}

#[test]
fn a_process_that_has_loaded_no_ggml_has_not_engaged() {
    let ggml = check("", LIBRARY, "process.ggml");
    assert!(ggml.status == Status::No && ggml.remedy.unwrap().contains("when the model is loaded"));
    assert!(check("", "", "seccomp").found.starts_with("a filter"));
}

#[test]
fn statistics_are_those_of_this_process_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("stats.7.json");
    let environment = format!("ZEN5TURBO_STATS={}/stats.%p.json\0", folder.path().display());
    let pending = check(&environment, "", "process.statistics");
    assert!(pending.found.contains("stats.7.json will be written"), "{pending:?}");
    fs::write(&file, r#"{"pid": 8}"#).unwrap();
    assert_eq!(check(&environment, "", "process.statistics"), pending);
    fs::write(&file, r#"{"pid": 7, "tier": "avx2"}"#).unwrap();
    assert!(check(&environment, "", "process.statistics").found.contains("tier avx2"));
    assert_eq!(check("", "", "process.statistics").status, Status::Limited);
}

#[test]
fn the_threads_of_the_last_graph_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("stats.json");
    let environment = format!("ZEN5TURBO_STATS={}\0", file.display());
    let found = |statistics: &str| {
        fs::write(&file, statistics).unwrap();
        check(&environment, "", "process.threads").found
    };
    let quota = "CPU quota 200000/100000 us of /sys/fs/cgroup/a";
    let threads =
        format!(r#"{{"pid": 7, "threads": {{"asked": 8, "used": 2, "budget": 2}}, "threads_limit": "{quota}"}}"#);
    assert_eq!(found(&threads), format!("asked 8, used 2 ({quota})"));
    assert_eq!(found(r#"{"pid": 7}"#), "no graph was computed yet");
}

#[test]
fn what_a_process_names_as_its_statistics_and_is_no_file_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for path in [pipe.display().to_string(), "/dev/zero".into(), "/proc/self/mem".into()] {
        let found = check(&format!("ZEN5TURBO_STATS={path}\0"), "", "process.statistics").found;
        assert!(found.contains("will be written"), "{found}");
    }
}

#[test]
fn a_process_that_is_not_there_is_an_error() {
    let (_folder, root) = tree(&[]);
    let error = Process::open(&root, 7).err().unwrap().to_string();
    assert!(error.contains("no process 7"), "{error}");
}

fn judged(name: &str, to: To, loaded: bool) -> Check {
    judge(name, &[Route { by: "libggml-cpu.so".into(), to }], loaded, "not loaded")
}

#[test]
fn a_hook_is_active_when_calls_go_to_the_shim() {
    assert_eq!(judged(COMPUTE, To::Shim, true).status, Status::Ok);
    assert!(judged(COMPUTE, To::Itself, true).found.starts_with("not called yet"));
    assert_eq!(judged(COMPUTE, To::Other("libother.so".into()), true).status, Status::No);
    assert_eq!(judged("mmap", To::Other("libother.so".into()), true).status, Status::Limited);
    assert_eq!(judged(COMPUTE, To::Unknown, true).status, Status::Limited);
    assert_eq!(judged(COMPUTE, To::Itself, false).status, Status::Limited);
    let routes = [("a", To::Other("libc.so.6".into())), ("b", To::Shim)];
    let routes = routes.map(|(by, to)| Route { by: by.into(), to });
    assert_eq!(judge(COMPUTE, &routes, true, "").found, "active: b calls the shim");
}

#[test]
fn what_a_process_lacks_is_the_verdict() {
    let (_folder, root) = tree(&[("proc/7/environ", ""), ("proc/7/maps", "")]);
    let report = Report::new(vec![Process::open(&root, 7).unwrap().section()]);
    assert!(!report.engages && report.text().contains("verdict: has not engaged: not loaded; no loaded library"));
}
