//! The options of the command.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

use super::serve::options::ServeArgs;
use crate::knobs::values;

/// Measure off/on side by side with your own llama-bench or llama-server
///
/// Stock runs with --repack 0 and with --repack 1 where its llama-bench can, and every other arm is
/// compared with the better of the two. Stock also runs against itself: a difference is stated only
/// when it lies outside what that shows. With --serve it is llama-server that is measured, under load.
/// Exit status: 0 measured, 1 error, 3 the shim took nothing
/// over, 130 interrupted.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// GGUF model; may be given several times
    #[arg(short, long, value_name = "FILE", required_unless_present = "like")]
    pub model: Vec<PathBuf>,
    /// Instead of a model: a slice of a well-known one, made if it is not there yet; `list` shows which
    #[arg(long, value_name = "NAME[:MIX]", conflicts_with = "model")]
    pub like: Option<String>,
    /// Layers of the slice [default: as in the list]
    #[arg(long, value_name = "N", requires = "like")]
    pub layers: Option<u32>,
    /// Folder of llama.cpp's programs (with llama-bench), or llama-bench itself [default: from PATH]
    #[arg(long, value_name = "DIR")]
    pub bin: Option<PathBuf>,
    /// The shim library, or its folder [default: SHIM_LIB, else beside this command or in ../lib]
    #[arg(long, value_name = "PATH")]
    pub lib: Option<PathBuf>,
    /// Prompt lengths; 0 for none
    #[arg(short, long, value_name = "N,N", value_delimiter = ',', default_value = "512")]
    pub pp: Vec<u32>,
    /// Generation lengths; 0 for none
    #[arg(short = 'n', long, value_name = "N,N", value_delimiter = ',', default_value = "64")]
    pub tg: Vec<u32>,
    /// Tokens in the context before each test [default: 0]
    #[arg(short, long, value_name = "N,N", value_delimiter = ',')]
    pub depth: Vec<u32>,
    /// Batch sizes of the prompts [default: llama-bench's]
    #[arg(short, long, value_name = "N,N", value_delimiter = ',')]
    pub batch_size: Vec<u32>,
    /// Micro-batch sizes of the prompts [default: llama-bench's]
    #[arg(short, long, value_name = "N,N", value_delimiter = ',')]
    pub ubatch_size: Vec<u32>,
    /// Small batches: columns per product, such as 2,4,8,16 (256 tokens in micro-batches of N)
    #[arg(long, value_name = "N,N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=256))]
    pub batch: Vec<u32>,
    /// Thread counts [default: 1 and all]
    #[arg(short, long, value_name = "N,N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Vec<u32>,
    /// Exactly so many interleaved pairs; a claim needs at least 6 [default: as many as the noise needs]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub pairs: Option<u32>,
    /// The most pairs, when their number is not fixed
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(u32).range(8..=1000))]
    pub max_pairs: u32,
    /// Stop when the interval of every speed is within so many percent
    #[arg(long, value_name = "PERCENT", default_value_t = 1.0, value_parser = percent)]
    pub precision: f64,
    /// One more arm; ITEM is VAR=VALUE, bin=DIR, lib=FILE, shim=off or repack=0|1. May be given several times
    #[arg(long, value_name = "NAME:ITEM,ITEM")]
    pub arm: Vec<Spec>,
    /// Leave out the default arm under the shim: only stock and what --arm names
    #[arg(long)]
    pub arms_only: bool,
    /// ZEN5TURBO_GATE of the shim's runs; `off` to measure on a CPU that is not Zen 5
    #[arg(long, value_parser = values("ZEN5TURBO_GATE"))]
    pub gate: Option<OsString>,
    /// ZEN5TURBO_KERNELS of the shim's runs
    #[arg(long, value_parser = values("ZEN5TURBO_KERNELS"))]
    pub kernels: Option<OsString>,
    /// Another build's folder for the stock side
    #[arg(long, value_name = "DIR")]
    pub stock_bin: Option<PathBuf>,
    /// Drop the model from the page cache before each run [default: read it first]
    #[arg(long)]
    pub cold: bool,
    /// Compare answers as well: KL divergence, same top token and perplexity on this text
    #[arg(long, value_name = "TEXT")]
    pub quality: Option<PathBuf>,
    /// Chunks of 512 tokens of the text
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    pub chunks: u32,
    /// Append a record of every run to this file, as it ends
    #[arg(long, value_name = "FILE")]
    pub jsonl: Option<PathBuf>,
    /// Append every raw value to this file, as it comes
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Write values and summary to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a report with plots to this file
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Do not measure load time and time to the first token
    #[arg(long)]
    pub no_load: bool,
    /// Measure even when the shim takes nothing over (what it costs by being there)
    #[arg(long)]
    pub allow_idle: bool,
    /// Longest time for one run, seconds
    #[arg(long, value_name = "S", default_value_t = 1800)]
    pub timeout: u64,
    /// More arguments for llama-bench, or llama-server with --serve, in every arm
    #[arg(last = true, value_name = "LLAMA ARGS")]
    pub more: Vec<String>,
    #[command(flatten)]
    pub serve: ServeArgs,
}

fn percent(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if value > 0.0 && value < 100.0 => Ok(value),
        _ => Err("expected a number of percent above 0 and below 100, such as 1".to_owned()),
    }
}

/// `--arm NAME:ITEM,ITEM...`
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    pub name: String,
    pub bin: Option<PathBuf>,
    pub lib: Option<PathBuf>,
    pub shim: bool,
    pub repack: Option<bool>,
    pub variables: BTreeMap<String, String>,
}

impl FromStr for Spec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "expected NAME:ITEM,ITEM... with VAR=VALUE, bin=DIR, lib=FILE, shim=off or repack=0|1 as items";
        let (name, items) = text.split_once(':').unwrap_or((text, ""));
        if name.trim().is_empty() || name.contains('=') {
            return Err(format!("the arm has no name; {expected}, such as thp-off:ZEN5TURBO_HUGEPAGES=off"));
        }
        let mut spec = Spec {
            name: name.trim().to_owned(),
            bin: None,
            lib: None,
            shim: true,
            repack: None,
            variables: BTreeMap::new(),
        };
        for item in items.split(',').filter(|item| !item.is_empty()) {
            let Some((key, value)) = item.split_once('=') else {
                return Err(format!("found \"{item}\", which has no =; {expected}"));
            };
            match (key, value) {
                ("bin", _) => spec.bin = Some(value.into()),
                ("lib", _) => spec.lib = Some(value.into()),
                ("shim", "on" | "off") => spec.shim = value == "on",
                ("repack", "0" | "1") => spec.repack = Some(value == "1"),
                (key, _) if key.chars().any(char::is_uppercase) => {
                    spec.variables.insert(key.to_owned(), value.to_owned());
                }
                _ => return Err(format!("found \"{item}\"; {expected}")),
            }
        }
        Ok(spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arm_is_a_name_and_items() {
        let spec: Spec = "thp:ZEN5TURBO_HUGEPAGES=thp,ZEN5TURBO_LOG=off".parse().unwrap();
        assert_eq!((spec.name.as_str(), spec.shim, spec.variables.len()), ("thp", true, 2));
        let spec: Spec = "zero code:shim=off,GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1,repack=0"
            .parse()
            .unwrap();
        assert!(!spec.shim);
        assert_eq!(spec.repack, Some(false));
        assert_eq!(spec.variables["GLIBC_TUNABLES"], "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1");
        let spec: Spec = "other:bin=/opt/llama,lib=/opt/z.so".parse().unwrap();
        assert_eq!((spec.bin, spec.lib), (Some("/opt/llama".into()), Some("/opt/z.so".into())));
        assert!("plain".parse::<Spec>().unwrap().variables.is_empty());
    }

    #[test]
    fn what_is_no_arm_is_refused_with_what_was_found_and_expected() {
        for (text, part) in [
            ("ZEN5TURBO_LOG=off", "has no name"),
            (":A=1", "has no name"),
            ("x:huge", "\"huge\", which has no ="),
            ("x:shim=maybe", "\"shim=maybe\""),
            ("x:repack=2", "\"repack=2\""),
            ("x:bni=/x", "\"bni=/x\""),
        ] {
            let error = text.parse::<Spec>().unwrap_err();
            assert!(error.contains(part) && error.contains("expected NAME:ITEM"), "{text}: {error}");
        }
    }
}
