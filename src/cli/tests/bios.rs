//! `zen5turbo bios` as a whole: records, their list, and what a comparison may say.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder of records.
struct Records(TempDir);

impl Records {
    fn new() -> Self {
        Records(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zen5turbo"));
        command.arg("bios").args(words).arg("--dir").arg(self.path()).stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// What it prints, when it ends well.
    fn good(&self, words: &[&str]) -> String {
        let out = self.run(words);
        assert!(out.status.success(), "{words:?}: {}", stderr(&out));
        String::from_utf8(out.stdout).unwrap()
    }

    /// The one line with which it fails.
    fn bad(&self, words: &[&str]) -> String {
        let out = self.run(words);
        assert_eq!(out.status.code(), Some(1), "{words:?}: {}", stderr(&out));
        let line = stderr(&out);
        assert_eq!(line.trim_end().lines().count(), 1, "{line}");
        line
    }

    fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.good(words)).unwrap()
    }

    /// A made record.
    fn put(&self, label: &str, second: u32, settings: &Value, results: &Value) -> PathBuf {
        let rounds: Vec<Value> = (0..10).map(|_| json!({"seconds": 1.0, "others": 0.0})).collect();
        self.put_with(label, second, settings, results, &json!(rounds))
    }

    fn put_with(&self, label: &str, second: u32, settings: &Value, results: &Value, rounds: &Value) -> PathBuf {
        let date = format!("2026-11-21T10:00:{second:02}Z");
        let record = json!({
            "kind": "zen5turbo bios record", "schema": 1, "label": label, "date": date, "version": "0.1.0", "args": "",
            "cpu": "AMD Ryzen 9 9950X", "seconds": 10.0, "settings": settings, "notes": [], "rounds": rounds,
            "results": results, "unmeasured": [], "pairs": [{"cpus": [0, 1], "samples": [20.0, 21.0]}],
        });
        let path =
            self.path().join(format!("{}.json", if second < 10 { label.to_owned() } else { date.replace(':', "") }));
        fs::write(&path, record.to_string()).unwrap();
        path
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path()).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// Ten samples around `middle`, +-1 %, in an order of `seed`.
fn noisy(middle: f64, seed: usize) -> Vec<f64> {
    (0..10).map(|i| middle * (1.0 + 0.002 * ((i * 7 + seed * 3) % 10) as f64 - 0.009)).collect()
}

fn read(samples: &[f64]) -> Value {
    json!([{"group": "read", "name": "read, 2 threads", "x": 2.0, "unit": "GB/s", "better": "higher", "samples": samples}])
}

fn settings(speed: &str) -> Value {
    json!([
        {"id": "bios.version", "value": "3.20"},
        {"id": "memory.speed", "value": speed},
        {"id": "fabric.fclk", "unreadable": "the kernel module ryzen_smu is not loaded"},
    ])
}

#[test]
fn a_record_holds_settings_with_reasons_and_samples_of_every_round() {
    let records = Records::new();
    let record = records.json(&["record", "--label", "as it is", "--rounds", "2", "--json"]);
    assert_eq!((&record["kind"], &record["label"]), (&json!("zen5turbo bios record"), &json!("as it is")));
    let settings = record["settings"].as_array().unwrap();
    assert!(settings.iter().any(|s| s["id"] == "kernel.release" && s["value"].is_string()));
    assert!(settings.iter().all(|s| s["value"].is_string() != s["unreadable"].is_string()), "{settings:?}");
    let results = record["results"].as_array().unwrap();
    assert!(results.iter().all(|r| r["samples"].as_array().unwrap().len() == 2));
    for group in ["read", "copy", "latency", "clock", "int8"] {
        assert!(results.iter().any(|r| r["group"] == group), "{group} in {results:?}");
    }
    assert_eq!(record["rounds"].as_array().unwrap().len(), 2);
    let [file] = &records.files()[..] else { panic!("{:?}", records.files()) };
    assert!(file.ends_with("Z-as-it-is.json"), "{file}");
    assert_eq!(serde_json::from_str::<Value>(&fs::read_to_string(records.path().join(file)).unwrap()).unwrap(), record);
}

#[test]
fn records_are_added_and_never_replaced() {
    let records = Records::new();
    for _ in 0..3 {
        records.good(&["record", "--label", "same", "--settings-only"]);
    }
    let files = records.files();
    assert_eq!(files.len(), 3, "{files:?}");
    let list = records.json(&["list", "--json"]);
    assert_eq!(list["records"].as_array().unwrap().len(), 3);
    let table = records.good(&["list"]);
    assert!(table.contains("BIOS") && table.contains("same") && table.contains(" 3 "), "{table}");
    let line = records.bad(&["compare", "same", "1"]);
    assert!(line.contains("3 records have the label same; name one by its number: 1, 2, 3"), "{line}");
}

#[test]
fn settings_of_a_made_machine_are_recorded_and_a_change_is_shown() {
    let (records, root) = (Records::new(), tempfile::tempdir().unwrap());
    let bios = root.path().join("sys/class/dmi/id/bios_version");
    fs::create_dir_all(bios.parent().unwrap()).unwrap();
    let root = root.path().to_str().unwrap();
    for (label, version) in [("before", "3.10"), ("after", "3.20")] {
        fs::write(&bios, version).unwrap();
        records.good(&["record", "--label", label, "--settings-only", "--root", root]);
    }
    let json = records.json(&["compare", "before", "after", "--json"]);
    let change = json!([{"id": "bios.version", "readings": [{"value": "3.10"}, {"value": "3.20"}]}]);
    assert_eq!(json["settings"], change);
    let text = records.good(&["compare", "before", "after"]);
    assert!(text.contains("bios.version") && text.contains("3.10") && text.contains("3.20"), "{text}");
    assert!(text.contains("The records have no result in common."), "{text}");
}

#[test]
fn equal_samples_are_no_change_and_others_are() {
    let records = Records::new();
    records.put("a", 0, &settings("4800 MT/s"), &read(&noisy(60.0, 0)));
    records.put("b", 1, &settings("4800 MT/s"), &read(&noisy(60.1, 1)));
    records.put("fast", 2, &settings("6000 MT/s"), &read(&noisy(75.0, 2)));
    let same = records.json(&["compare", "a", "b", "--json"]);
    assert_eq!(same["settings"], json!([]));
    assert_eq!((&same["equal_settings"], &same["unreadable_settings"]), (&json!(2), &json!(["fabric.fclk"])));
    assert_eq!(same["results"][0]["compared"][0]["change"], false);
    assert_eq!(same["findings"], json!(["The records show no change in any result."]));
    let other = records.json(&["compare", "1", "3", "--json"]);
    assert_eq!(other["settings"][0]["id"], "memory.speed");
    let compared = &other["results"][0]["compared"][0];
    assert_eq!((&compared["change"], &compared["result"]), (&json!(true), &json!("better")));
    assert!((1.2..1.3).contains(&compared["ratio"].as_f64().unwrap()), "{compared}");
    let back = records.json(&["compare", "fast", "a", "b", "--json"]);
    let results = back["results"][0]["compared"].as_array().unwrap();
    assert!(results.len() == 2 && results.iter().all(|r| r["result"] == "WORSE"), "{back}");
}

#[test]
fn a_drift_within_a_record_widens_the_noise() {
    let records = Records::new();
    let drifting: Vec<f64> = (0..10).map(|i| 60.0 + 2.0 * f64::from(i)).collect();
    records.put("steady", 0, &json!([]), &read(&noisy(60.0, 0)));
    records.put("drifting", 1, &json!([]), &read(&drifting));
    let json = records.json(&["compare", "steady", "drifting", "--json"]);
    assert_eq!(json["results"][0]["compared"][0]["change"], false, "{json}");
}

#[test]
fn what_the_same_experiment_showed_another_time_is_noise() {
    let records = Records::new();
    let one = |label: &str, second, middle: f64| {
        records.put(label, second, &settings("4800 MT/s"), &read(&noisy(middle, second as usize)));
    };
    one("a", 0, 60.0);
    one("b", 1, 75.0);
    let once = records.json(&["compare", "a", "b", "--json"]);
    assert_eq!(once["results"][0]["compared"][0]["change"], true);
    assert!(once["warnings"][0].as_str().unwrap().starts_with("A, B: recorded once."), "{once}");
    // The machine did half of it by itself: 1.25 is still more than 1.12, and not more than 1.3.
    one("a", 10, 67.0);
    assert_eq!(records.json(&["compare", "1", "2", "--json"])["results"][0]["compared"][0]["change"], true);
    one("b", 11, 58.0);
    let noise = records.json(&["compare", "1", "2", "--json"]);
    let compared = &noise["results"][0]["compared"][0];
    assert_eq!(compared["result"], "no change shown (within the noise)", "{noise}");
    assert_eq!(noise["warnings"], json!([]));
    // Against itself a label never shows a change.
    assert_eq!(records.json(&["compare", "2", "4", "--json"])["results"][0]["compared"][0]["change"], false);
    // With other settings it is another experiment.
    records.put("c", 12, &settings("5200 MT/s"), &read(&noisy(60.0, 0)));
    records.put("c", 13, &settings("6000 MT/s"), &read(&noisy(75.0, 0)));
    assert_eq!(records.json(&["compare", "5", "6", "--json"])["results"][0]["compared"][0]["change"], true);
}

#[test]
fn disturbed_rounds_are_left_out_and_too_few_others_say_nothing() {
    let records = Records::new();
    let rounds = |busy: usize| -> Value {
        (0..10).map(|i| json!({"seconds": 1.0, "others": if i < busy { 0.9 } else { 0.01 }})).collect()
    };
    let mut samples = noisy(60.0, 1);
    samples[..2].fill(30.0);
    records.put("a", 0, &json!([]), &read(&noisy(60.0, 0)));
    records.put_with("some", 1, &json!([]), &read(&samples), &rounds(2));
    records.put_with("most", 2, &json!([]), &read(&[30.0; 10]), &rounds(9));
    let some = records.json(&["compare", "a", "some", "--json"]);
    assert_eq!(some["results"][0]["records"][1]["left_out"], 2);
    assert_eq!(some["results"][0]["compared"][0]["change"], false);
    let most = records.json(&["compare", "a", "most", "--json"]);
    let compared = &most["results"][0]["compared"][0];
    assert_eq!(compared["result"], "too few samples to say: the machine was busy with other work");
    records.put_with("all", 3, &json!([]), &read(&[30.0; 10]), &rounds(10));
    let all = records.json(&["compare", "a", "all", "--json"]);
    assert_eq!(all["findings"], json!(["No result can be compared: a record has no undisturbed sample."]));
    assert!(most["warnings"][0].as_str().unwrap().contains("9 of 10 rounds are left out"), "{most}");
}

#[test]
fn the_page_stands_by_itself() {
    let records = Records::new();
    let latency = |middle: f64| -> Value {
        let series = |(i, name): (usize, &str)| {
            let bytes = (16 << 10) << i;
            json!({"group": "latency", "name": name, "x": bytes, "unit": "ns", "better": "lower",
                   "samples": noisy(middle * (i + 1) as f64, i)})
        };
        ["latency, 16 KiB", "latency, 32 KiB", "latency, 64 KiB"].into_iter().enumerate().map(series).collect()
    };
    records.put("<slow> & old", 0, &settings("4800 MT/s"), &latency(4.0));
    records.put("new", 1, &settings("6000 MT/s"), &latency(3.0));
    let page = records.path().join("page.html");
    records.good(&["compare", "1", "2", "--html", page.to_str().unwrap()]);
    let page = fs::read_to_string(page).unwrap();
    for expected in
        ["<!DOCTYPE html>", "prefers-color-scheme: dark", "&lt;slow&gt; &amp; old", "memory.speed", "better", "<svg"]
    {
        assert!(page.contains(expected), "{expected}");
    }
    let outside = page.replace("http://www.w3.org/2000/svg", "");
    assert!(!outside.contains("http") && !outside.contains("src=") && !outside.contains("<script"));
}

#[test]
fn what_is_named_wrongly_is_told_in_one_line() {
    let records = Records::new();
    assert!(records.good(&["list"]).starts_with("no records in "));
    assert!(
        records
            .bad(&["compare", "1", "2"])
            .contains("there is no record 1; expected a number of `zen5turbo bios list`")
    );
    assert!(records.bad(&["compare", "gone", "gone"]).contains("has the label gone; expected a label or a number"));
    records.put("good", 0, &json!([]), &json!([]));
    let missing = records.bad(&["compare", "good", "/no/such.json"]);
    assert!(missing.contains("cannot read /no/such.json; expected a record of `zen5turbo bios`"), "{missing}");
    let path = records.path().join("bad.json");
    for (text, expected) in [
        ("{\"kind\": \"zen5turbo", "bad.json is no record: found EOF while parsing"),
        ("{\"a\": 1}", "found \"kind\": null"),
        ("{\"kind\": \"zen5turbo bios record\", \"schema\": 9, \"version\": \"7.0\"}", "has layout 9; expected 1"),
        ("{\"kind\": \"zen5turbo bios record\", \"schema\": 1}", "is no record: found missing field"),
    ] {
        fs::write(&path, text).unwrap();
        let line = records.bad(&["compare", "good", path.to_str().unwrap()]);
        assert!(line.contains(expected), "{line}");
        let list = records.run(&["list"]);
        assert!(list.status.success() && stderr(&list).contains("left out: "), "{}", stderr(&list));
        assert!(String::from_utf8_lossy(&list.stdout).contains("good"));
    }
    for label in ["", "7", "a/b", "two\nlines"] {
        let out = records.run(&["record", "--settings-only", &format!("--label={label}")]);
        assert_eq!(out.status.code(), Some(2), "{label:?}");
    }
    let model = records.bad(&["record", "--label", "x", "-m", "/no/model.gguf"]);
    assert!(model.contains("/no/model.gguf"), "{model}");
    assert_eq!(records.files(), ["bad.json", "good.json"], "nothing was begun");
}

#[test]
fn a_folder_that_cannot_be_used_is_told_before_the_measurement() {
    let records = Records::new();
    let file = records.path().join("file");
    fs::write(&file, "").unwrap();
    let run = |dir: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zen5turbo"));
        command.args(["bios", "record", "--label", "x", "--dir", dir]).output().unwrap()
    };
    for dir in [file.to_str().unwrap(), "/proc/nothing"] {
        let out = run(dir);
        assert_eq!(out.status.code(), Some(1));
        assert!(
            stderr(&out).contains(&format!("cannot write a record in {dir}; expected a folder")),
            "{}",
            stderr(&out)
        );
    }
    // Root may read everything; others are told.
    fs::create_dir(records.path().join("closed")).unwrap();
    let closed = records.path().join("closed");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read_dir(&closed).is_err() {
        let mut list = Command::new(env!("CARGO_BIN_EXE_zen5turbo"));
        let out = list.args(["bios", "list", "--dir"]).arg(&closed).output().unwrap();
        assert!(stderr(&out).contains("cannot read the folder of records"), "{}", stderr(&out));
    }
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn no_room_leaves_the_records_as_they_were() {
    let records = Records::new();
    records.put("good", 0, &json!([]), &json!([]));
    let before = fs::read(records.path().join("good.json")).unwrap();
    // The shell's limit on the size of files, without the signal, is what a full disk is to a program.
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; ulimit -f 64; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_zen5turbo")]);
    command.args(["bios", "record", "--label", "x", "--settings-only", "--dir"]).arg(records.path());
    let out = command.output().unwrap();
    assert_eq!(out.status.code(), Some(1), "{}", stderr(&out));
    assert!(stderr(&out).contains("expected a folder with room"), "{}", stderr(&out));
    assert_eq!(records.files(), ["good.json"]);
    assert_eq!(fs::read(records.path().join("good.json")).unwrap(), before);
    let line = records.bad(&["compare", "good", "good", "--html", "/dev/full"]);
    assert!(line.contains("cannot write the report /dev/full; expected a place with room"), "{line}");
}

#[test]
fn ctrl_c_leaves_nothing_behind() {
    let records = Records::new();
    records.put("good", 0, &json!([]), &json!([]));
    let mut command = records.command(&["record", "--label", "x", "--rounds", "200"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).spawn().unwrap();
    let start = Instant::now();
    while records.files().len() < 2 && start.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(300));
    // SAFETY: a signal to the child, which has not been waited for.
    assert_eq!(unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGINT) }, 0);
    let out = child.wait_with_output().unwrap();
    assert_eq!((out.status.code(), out.status.signal()), (Some(130), None), "{}", stderr(&out));
    assert!(stderr(&out).contains("interrupted: nothing was recorded"), "{}", stderr(&out));
    assert_eq!(records.files(), ["good.json"]);
}
