//! The user's own llama-bench: what it can do, how to ask it, and what its answer says.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::process;
use crate::shim;

/// Tokens of one small-batch test: enough that its time is not all start-up, few enough to be short.
pub const BATCH_TOKENS: u32 = 256;

/// One quantity that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Test {
    /// Prompt processing of so many tokens, tokens/s.
    Prompt(u32),
    /// Generation of so many tokens, tokens/s.
    Generate(u32),
    /// [`BATCH_TOKENS`] tokens in micro-batches of so many columns, tokens/s.
    Batch(u32),
    /// A whole process: load the model, compute one token, end; seconds.
    Load,
    /// Largest resident set of a process that runs the prompt and generation tests, MiB.
    Memory,
}

impl Test {
    pub fn unit(self) -> &'static str {
        match self {
            Test::Prompt(_) | Test::Generate(_) | Test::Batch(_) => "tokens/s",
            Test::Load => "s",
            Test::Memory => "MiB",
        }
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Test::Prompt(n) => write!(f, "pp{n}"),
            Test::Generate(n) => write!(f, "tg{n}"),
            Test::Batch(n) => write!(f, "batch{n}"),
            Test::Load => write!(f, "load"),
            Test::Memory => write!(f, "memory"),
        }
    }
}

/// The tests that share one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Group {
    /// Prompt and generation lengths.
    Main { pp: Vec<u32>, tg: Vec<u32> },
    /// Columns of each micro-batch.
    Batch(Vec<u32>),
    /// Load time.
    Load,
}

impl Group {
    fn arguments(&self, no_warmup: bool) -> Vec<String> {
        let list = |v: &[u32]| v.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let words: Vec<String> = match self {
            Group::Main { pp, tg } => {
                let or_none = |v: &[u32]| if v.is_empty() { "0".to_owned() } else { list(v) };
                vec!["-p".into(), or_none(pp), "-n".into(), or_none(tg)]
            }
            Group::Batch(columns) => {
                let tokens = BATCH_TOKENS.to_string();
                vec![
                    "-p".into(),
                    tokens.clone(),
                    "-n".into(),
                    "0".into(),
                    "-b".into(),
                    tokens,
                    "-ub".into(),
                    list(columns),
                ]
            }
            Group::Load => {
                let mut words: Vec<String> = ["-p", "1", "-n", "0"].map(String::from).into();
                if no_warmup {
                    words.push("--no-warmup".into());
                }
                words
            }
        };
        words
    }

    /// The test that an entry of llama-bench's answer belongs to.
    fn test_of(&self, entry: &Entry) -> Option<Test> {
        match (self, entry.n_prompt, entry.n_gen) {
            (Group::Main { .. }, n, 0) if n > 0 => Some(Test::Prompt(n)),
            (Group::Main { .. }, 0, n) if n > 0 => Some(Test::Generate(n)),
            (Group::Batch(_), _, 0) => Some(Test::Batch(entry.n_ubatch)),
            _ => None,
        }
    }

    /// The tests this group is to bring.
    pub fn tests(&self) -> Vec<Test> {
        match self {
            Group::Main { pp, tg } => pp
                .iter()
                .map(|&n| Test::Prompt(n))
                .chain(tg.iter().map(|&n| Test::Generate(n)))
                .chain([Test::Memory])
                .collect(),
            Group::Batch(columns) => columns.iter().map(|&n| Test::Batch(n)).collect(),
            Group::Load => vec![Test::Load],
        }
    }
}

/// A llama-bench executable and what it can do.
#[derive(Clone, Debug)]
pub struct Bench {
    pub path: PathBuf,
    /// It has `--repack <0|1>`.
    pub repack: bool,
    no_warmup: bool,
}

impl Bench {
    /// Finds llama-bench in the folder `bin` (or takes `bin` itself) and asks it for its options.
    pub fn find(bin: &Path) -> Result<Bench> {
        let path = if bin.is_dir() { bin.join("llama-bench") } else { bin.to_owned() };
        ensure!(
            path.is_file(),
            "there is no llama-bench at {}; expected a folder with llama.cpp's programs: build the target llama-bench, or name its folder with --bin",
            path.display()
        );
        // With a slash, so that a bare name is not looked up in PATH; else as given, for the record.
        let path = if path.components().count() == 1 { Path::new(".").join(path) } else { path };
        let mut command = Command::new(&path);
        command.arg("--help");
        shim::without_shim(&mut command);
        let help = process::run(command, Duration::from_secs(60))?;
        let text = format!("{}{}", help.stdout, help.stderr);
        ensure!(
            text.contains("--n-prompt"),
            "{} --help {} without naming --n-prompt; expected llama.cpp's llama-bench. It said:\n{}",
            path.display(),
            help.ending(),
            help.last_words(5)
        );
        Ok(Bench { path, repack: text.contains("--repack"), no_warmup: text.contains("--no-warmup") })
    }

    /// The command for one group of tests.
    pub fn command(&self, model: &Path, threads: u32, group: &Group, more: &[String]) -> Command {
        let mut command = Command::new(&self.path);
        command.arg("-m").arg(model).args(["-t", &threads.to_string(), "-r", "1", "-o", "json"]);
        command.args(group.arguments(self.no_warmup)).args(more);
        command
    }
}

/// One test in llama-bench's answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    pub build_number: u64,
    pub build_commit: String,
    pub model_type: String,
    pub n_prompt: u32,
    pub n_gen: u32,
    pub n_ubatch: u32,
    /// Tokens per second.
    pub avg_ts: f64,
}

/// Parses llama-bench's `-o json` (an array) or `-o jsonl` (an object on each line). Anything that a
/// backend printed before it is skipped.
pub fn parse(stdout: &str) -> Result<Vec<Entry>> {
    let start = stdout
        .lines()
        .scan(0, |at, line| {
            let here = *at;
            *at += line.len() + 1;
            Some((here, line.trim_start()))
        })
        .find(|(_, line)| *line == "[" || line.starts_with("[{") || line.starts_with('{'))
        .map(|(at, _)| at);
    let Some(text) = start.and_then(|at| stdout.get(at..)) else {
        bail!("llama-bench printed no JSON; expected an array of tests");
    };
    let mut values = Vec::new();
    for value in serde_json::Deserializer::from_str(text).into_iter::<Value>() {
        match value.context("llama-bench printed JSON that breaks off or is damaged")? {
            Value::Array(items) => values.extend(items),
            other => values.push(other),
        }
    }
    values.iter().map(entry).collect()
}

fn entry(value: &Value) -> Result<Entry> {
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let small = |key: &str| value[key].as_u64().and_then(|n| u32::try_from(n).ok());
    let avg_ts = value["avg_ts"].as_f64().filter(|t| t.is_finite() && *t > 0.0);
    let (Some(n_prompt), Some(n_gen), Some(avg_ts)) = (small("n_prompt"), small("n_gen"), avg_ts) else {
        bail!("a test of llama-bench has no usable n_prompt, n_gen and avg_ts: {value}");
    };
    Ok(Entry {
        build_number: value["build_number"].as_u64().unwrap_or(0),
        build_commit: text("build_commit"),
        model_type: text("model_type"),
        n_prompt,
        n_gen,
        n_ubatch: small("n_ubatch").unwrap_or(0),
        avg_ts,
    })
}

/// The values of `group`'s tests in `entries`; an error names the test that is missing.
pub fn values(group: &Group, entries: &[Entry]) -> Result<Vec<(Test, f64)>> {
    let mut found = Vec::new();
    for test in group.tests() {
        if matches!(test, Test::Load | Test::Memory) {
            continue;
        }
        let entry = entries.iter().find(|e| group.test_of(e) == Some(test));
        let Some(entry) = entry else {
            bail!("llama-bench gave no result for {test}; expected one for each test asked for");
        };
        found.push((test, entry.avg_ts));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shortened from llama-bench b11434's own output.
    const ARRAY: &str = r#"[
  {
    "build_commit": "abc1234",
    "build_number": 11434,
    "cpu_info": "AMD EPYC 9755",
    "model_type": "llama 256M Q4_1",
    "n_batch": 2048,
    "n_ubatch": 512,
    "repack": true,
    "n_prompt": 512,
    "n_gen": 0,
    "avg_ns": 188199306,
    "avg_ts": 170.032508,
    "stddev_ts": 0.000000,
    "samples_ts": [ 170.033 ]
  },
  {
    "build_commit": "abc1234",
    "build_number": 11434,
    "n_ubatch": 512,
    "n_prompt": 0,
    "n_gen": 64,
    "avg_ts": 45.5
  }
]
"#;

    #[test]
    fn the_array_form_is_read() {
        let entries = parse(ARRAY).unwrap();
        assert_eq!(entries.len(), 2);
        assert_eq!((entries[0].build_number, entries[0].build_commit.as_str()), (11434, "abc1234"));
        assert_eq!(entries[0].model_type, "llama 256M Q4_1");
        let group = Group::Main { pp: vec![512], tg: vec![64] };
        assert_eq!(values(&group, &entries).unwrap(), [(Test::Prompt(512), 170.032508), (Test::Generate(64), 45.5)]);
    }

    #[test]
    fn the_line_form_and_a_banner_before_it_are_read() {
        let text = "load_backend: [loaded]\n{\"n_prompt\": 256, \"n_gen\": 0, \"n_ubatch\": 2, \"avg_ts\": 30}\n{\"n_prompt\": 256, \"n_gen\": 0, \"n_ubatch\": 4, \"avg_ts\": 50.5}\n";
        let entries = parse(text).unwrap();
        let group = Group::Batch(vec![4, 2]);
        assert_eq!(values(&group, &entries).unwrap(), [(Test::Batch(4), 50.5), (Test::Batch(2), 30.0)]);
    }

    #[test]
    fn answers_that_are_cut_or_lack_a_test_are_errors() {
        let error = |text: &str| format!("{:#}", parse(text).unwrap_err());
        assert!(error("").contains("no JSON"));
        assert!(error(&ARRAY[..300]).contains("breaks off"));
        assert!(error(r#"[{"n_prompt": 1, "n_gen": 0}]"#).contains("avg_ts"));
        assert!(error(r#"[{"n_prompt": 1, "n_gen": 0, "avg_ts": 0.0}]"#).contains("avg_ts"));
        let group = Group::Main { pp: vec![128], tg: vec![] };
        let missing = values(&group, &parse(ARRAY).unwrap()).unwrap_err().to_string();
        assert!(missing.contains("pp128"), "{missing}");
    }

    #[test]
    fn small_batches_process_256_tokens_in_micro_batches() {
        let words = Group::Batch(vec![2, 16]).arguments(true).join(" ");
        assert_eq!(words, "-p 256 -n 0 -b 256 -ub 2,16");
        assert_eq!(Group::Main { pp: vec![], tg: vec![64] }.arguments(true).join(" "), "-p 0 -n 64");
        assert_eq!(Group::Load.arguments(true).join(" "), "-p 1 -n 0 --no-warmup");
        assert_eq!(Group::Load.arguments(false).join(" "), "-p 1 -n 0");
    }
}
