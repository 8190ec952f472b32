//! What a record holds.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::settings::Setting;
use crate::statistics::Better;

/// The layout of [`Record`]; a file of another one is refused.
pub const SCHEMA: u32 = 1;

/// What tells a record from other JSON files.
pub const KIND: &str = "zen5turbo bios record";

/// One experiment: how the machine was set, and what it did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    pub kind: String,
    pub schema: u32,
    pub label: String,
    /// UTC, ISO 8601: when it was begun.
    pub date: String,
    /// Of the command that made it, and its arguments.
    pub version: String,
    pub args: String,
    pub cpu: String,
    /// How long it took.
    pub seconds: f64,
    pub settings: Vec<Setting>,
    /// What the reader has to know of how it was measured.
    pub notes: Vec<String>,
    /// Every round measures everything once.
    pub rounds: Vec<Round>,
    pub results: Vec<Series>,
    /// What could not be measured, and why.
    pub unmeasured: Vec<Unmeasured>,
    /// Every pair of cores that was measured.
    pub pairs: Vec<CorePair>,
    /// What `zen5turbo ab` found, when a model was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ab: Option<Value>,
}

/// One turn of all measurements.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Round {
    pub seconds: f64,
    /// CPUs that other processes, or other guests of the same host, kept busy meanwhile, on average. Null
    /// where the kernel does not tell.
    pub others: Option<f64>,
}

/// CPUs that others may keep busy before a round counts as disturbed: the clock tick by which the kernel
/// counts makes a few hundredths of nothing.
const DISTURBED: f64 = 0.1;

impl Round {
    /// Whether the machine had other work to do.
    pub fn disturbed(&self) -> bool {
        self.others.is_some_and(|cpus| cpus > DISTURBED)
    }
}

/// What a result is about; results of a group belong into one plot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    Read,
    Copy,
    ReadCcd,
    CopyCcd,
    Latency,
    CoreToCore,
    Clock,
    Int8,
    Power,
    Ab,
}

/// The samples of one result.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Series {
    pub group: Group,
    /// The same in every record of such a machine.
    pub name: String,
    /// What it was measured over: threads, bytes, the number of a CCD.
    pub x: f64,
    pub unit: String,
    pub better: Better,
    /// One for each round; of `ab`, one for each pair of runs.
    pub samples: Vec<f64>,
}

impl Series {
    /// The samples of rounds in which the machine had nothing else to do.
    pub fn undisturbed(&self, rounds: &[Round]) -> Vec<f64> {
        if self.group == Group::Ab {
            return self.samples.clone();
        }
        let quiet = self.samples.iter().enumerate().filter(|(i, _)| !rounds.get(*i).is_some_and(Round::disturbed));
        quiet.map(|(_, &value)| value).collect()
    }
}

/// A result that is not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unmeasured {
    pub name: String,
    pub why: String,
}

/// How long a cache line takes from one core to another.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CorePair {
    /// The first CPU of each core.
    pub cpus: [usize; 2],
    /// Nanoseconds, one for each round.
    pub samples: Vec<f64>,
}
