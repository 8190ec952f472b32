//! What a measurement of llama-server collects, and what it may say of it.

use std::collections::BTreeMap;

use serde::Serialize;
use zen5turbo_telemetry::Document;

use super::figures::{Counts, Name, better};
use super::options::Scenario;
use super::plan::Plan;
use super::scenario::Outcome;
use crate::ab::compare::{Compared, compare};

/// One server of an arm, and what the scenarios showed with it.
#[derive(Debug)]
pub struct Run {
    pub arm: usize,
    pub pair: u32,
    /// Place in its pair, from 1.
    pub position: usize,
    pub outcomes: Vec<Outcome>,
}

/// Tokens of the prompts of a scenario.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct PromptTokens {
    pub least: u64,
    pub median: u64,
    pub most: u64,
}

/// Everything measured so far.
#[derive(Debug, Default)]
pub struct Measured {
    pub runs: Vec<Run>,
    /// The type of the model's weights, as the server calls it.
    pub model_type: Option<String>,
    pub prompt_tokens: PromptTokens,
    /// Tokens of a slot.
    pub context: u64,
    /// What the shim did, by arm.
    pub stats: BTreeMap<usize, Document>,
    /// Things the reader has to know.
    pub warnings: Vec<String>,
}

/// A quantity of a scenario.
#[derive(Debug)]
pub struct Row {
    pub scenario: Scenario,
    pub name: Name,
    /// Values by arm, in the order of the pairs; of a quantity that is compared only pairs in which every arm has one.
    pub values: Vec<Vec<f64>>,
    /// `None` for a quantity that is not compared.
    pub compared: Option<Compared>,
}

impl Measured {
    /// The outcomes of an arm in a scenario, in the order of the pairs.
    pub fn outcomes(&self, arm: usize, scenario: Scenario) -> impl Iterator<Item = (u32, &Outcome)> {
        let of_arm = self.runs.iter().filter(move |run| run.arm == arm);
        of_arm
            .flat_map(|run| run.outcomes.iter().map(|outcome| (run.pair, outcome)))
            .filter(move |(_, o)| o.scenario == scenario)
    }

    /// What became of the requests of an arm.
    pub fn counts(&self, arm: usize, scenario: Scenario) -> Counts {
        let mut counts = Counts::default();
        self.outcomes(arm, scenario).for_each(|(_, outcome)| counts.add(&outcome.counts));
        counts
    }

    /// All quantities, in the order in which they are shown.
    pub fn rows(&self, plan: &Plan) -> Vec<Row> {
        plan.scenarios.iter().flat_map(|&scenario| self.rows_of(plan, scenario)).collect()
    }

    fn rows_of(&self, plan: &Plan, scenario: Scenario) -> Vec<Row> {
        let mut names: Vec<Name> = Vec::new();
        for outcome in self.runs.iter().flat_map(|run| &run.outcomes).filter(|outcome| outcome.scenario == scenario) {
            let new: Vec<Name> = outcome.figures.names().filter(|name| !names.contains(name)).collect();
            names.extend(new);
        }
        names.into_iter().map(|name| self.row(plan, scenario, name)).collect()
    }

    fn row(&self, plan: &Plan, scenario: Scenario, name: Name) -> Row {
        let all: Vec<BTreeMap<u32, f64>> = (0..plan.arms.len())
            .map(|arm| {
                self.outcomes(arm, scenario).filter_map(|(pair, o)| Some((pair, o.figures.get(name)?))).collect()
            })
            .collect();
        let direction = better(name).filter(|_| plan.compares(scenario, name));
        let whole = |pair: &u32| direction.is_none() || all.iter().all(|arm| arm.contains_key(pair));
        let values: Vec<Vec<f64>> = all
            .iter()
            .map(|arm| arm.iter().filter(|(pair, _)| whole(pair)).map(|(_, value)| *value).collect())
            .collect();
        let compared = direction.and_then(|better| compare(&plan.roles(), &values, better, plan.looks.confidence()));
        Row { scenario, name, values, compared }
    }
}
