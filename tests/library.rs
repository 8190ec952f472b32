//! What the library shows to the dynamic linker.

use std::path::{Path, PathBuf};
use std::process::Command;

use zen5turbo_ggml::hooks::exports;
use zen5turbo_tests::{plain, root, shipped};

fn output_of(tool: &str, arguments: &[&str], library: &Path) -> String {
    let result = Command::new(tool).args(arguments).arg(library).env("LC_ALL", "C").output();
    let result = result.unwrap_or_else(|e| panic!("{tool} cannot be started ({e}); run: scripts/setup.sh shim"));
    assert!(result.status.success(), "{tool}: {}", String::from_utf8_lossy(&result.stderr));
    String::from_utf8(result.stdout).expect("the tool writes text")
}

fn list(name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(root().join("tests").join(name)).expect("the list lies beside this test");
    text.lines().map(str::to_owned).collect()
}

/// The plain build and the one that is shipped, with the lists of what they may need.
fn builds() -> [(PathBuf, &'static str); 2] {
    [(plain(), "needed.txt"), (shipped(), "needed-shipped.txt")]
}

#[test]
fn the_exported_symbols_are_those_of_the_list() {
    for (library, _) in builds() {
        let text = output_of("nm", &["-D", "--defined-only"], &library);
        let mut symbols: Vec<_> = text.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
        symbols.sort_unstable();
        assert_eq!(symbols, exports(), "nm -D (left) and src/ggml/src/hooks.rs (right) differ");
    }
}

/// Threads and hooks outlive whoever opened it.
#[test]
fn it_is_never_unloaded() {
    for (library, _) in builds() {
        let text = output_of("readelf", &["--dynamic", "--wide"], &library);
        assert!(text.lines().any(|line| line.contains("(FLAGS_1)") && line.contains("NODELETE")), "{text}");
    }
}

#[test]
fn every_export_is_a_function() {
    for (library, _) in builds() {
        let text = output_of("nm", &["-D", "--defined-only"], &library);
        assert!(text.lines().all(|line| line.split_whitespace().nth(1) == Some("T")), "{text}");
    }
}

/// A container has glibc, and nothing else that we may count on.
#[test]
fn the_needed_libraries_are_those_of_the_list_and_no_newer_than_it_says() {
    for (library, name) in builds() {
        let expected = list(name);
        let (libraries, version): (Vec<_>, Vec<_>) = expected.iter().partition(|line| !line.starts_with("GLIBC "));
        let mut needed = needed(&library);
        needed.sort();
        assert_eq!(needed.iter().collect::<Vec<_>>(), libraries, "DT_NEEDED (left) and tests/{name} (right) differ");
        let allowed = number(version[0].trim_start_matches("GLIBC "));
        let highest = highest_glibc(&library);
        assert!(highest <= allowed, "needs GLIBC {highest:?}, tests/{name} allows {allowed:?}");
    }
}

fn needed(library: &Path) -> Vec<String> {
    let text = output_of("readelf", &["--dynamic", "--wide"], library);
    let lines = text.lines().filter(|line| line.contains("(NEEDED)"));
    lines.filter_map(|line| line.split(['[', ']']).nth(1).map(str::to_owned)).collect()
}

fn number(text: &str) -> Vec<u32> {
    text.split('.').map(|n| n.parse().expect("a number")).collect()
}

/// The newest version of glibc that a symbol is wanted of.
fn highest_glibc(library: &Path) -> Vec<u32> {
    let text = output_of("readelf", &["--version-info", "--wide"], library);
    let versions = text.lines().filter_map(|line| line.split("Name: GLIBC_").nth(1)?.split_whitespace().next());
    versions.map(number).max().expect("it needs some glibc")
}
