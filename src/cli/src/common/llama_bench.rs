//! The user's own llama-bench: what it can do, how to ask it, and what its answer says.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::llama_program::{self, Program};

/// Tokens of one small-batch test: enough that its time is not all start-up, few enough to be short.
pub const BATCH_TOKENS: u32 = 256;

/// llama-bench's own batch and micro-batch, which a test's name leaves out.
const USUAL_BATCH: (u32, u32) = (2048, 512);

/// What is computed in a test of llama-bench.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Speed {
    /// Tokens of the prompt.
    pub prompt: u32,
    /// Tokens generated, one at a time.
    pub generate: u32,
    /// Tokens that lie in the context before.
    pub depth: u32,
    pub batch: u32,
    pub ubatch: u32,
}

/// One quantity that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Test {
    /// Tokens/s.
    Speed(Speed),
    /// A process that computes a prompt and ends, without the time of the prompt: seconds.
    Load,
    /// From the start of a process to the end of a prompt of so many tokens: seconds.
    FirstToken(u32),
    /// Largest resident set of a process that runs the speed tests, MiB.
    Memory,
}

impl Test {
    /// The unit of its values.
    pub fn unit(self) -> &'static str {
        match self {
            Test::Speed(_) => "tokens/s",
            Test::Load | Test::FirstToken(_) => "s",
            Test::Memory => "MiB",
        }
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Test::Speed(s) => {
                let mut parts = Vec::new();
                if s.prompt > 0 {
                    parts.push(format!("pp{}", s.prompt));
                }
                if s.generate > 0 {
                    parts.push(format!("tg{}", s.generate));
                }
                write!(f, "{}", parts.join("+"))?;
                if s.depth > 0 {
                    write!(f, " d{}", s.depth)?;
                }
                if s.batch != USUAL_BATCH.0 && s.prompt > 0 {
                    write!(f, " b{}", s.batch)?;
                }
                if s.ubatch != USUAL_BATCH.1 && s.prompt > 0 {
                    write!(f, " ub{}", s.ubatch)?;
                }
                Ok(())
            }
            Test::Load => write!(f, "load"),
            Test::FirstToken(n) => write!(f, "first token (pp{n})"),
            Test::Memory => write!(f, "memory"),
        }
    }
}

/// The tests that share one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Group {
    /// Prompts and generation; each list may be empty for llama-bench's own default (`pp` and `tg`: none).
    Main { pp: Vec<u32>, tg: Vec<u32>, depth: Vec<u32>, batch: Vec<u32>, ubatch: Vec<u32> },
    /// Columns of each micro-batch, [`BATCH_TOKENS`] tokens in all.
    Columns(Vec<u32>),
    /// Load time, and time to the first token after a prompt of so many tokens.
    Load(u32),
}

/// Options of llama-bench that say what is computed.
const SIZES: [&[&str]; 6] = [
    &["-p", "--n-prompt"],
    &["-n", "--n-gen"],
    &["-pg"],
    &["-d", "--n-depth"],
    &["-b", "--batch-size"],
    &["-ub", "--ubatch-size"],
];

/// Whether the user's own llama-bench options say what is computed, or with how many threads.
pub fn names_tests(more: &[String]) -> bool {
    more.iter().any(|word| SIZES[..3].concat().contains(&word.as_str()))
}

/// Whether the user's own llama-bench options say with how many threads.
pub fn names_threads(more: &[String]) -> bool {
    more.iter().any(|word| ["-t", "--threads"].contains(&word.as_str()))
}

impl Group {
    fn arguments(&self, more: &[String]) -> Vec<String> {
        let list = |v: &[u32]| v.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let mut words: Vec<String> = Vec::new();
        match self {
            Group::Main { pp, tg, depth, batch, ubatch } => {
                let or_none = |v: &[u32]| if v.is_empty() { "0".to_owned() } else { list(v) };
                if !names_tests(more) {
                    words.extend(["-p".into(), or_none(pp), "-n".into(), or_none(tg)]);
                }
                for (option, values) in [("-d", depth), ("-b", batch), ("-ub", ubatch)] {
                    if !values.is_empty() {
                        words.extend([option.into(), list(values)]);
                    }
                }
                words.extend(more.iter().cloned());
                return words;
            }
            Group::Columns(columns) => {
                let tokens = BATCH_TOKENS.to_string();
                words.extend(["-p", &tokens, "-n", "0", "-b", &tokens, "-ub", &list(columns)].map(String::from));
            }
            Group::Load(prompt) => {
                words.extend(["-p", &prompt.to_string(), "-n", "0", "--no-warmup"].map(String::from));
            }
        }
        // These have sizes of their own: llama-bench would add the user's to them.
        let mut skip = false;
        for word in more {
            let is_value = std::mem::take(&mut skip);
            if SIZES.concat().contains(&word.as_str()) {
                skip = true;
            } else if !is_value {
                words.push(word.clone());
            }
        }
        words
    }

    /// What it is called in messages and records.
    pub fn name(&self) -> &'static str {
        match self {
            Group::Main { .. } => "prompt and generation",
            Group::Columns(_) => "small batches",
            Group::Load(_) => "load",
        }
    }
}

/// A llama-bench executable and what it can do.
#[derive(Clone, Debug)]
pub struct Bench {
    pub path: PathBuf,
    /// It has `--repack <0|1>`.
    pub repack: bool,
    /// It has `--no-warmup`, without which a process computes more than what it is asked for.
    pub no_warmup: bool,
}

impl Program for Bench {
    fn find(bin: Option<&Path>) -> Result<Bench> {
        let (path, text) = llama_program::find("llama-bench", bin, "llama.cpp's own benchmark", "--n-prompt")?;
        Ok(Bench { path, repack: text.contains("--repack"), no_warmup: text.contains("--no-warmup") })
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn repack(&self, on: bool) -> Option<Vec<String>> {
        self.repack.then(|| vec!["--repack".to_owned(), u8::from(on).to_string()])
    }
}

impl Bench {
    /// The command for one group of tests; `threads` is left to `more` when there is none.
    pub fn command(&self, model: &Path, threads: Option<u32>, group: &Group, more: &[String]) -> Command {
        let mut command = Command::new(&self.path);
        command.arg("-m").arg(model).args(["-r", "1", "-o", "json"]);
        if let Some(threads) = threads {
            command.args(["-t", &threads.to_string()]);
        }
        command.args(group.arguments(more));
        command
    }
}

/// One test in llama-bench's answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    pub build_number: u64,
    pub build_commit: String,
    pub model_type: String,
    pub threads: u32,
    pub speed: Speed,
    /// Tokens per second.
    pub avg_ts: f64,
    /// Seconds that the tokens took.
    pub seconds: f64,
    /// All that llama-bench said of the test.
    pub fields: Value,
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
    let mut entries = Vec::new();
    for value in serde_json::Deserializer::from_str(text).into_iter::<Value>() {
        match value.context("llama-bench printed JSON that breaks off or is damaged; expected an array of tests")? {
            Value::Array(items) => entries.extend(items),
            other => entries.push(other),
        }
    }
    ensure!(!entries.is_empty(), "llama-bench's array of tests is empty; expected a result for each test asked for");
    entries.into_iter().map(entry).collect()
}

fn entry(value: Value) -> Result<Entry> {
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let small = |key: &str| value[key].as_u64().and_then(|n| u32::try_from(n).ok());
    let avg_ts = value["avg_ts"].as_f64().filter(|t| t.is_finite() && *t > 0.0);
    let (Some(prompt), Some(generate), Some(avg_ts)) = (small("n_prompt"), small("n_gen"), avg_ts) else {
        bail!("a test of llama-bench has no usable n_prompt, n_gen and avg_ts: {value}");
    };
    let speed = Speed {
        prompt,
        generate,
        depth: small("n_depth").unwrap_or(0),
        batch: small("n_batch").unwrap_or(USUAL_BATCH.0),
        ubatch: small("n_ubatch").unwrap_or(USUAL_BATCH.1),
    };
    Ok(Entry {
        build_number: value["build_number"].as_u64().unwrap_or(0),
        build_commit: text("build_commit"),
        model_type: text("model_type"),
        threads: small("n_threads").unwrap_or(0),
        speed,
        avg_ts,
        seconds: (f64::from(prompt) + f64::from(generate)) / avg_ts,
        fields: value,
    })
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
    "n_threads": 2,
    "repack": true,
    "n_prompt": 512,
    "n_gen": 0,
    "n_depth": 0,
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
    "n_depth": 4096,
    "avg_ts": 45.5
  }
]
"#;

    fn names(entries: &[Entry]) -> Vec<String> {
        entries.iter().map(|e| Test::Speed(e.speed).to_string()).collect()
    }

    #[test]
    fn absurd_numbers_of_tokens_are_no_panic() {
        let most = u32::MAX;
        let entries = parse(&format!(r#"{{"n_prompt":{most},"n_gen":{most},"avg_ts":2.0}}"#)).unwrap();
        assert_eq!(entries[0].seconds, f64::from(most));
    }

    #[test]
    fn the_array_form_is_read() {
        let entries = parse(ARRAY).unwrap();
        assert_eq!((entries[0].build_number, entries[0].build_commit.as_str()), (11434, "abc1234"));
        assert_eq!((entries[0].model_type.as_str(), entries[0].threads), ("llama 256M Q4_1", 2));
        assert_eq!(names(&entries), ["pp512", "tg64 d4096"]);
        assert_eq!((entries[0].avg_ts, entries[1].avg_ts), (170.032508, 45.5));
        assert!((entries[0].seconds - 512.0 / 170.032508).abs() < 1e-9);
        assert_eq!(entries[0].fields["cpu_info"], "AMD EPYC 9755", "nothing is lost");
    }

    #[test]
    fn the_line_form_and_a_banner_before_it_are_read() {
        let text = "load_backend: [loaded]\n{\"n_prompt\": 256, \"n_gen\": 0, \"n_batch\": 256, \"n_ubatch\": 2, \"avg_ts\": 30}\n{\"n_prompt\": 256, \"n_gen\": 32, \"n_ubatch\": 4, \"avg_ts\": 50.5}\n";
        assert_eq!(names(&parse(text).unwrap()), ["pp256 b256 ub2", "pp256+tg32 ub4"]);
    }

    #[test]
    fn answers_that_are_cut_or_lack_a_test_are_errors() {
        let error = |text: &str| format!("{:#}", parse(text).unwrap_err());
        assert!(error("").contains("no JSON"));
        assert!(error(&ARRAY[..300]).contains("breaks off"));
        assert!(error("[\n]\n").contains("empty"));
        assert!(error(r#"[{"n_prompt": 1, "n_gen": 0}]"#).contains("avg_ts"));
        assert!(error(r#"[{"n_prompt": 1, "n_gen": 0, "avg_ts": 0.0}]"#).contains("avg_ts"));
    }

    #[test]
    fn the_users_own_sizes_go_before_the_defaults_and_into_no_other_group() {
        let more = |text: &str| text.split_whitespace().map(String::from).collect::<Vec<_>>();
        let main = Group::Main { pp: vec![512], tg: vec![], depth: vec![0, 64], batch: vec![], ubatch: vec![128] };
        assert_eq!(main.arguments(&[]).join(" "), "-p 512 -n 0 -d 0,64 -ub 128");
        assert_eq!(main.arguments(&more("-fa 1")).join(" "), "-p 512 -n 0 -d 0,64 -ub 128 -fa 1");
        assert_eq!(main.arguments(&more("-n 32 -fa 1")).join(" "), "-d 0,64 -ub 128 -n 32 -fa 1");
        assert_eq!(
            Group::Columns(vec![2, 16]).arguments(&more("-p 64 -fa 1 --n-gen 8")).join(" "),
            "-p 256 -n 0 -b 256 -ub 2,16 -fa 1"
        );
        assert_eq!(Group::Load(512).arguments(&more("-d 8 -fa 1")).join(" "), "-p 512 -n 0 --no-warmup -fa 1");
    }

    #[test]
    fn a_folder_without_llama_bench_is_named() {
        let error = Bench::find(Some(Path::new("/proc/self/fd"))).unwrap_err().to_string();
        assert!(error.starts_with("there is no llama-bench at /proc/self/fd/llama-bench"), "{error}");
        let error = Bench::find(Some(Path::new("/bin/false"))).unwrap_err().to_string();
        assert!(error.contains("without naming --n-prompt"), "{error}");
    }
}
