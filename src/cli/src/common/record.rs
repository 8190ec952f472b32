//! What a measurement leaves behind, written as it comes: every raw value in a CSV file, every run as
//! one line of a JSONL file.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::Value;

/// Where, when and how a measurement was made.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Circumstances {
    /// UTC, ISO 8601.
    pub date: String,
    pub cpu: String,
    pub kernel: String,
    /// This command's version and arguments.
    pub version: &'static str,
    pub args: String,
    /// What the machine is and how it is set, as far as it can be read.
    pub machine: Vec<(String, String)>,
}

impl Circumstances {
    /// Of now and here.
    pub fn now(cpu: String, machine: Vec<(String, String)>) -> Self {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Circumstances {
            date: now(),
            cpu,
            kernel: kernel.trim().to_owned(),
            version: env!("CARGO_PKG_VERSION"),
            args: arguments(),
            machine,
        }
    }
}

/// The time, UTC, ISO 8601.
pub fn now() -> String {
    iso_date(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()))
}

/// This command's arguments.
pub fn arguments() -> String {
    let args: Vec<String> = std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
    args.join(" ")
}

/// Seconds since 1970 as `2026-01-31T23:59:59Z`; the date by Howard Hinnant's `civil_from_days`.
fn iso_date(seconds: u64) -> String {
    let (days, rest) = ((seconds / 86_400) as i64, seconds % 86_400);
    let z = days + 719_468;
    let era = z / 146_097;
    let doe = z % 146_097;
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// One value of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Raw {
    pub model: String,
    pub model_type: String,
    pub test: String,
    pub threads: u32,
    pub variant: String,
    pub pair: u32,
    /// Place of the run in its pair, from 1.
    pub position: u32,
    pub value: f64,
    pub unit: &'static str,
    /// Wall time of the process, seconds.
    pub wall_s: f64,
    /// Largest resident set of the process, bytes.
    pub max_rss: u64,
    pub llama_build: u64,
    pub llama_commit: String,
    pub binary: String,
    /// Variables set in the run.
    pub environment: String,
}

const HEADER: &str = "date,cpu,kernel,llama_build,llama_commit,binary,model,model_type,test,threads,variant,pair,position,value,unit,wall_s,max_rss_bytes,args,shim_environment";

/// A CSV file that grows; several measurements may follow one another in it.
#[derive(Debug)]
pub struct Csv {
    file: File,
    path: PathBuf,
}

impl Csv {
    /// Opens `path` to append, with a header when it is new.
    pub fn open(path: &Path) -> Result<Csv> {
        let what = || format!("cannot write the CSV record {}", path.display());
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path).with_context(what)?;
        let mut first = String::new();
        BufReader::new(&file).read_line(&mut first).with_context(what)?;
        if first.is_empty() {
            writeln!(file, "{HEADER}").with_context(what)?;
        } else {
            ensure!(
                first.trim_end() == HEADER,
                "{} exists and is not a record of this version (found the columns {}; expected {HEADER}); name another file with --csv",
                path.display(),
                first.trim_end()
            );
        }
        Ok(Csv { file, path: path.to_owned() })
    }

    /// Appends one value.
    pub fn add(&mut self, at: &Circumstances, raw: &Raw) -> Result<()> {
        let fields = [
            at.date.clone(),
            at.cpu.clone(),
            at.kernel.clone(),
            raw.llama_build.to_string(),
            raw.llama_commit.clone(),
            raw.binary.clone(),
            raw.model.clone(),
            raw.model_type.clone(),
            raw.test.clone(),
            raw.threads.to_string(),
            raw.variant.clone(),
            raw.pair.to_string(),
            raw.position.to_string(),
            raw.value.to_string(),
            raw.unit.to_owned(),
            format!("{:.4}", raw.wall_s),
            raw.max_rss.to_string(),
            at.args.clone(),
            raw.environment.clone(),
        ];
        let line = fields.map(|f| quoted(&f)).join(",");
        writeln!(self.file, "{line}").with_context(|| format!("cannot write the CSV record {}", self.path.display()))
    }
}

/// A JSONL file that grows. Every record is one write of one whole line, so that what interrupts a
/// measurement leaves the lines before it intact.
#[derive(Debug)]
pub struct Jsonl {
    file: File,
    path: PathBuf,
}

impl Jsonl {
    /// Opens `path` to append. A line that an earlier full disk has cut short is ended.
    pub fn open(path: &Path) -> Result<Jsonl> {
        let what = || format!("cannot write the JSONL record {}", path.display());
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path).with_context(what)?;
        let regular = file.metadata().with_context(what)?.is_file();
        if regular && file.seek(SeekFrom::End(-1)).is_ok() {
            let mut last = [0];
            file.read_exact(&mut last).with_context(what)?;
            if last != *b"\n" {
                file.write_all(b"\n").with_context(what)?;
            }
        }
        Ok(Jsonl { file, path: path.to_owned() })
    }

    /// Appends one record.
    pub fn add(&mut self, record: &Value) -> Result<()> {
        self.file.write_all(format!("{record}\n").as_bytes()).with_context(|| {
            format!(
                "cannot write the JSONL record {}; expected a place with room: free some or name another file with --jsonl",
                self.path.display()
            )
        })
    }
}

fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right_at_the_edges() {
        assert_eq!(iso_date(0), "1970-01-01T00:00:00Z");
        assert_eq!(iso_date(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(iso_date(1_767_225_599), "2025-12-31T23:59:59Z");
    }

    #[test]
    fn fields_with_commas_and_quotes_are_quoted() {
        assert_eq!(quoted("plain text"), "plain text");
        assert_eq!(quoted("a,b"), "\"a,b\"");
        assert_eq!(quoted("say \"x\""), "\"say \"\"x\"\"\"");
    }

    #[test]
    fn a_record_is_appended_to_and_a_foreign_file_is_refused() {
        let path = std::env::temp_dir().join(format!("zen5turbo-record-{}.csv", std::process::id()));
        let _ = fs::remove_file(&path);
        let raw = Raw {
            model: "m.gguf".into(),
            model_type: "llama 256M Q4_1".into(),
            test: "pp512".into(),
            threads: 1,
            variant: "shim".into(),
            pair: 1,
            position: 3,
            value: 170.5,
            unit: "tokens/s",
            wall_s: 1.5,
            max_rss: 1 << 20,
            llama_build: 11434,
            llama_commit: "abc".into(),
            binary: "/x/llama-bench".into(),
            environment: "ZEN5TURBO_GATE=off".into(),
        };
        for _ in 0..2 {
            Csv::open(&path).unwrap().add(&Circumstances::default(), &raw).unwrap();
        }
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "one header, two values:\n{text}");
        assert!(lines[1..].iter().all(|l| l.split(',').count() == HEADER.split(',').count()));
        fs::write(&path, "a,b\n1,2\n").unwrap();
        assert!(Csv::open(&path).unwrap_err().to_string().contains("found the columns a,b"));
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn records_are_whole_lines_after_whatever_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.jsonl");
        fs::write(&path, "{\"a\":1}\n{\"cut").unwrap();
        Jsonl::open(&path).unwrap().add(&serde_json::json!({"b": 2})).unwrap();
        Jsonl::open(&path).unwrap().add(&serde_json::json!({"c": 3})).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"a\":1}\n{\"cut\n{\"b\":2}\n{\"c\":3}\n");
        let error = Jsonl::open(Path::new("/dev/full")).unwrap().add(&serde_json::json!({})).unwrap_err();
        assert!(format!("{error:#}").contains("/dev/full; expected a place with room"), "{error:#}");
    }
}
