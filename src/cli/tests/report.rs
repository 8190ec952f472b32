//! `zen5turbo report` as a whole, over small records.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// The columns of `ab --csv`.
const COLUMNS: &str = "date,cpu,kernel,llama_build,llama_commit,binary,model,model_type,test,threads,variant,pair,position,value,unit,wall_s,max_rss_bytes,args,shim_environment";

/// A model whose name would be markup in HTML and in Markdown.
const MODEL: &str = "<script>alert(1)</script>|*x*.gguf";

/// Six pairs of one test, in which stock's layouts give `stock` and a tenth less, and the shim gives `shim`.
fn ab(date: &str, test: &str, stock: f64, shim: f64) -> String {
    let mut lines = String::new();
    for pair in 1..=6 {
        for (variant, value) in
            [("stock repack 0", 0.9 * stock), ("stock repack 1", stock), ("shim", shim), ("stock again", stock)]
        {
            lines += &format!(
                "{date},AMD EPYC,6.18,0,unknown,bin/llama-bench,\"{MODEL}\",\"llama, ?B Q4_K\",{test},2,{variant},{pair},1,{value},tokens/s,1.0,1024,ab --pairs 6,ZEN5TURBO_GATE=off\n"
            );
        }
    }
    lines
}

/// A folder of records.
struct Records(TempDir);

impl Records {
    fn new() -> Self {
        Records(tempfile::tempdir().unwrap())
    }

    fn add(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    fn report(&self, words: &[&str]) -> Output {
        report(self.0.path(), words)
    }
}

fn report(path: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_zen5turbo"));
    command.arg("report").arg(path).args(words).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The only line on stderr of a report that fails.
fn refusal(out: &Output) -> String {
    let error = text(&out.stderr);
    assert_eq!((out.status.code(), error.lines().count(), out.stdout.len()), (Some(1), 1, 0), "{error}");
    error
}

/// The cells of the rows of a Markdown page that begin with `first`.
fn rows(page: &str, first: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    page.lines().map(cells).filter(|cells| cells[0] == first).collect()
}

#[test]
fn ratios_costs_and_speed_for_each_gb_per_second_are_those_of_the_records() {
    let records = Records::new();
    let both = ab("2026-01-02T10:00:00Z", "pp512", 100.0, 200.0) + &ab("2026-01-02T10:00:00Z", "tg64", 50.0, 60.0);
    records.add("a/ab.csv", format!("{COLUMNS}\n{both}"));
    records.add("a/machine.txt", "cpu: AMD EPYC, family 26, model 2, stepping 1\ncpus: 2\n");
    records.add("a/README.md", "# AMD\n\nBy `scripts/record.sh`, zen5turbo abc1234, complete, 8 s.\n");
    records.add("2026-01-02-b/machine.txt", "cpu: AMD EPYC, family 26, model 2, stepping 1\n");
    records.add(
        "2026-01-02-b/streams.txt",
        "pages,threads,bytes_per_s,huge_share\nhuge,1,9e9,1\nhuge,2,30e9,1\nsmall,2,20e9,0\n",
    );
    records.add("ab.csv", format!("{COLUMNS}\n{}", ab("2026-01-01T10:00:00Z", "tg64", 50.0, 40.0)));
    let out = records.report(&["--format", "markdown", "--price", "0.36", "--currency", "EUR"]);
    assert!(out.status.success() && out.stderr.is_empty(), "{}", text(&out.stderr));
    let page = text(&out.stdout);
    let model = "&lt;script&gt;alert(1)&lt;/script&gt;\\|\\*x\\*";
    let name = |cells: &[String]| (cells[1].clone(), cells[4].clone());
    let of = |first: &str| rows(&page, first);
    // The newest of each test; the CPU's model is that of the same day.
    assert!(page.contains("## AMD EPYC (Zen 5, family 26 model 2)\n"), "{page}");
    let found = of(&format!("{model}.gguf"));
    let ratios: Vec<&str> = found.iter().map(|cells| cells[4].as_str()).collect();
    assert_eq!(ratios, ["2.00 (2.00..2.00)", "1.20 (1.20..1.20)", "0.80 (0.80..0.80)"], "{page}");
    assert_eq!(found[0][5..11], ["100", "200", "tokens/s", "**faster**", "6", "1.00..1.00"]);
    assert_eq!(found[0][13..], ["2026-01-02", "zen5turbo abc1234"]);
    // What the first day says of its CPU is too little to be the same one.
    assert!(page.contains("## AMD EPYC (family not recorded)\n") && page.contains("**slower**"), "{page}");
    // 60 tokens/s at 30 GB/s; a million tokens at 60 tokens/s take 4.63 hours.
    let shared = of(model);
    let memory = shared.iter().find(|cells| cells.len() == 11).unwrap();
    assert_eq!(memory[4..8], ["60.0", "30.0", "2.00", "1.67"], "{page}");
    let costs: Vec<_> =
        shared.iter().filter(|cells| cells.len() == 7).map(|cells| (name(cells), cells[5].clone())).collect();
    assert!(costs.contains(&(("tg64".into(), "2.00".into()), "1.67".into())), "{costs:?}");
    assert!(page.contains("at 0.36 EUR per hour") && page.contains("no record has the power of a package"), "{page}");
}

#[test]
fn the_html_page_needs_nothing_else_and_no_name_is_markup_in_it() {
    let records = Records::new();
    let days = ["2026-01-01T10:00:00Z", "2026-01-02T10:00:00Z"];
    let lines: String = days.iter().map(|day| ab(day, "tg64", 50.0, 60.0)).collect();
    records.add("ab.csv", format!("{COLUMNS}\n{lines}"));
    let page = records.0.path().join("page.html");
    let out = records.report(&["--output", page.to_str().unwrap()]);
    assert!(out.status.success() && out.stdout.is_empty(), "{}", text(&out.stderr));
    let html = fs::read_to_string(page).unwrap();
    assert!(html.contains("&lt;script&gt;alert(1)") && !html.contains("<script"), "escaped");
    let words = html.replace("http://www.w3.org/2000/svg", "");
    for foreign in ["http", "src=", "<link", "@import", "url("] {
        assert!(!words.contains(foreign), "{foreign} in the page");
    }
    // Ratios and the history of two days, each with its axes.
    assert_eq!((html.matches("<svg ").count(), html.matches("month-day").count()), (2, 1));
    for needed in ["prefers-color-scheme: dark", "@media print", "width=device-width", "class=\"scroll\""] {
        assert!(html.contains(needed), "{needed}");
    }
}

#[test]
fn what_cannot_be_read_is_told_in_a_line_and_stays_in_the_page() {
    let records = Records::new();
    let cut = format!("{COLUMNS}\n{}2026-01-01T10:00:00Z,AMD EP", ab("2026-01-01T10:00:00Z", "pp512", 100.0, 150.0));
    records.add("ab.csv", cut);
    records.add("notes.md", "# Notes\n");
    records.add("drafts.csv", "date,cpu,drafted,accepted\n2026-01-01,AMD EPYC (family 25 model 17),1,1\n");
    let bad = [
        (
            "bios.json",
            "{\"kind\": \"zen5turbo bios record\", \"schema\": 7, \"version\": \"9.9\"}",
            "has layout 7; expected 1: read it with the version that made it, \"9.9\"",
        ),
        ("cut.json", "{\"circumstances\": {\"date\": \"20", "found damaged JSON (EOF while parsing"),
        ("empty.csv", "", "found an empty file; expected a record"),
        ("foreign.csv", "apples,pears\n1,2\n", "found a table with the columns apples,pears; expected a record"),
        ("kind.json", "{\"kind\": \"weather\"}", "found \"kind\": \"weather\"; expected a record"),
        ("picture.png", "PNG\u{1}", "found `PNG ` in the first line; expected a record"),
        ("serve.json", "{\"kind\": \"serve\", \"version\": 9}", "found a serve record of version 9"),
        (
            "start.jsonl",
            "{\"record\": \"start\"}\n{\"record\": \"run\"}\n",
            "found 1 measurement of `ab` without an end",
        ),
        (
            "stock.csv",
            &format!("{COLUMNS}\n2026-01-01,x,6,0,u,b,m,t,pp1,1,stock,1,1,5,tokens/s,1,1,ab,\n"),
            "found 1 values and no pair",
        ),
        ("tune.txt", "zen5turbo-tune 9\ncpu x\n", "line 1: found"),
    ];
    for (name, content, _) in &bad {
        records.add(name, content);
    }
    records.add("bytes.bin", b"PNG\xff");
    let out = records.report(&["--format", "markdown"]);
    let (errors, page) = (text(&out.stderr), text(&out.stdout));
    assert!(out.status.success(), "{errors}");
    assert!(errors.contains("/bytes.bin: found bytes that are no text at byte 3"), "{errors}");
    assert_eq!(errors.lines().count(), bad.len() + 1, "{errors}");
    for (name, _, why) in &bad {
        let line = errors
            .lines()
            .find(|line| line.contains(&format!("/{name}: ")))
            .unwrap_or_else(|| panic!("{name} in {errors}"));
        assert!(line.starts_with("zen5turbo: left out: ") && line.contains(why), "{line}");
        assert!(page.contains(&format!("/{name} | **")), "{name} in {page}");
    }
    assert!(page.contains("11 files could not be read"), "{page}");
    assert!(page.contains("line 26 is damaged and was not used"), "{page}");
    assert!(page.contains("/notes.md | text for readers") && page.contains("no section for: drafts"), "{page}");
}

#[test]
fn without_a_record_nothing_is_written() {
    let records = Records::new();
    let page = records.0.path().join("page.html");
    let to_page = ["--output", page.to_str().unwrap()];
    assert!(refusal(&records.report(&to_page)).contains("found no files in the folder"));
    let missing = records.0.path().join("no/such");
    let error = refusal(&report(&missing, &to_page));
    assert!(
        error.contains("no/such; expected a record or a folder of records: check the path: No such file"),
        "{error}"
    );
    let notes = records.add("notes.md", "# Notes\n");
    assert!(refusal(&report(&notes, &to_page)).contains("no record was found at"));
    assert!(!page.exists());
    let ab = records.add("ab.csv", format!("{COLUMNS}\n{}", ab("2026-01-01T10:00:00Z", "pp512", 100.0, 150.0)));
    let error = refusal(&report(&ab, &["--output", "/proc/nowhere/page.html"]));
    assert!(error.contains("expected a place with room: name another with --output"), "{error}");
    for price in ["0", "-1", "x", "inf"] {
        let out = report(&ab, &[&format!("--price={price}")]);
        assert!(text(&out.stderr).contains("expected a number above 0") && out.status.code() == Some(2), "{price}");
    }
}
