//! What a measurement collects.

use std::collections::BTreeMap;

use zen5turbo_telemetry::Document;

use super::quality::Quality;
use super::run_once::Reading;
use crate::record::Raw;
use crate::smaps::Peaks;

/// Values of one run.
#[derive(Debug)]
pub struct Run {
    pub model: usize,
    /// Index of the plan's thread counts.
    pub block: usize,
    pub arm: usize,
    pub pair: u32,
    pub readings: Vec<Reading>,
}

/// Everything measured so far.
#[derive(Debug, Default)]
pub struct Measured {
    pub runs: Vec<Run>,
    pub raw: Vec<Raw>,
    /// llama.cpp's build and commit, by arm.
    pub builds: BTreeMap<usize, (u64, String)>,
    /// llama.cpp's name of the model's type, by model.
    pub types: BTreeMap<usize, String>,
    /// Memory by kind in the warm-up, by model and arm, and how much of the model was cached after it.
    pub memory: BTreeMap<(usize, usize), (Peaks, Option<u64>)>,
    /// What the shim did, by model, arm and group of tests.
    pub stats: BTreeMap<(usize, usize, &'static str), Document>,
    pub quality: Vec<Quality>,
    /// Things the reader has to know.
    pub warnings: Vec<String>,
}
