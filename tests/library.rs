//! What the library shows to the dynamic linker.

use std::process::Command;

use zen5turbo_tests::{root, shim};

fn output_of(tool: &str, arguments: &[&str]) -> String {
    let result = Command::new(tool).args(arguments).arg(shim()).env("LC_ALL", "C").output();
    let result = result.unwrap_or_else(|e| panic!("{tool} cannot be started ({e}); run: scripts/setup.sh shim"));
    assert!(result.status.success(), "{tool}: {}", String::from_utf8_lossy(&result.stderr));
    String::from_utf8(result.stdout).expect("the tool writes text")
}

fn list(name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(root().join("tests").join(name)).expect("the list lies beside this test");
    text.lines().map(str::to_owned).collect()
}

#[test]
fn the_exported_symbols_are_those_of_the_list() {
    let text = output_of("nm", &["-D", "--defined-only"]);
    let mut symbols: Vec<_> = text.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
    symbols.sort_unstable();
    assert_eq!(symbols, list("exports.txt"), "nm -D (left) and tests/exports.txt (right) differ");
}

#[test]
fn every_export_is_a_function() {
    let text = output_of("nm", &["-D", "--defined-only"]);
    assert!(text.lines().all(|line| line.split_whitespace().nth(1) == Some("T")), "{text}");
}

/// A container has glibc and libgcc_s, and nothing else that we may count on.
#[test]
fn the_needed_libraries_are_those_of_the_list_and_no_newer_than_it_says() {
    let expected = list("needed.txt");
    let (libraries, version): (Vec<_>, Vec<_>) = expected.iter().partition(|line| !line.starts_with("GLIBC "));
    let text = output_of("readelf", &["--dynamic", "--wide"]);
    let mut needed: Vec<_> = text
        .lines()
        .filter(|line| line.contains("(NEEDED)"))
        .filter_map(|line| line.split(['[', ']']).nth(1).map(str::to_owned))
        .collect();
    needed.sort();
    assert_eq!(needed.iter().collect::<Vec<_>>(), libraries, "DT_NEEDED (left) and tests/needed.txt (right) differ");

    let number = |text: &str| text.split('.').map(|n| n.parse::<u32>().expect("a number")).collect::<Vec<_>>();
    let allowed = number(version[0].trim_start_matches("GLIBC "));
    let text = output_of("readelf", &["--version-info", "--wide"]);
    let highest = text
        .lines()
        .filter_map(|line| line.split("Name: GLIBC_").nth(1)?.split_whitespace().next())
        .map(number)
        .max()
        .expect("it needs some glibc");
    assert!(highest <= allowed, "needs GLIBC {highest:?}, tests/needed.txt allows {allowed:?}");
}
