//! The documentation: links lead somewhere, README.md is short, docs/command.md shows the command of today,
//! and docs/report.* the records of today.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use zen5turbo_tests::{command, root};

/// Every page that people read: Markdown files of these folders.
fn pages() -> Vec<PathBuf> {
    let folders = ["", "docs", "bench/records", "fuzz"].map(|folder| root().join(folder));
    let files = folders
        .iter()
        .flat_map(|folder| fs::read_dir(folder).expect("a folder"))
        .map(|entry| entry.expect("a file").path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

/// Whether a page has a heading that GitHub gives this name.
fn has_heading(page: &Path, name: &str) -> bool {
    let text = fs::read_to_string(page).expect("a text");
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let names = headings.map(|heading| {
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.collect::<String>().to_lowercase().replace(' ', "-")
    });
    names.into_iter().any(|found| found == name)
}

#[test]
fn relative_links_lead_to_files_and_headings_that_exist() {
    let mut broken = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).expect("a text");
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.contains("://")) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.clone() } else { page.with_file_name("").join(file) };
            if !target.exists() || (!heading.is_empty() && !has_heading(&target, heading)) {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "links to nothing:\n{}", broken.join("\n"));
}

#[test]
fn the_readme_is_read_in_ten_minutes() {
    let lines = fs::read_to_string(root().join("README.md")).expect("a text").lines().count();
    assert!(lines <= 120, "README.md has {lines} lines, at most 120 are read; more belongs into docs/");
}

#[test]
fn the_page_of_the_command_is_what_its_script_writes() {
    is_what_its_script_writes("command-docs.sh");
}

#[test]
fn the_report_is_what_the_command_makes_of_the_records() {
    is_what_its_script_writes("report-docs.sh");
}

fn is_what_its_script_writes(name: &str) {
    let script = root().join("scripts").join(name);
    let output = Command::new(script).arg("--check").env("COMMAND", command()).output().expect("the script runs");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
