//! The shim's statistics (`ZEN5TURBO_STATS=FILE`, JSON): what it took over, what it declined, why.
//!
//! Read field by field from a JSON value, not into a strict type: a file of an older or newer shim,
//! or one with a field missing, still tells what it holds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::{Map, Value};
use zen5turbo_telemetry::document::member;

use crate::text;

/// One operation and weight type, e.g. MUL_MAT of q4_K.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Op {
    /// Calls computed by the shim.
    pub taken: u64,
    /// Time in them, nanoseconds.
    pub ns: u64,
    /// Weight bytes they read.
    pub bytes: u64,
    /// Multiply-accumulates they did.
    pub mac: u64,
    /// Kernel by regime.
    pub kernels: BTreeMap<String, String>,
    /// Calls left to the original, by reason.
    pub declined: BTreeMap<String, u64>,
}

impl Op {
    /// Calls left to the original.
    pub fn declined_total(&self) -> u64 {
        total(self.declined.values().copied())
    }
}

/// Threads of the last graph.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Threads {
    /// That the program asked for; 0 before the first graph.
    pub asked: u64,
    /// That computed it.
    pub used: u64,
    /// Graphs so far that fewer threads computed than were asked for.
    pub capped: u64,
    /// What limits the threads of every graph, in words.
    pub limit: String,
    /// CPUs that they lacked lately, as others had them.
    pub lost_cpus: f64,
    /// CPUs of the process; 0 where that is not known.
    #[serde(skip)]
    cpus: u64,
    /// The most threads of a graph of one column, as `zen5turbo tune` measured it.
    #[serde(skip)]
    needed: Option<u64>,
}

impl Threads {
    /// From the object of the statistics file.
    fn of(statistics: &Value) -> Self {
        let of = |key: &str| number(&statistics[member::THREADS][key]);
        Self {
            asked: of(member::ASKED),
            used: of(member::USED),
            capped: of(member::CAPPED),
            limit: statistics[member::THREADS_LIMIT].as_str().unwrap_or_default().to_owned(),
            lost_cpus: of(member::LOST_MCPU) as f64 / 1000.0,
            cpus: of(member::BUDGET),
            needed: statistics[member::TUNING][member::THREADS].as_u64(),
        }
    }

    /// Whether the last graph got fewer than the program asked for.
    pub fn is_capped(&self) -> bool {
        self.used < self.asked
    }

    /// Why the last graph got no more.
    fn why(&self) -> &str {
        let below_the_limit = self.is_capped() && (self.cpus == 0 || self.used < self.cpus);
        if below_the_limit && self.needed == Some(self.used) {
            "one column, as zen5turbo tune measured"
        } else if below_the_limit && self.limit_counts_cpus() {
            "one column, while others use the CPUs"
        } else {
            &self.limit
        }
    }

    /// Whether the limit is the number of CPUs, not the user's.
    fn limit_counts_cpus(&self) -> bool {
        self.cpus > 0 && self.limit.starts_with("CPU")
    }

    /// `asked 8, used 2 (CPU quota 200000/100000 us of /sys/fs/cgroup/a); others had 0.50 CPUs that they could have used`
    pub fn line(&self) -> String {
        let why = match self.why() {
            "" => String::new(),
            why => format!(" ({why})"),
        };
        let lost = match self.lost_cpus {
            lost if lost < 0.1 => String::new(),
            lost => format!("; others had {} CPUs that they could have used", text::number(lost)),
        };
        format!("asked {}, used {}{why}{lost}", self.asked, self.used)
    }

    /// The same for all graphs; `None` where each got what was asked for.
    pub fn line_of_all(&self) -> Option<String> {
        let graphs = if self.capped == 1 { "graph" } else { "graphs" };
        (self.capped > 0).then(|| format!("{}; {} {graphs} got fewer than asked", self.line(), self.capped))
    }
}

/// Barriers of the graphs of one class, on average.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Barriers {
    /// At the end of an operation, where the threads wait for each other.
    pub between: f64,
    /// At the end of an operation, where they do not wait.
    pub skipped: f64,
    /// Inside operations.
    pub inside: f64,
}

impl Barriers {
    /// From the object of a class of graphs; `None` where there are no barriers.
    pub fn of(graphs: &Value) -> Option<Self> {
        let count = number(&graphs[member::COUNT]) as f64;
        let of = |key: &str| number(&graphs[member::BARRIERS][key]) as f64 / count.max(1.0);
        let barriers = Self { between: of(member::BETWEEN), skipped: of(member::SKIPPED), inside: of(member::INSIDE) };
        (barriers != Self::default()).then_some(barriers)
    }

    /// `181 in a graph of one column, 22 of them inside operations; 36 more are skipped`
    pub fn line(&self) -> String {
        let skipped = match self.skipped {
            none if none < 0.5 => String::new(),
            some => format!("; {some:.0} more are skipped"),
        };
        let all = self.between + self.inside;
        format!("{all:.0} in a graph of one column, {:.0} of them inside operations{skipped}", self.inside)
    }
}

/// A statistics file, or several merged.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    pub version: Option<String>,
    pub pid: Option<u64>,
    pub program: Option<String>,
    pub cpu: Option<String>,
    pub gate_mode: Option<String>,
    pub gate_decision: Option<String>,
    pub tier: Option<String>,
    /// Whether a graph was computed; older files do not tell.
    pub computed: Option<bool>,
    pub threads: Threads,
    /// Of graphs of one column.
    pub barriers: Option<Barriers>,
    pub config: BTreeMap<String, String>,
    /// Copies of ggml: path, what became of it.
    pub ggml: Vec<(String, String)>,
    /// By (operation, type).
    pub ops: BTreeMap<(String, String), Op>,
    pub events: BTreeMap<String, u64>,
}

impl Stats {
    /// Reads a statistics file.
    pub fn read(path: &Path) -> Result<Stats> {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read the statistics file {}", path.display()))?;
        Stats::parse(&text).with_context(|| format!("{} is not a statistics file", path.display()))
    }

    /// Parses the text of a statistics file.
    pub fn parse(text: &str) -> Result<Stats> {
        ensure!(!text.trim().is_empty(), "it is empty; expected the JSON object that ZEN5TURBO_STATS=FILE writes");
        let root: Value = serde_json::from_str(text)
            .context("found text that is not JSON; expected the object that ZEN5TURBO_STATS=FILE writes")?;
        ensure!(root.is_object(), "found JSON that is not an object; expected what ZEN5TURBO_STATS=FILE writes");
        let mut ops = BTreeMap::new();
        for (op, types) in entries(&root[member::OPS]) {
            for (kind, v) in entries(types) {
                ops.insert(
                    (op.clone(), kind.clone()),
                    Op {
                        taken: number(&v[member::TAKEN]),
                        ns: number(&v[member::NS]),
                        bytes: number(&v[member::BYTES]),
                        mac: number(&v[member::MAC]),
                        kernels: entries(&v[member::KERNELS])
                            .filter_map(|(k, v)| Some((k.clone(), text_of(v)?)))
                            .collect(),
                        declined: counts(&v[member::DECLINED]),
                    },
                );
            }
        }
        let ggml = root[member::GGML].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(Stats {
            version: text_of(&root[member::VERSION]),
            pid: root[member::PID].as_u64(),
            program: text_of(&root[member::PROGRAM]),
            cpu: text_of(&root[member::CPU][member::BRAND]),
            gate_mode: text_of(&root[member::GATE][member::MODE]),
            gate_decision: text_of(&root[member::GATE][member::DECISION]),
            tier: text_of(&root[member::TIER]),
            computed: root[member::COMPUTED].as_bool(),
            threads: Threads::of(&root),
            barriers: Barriers::of(&root[member::GRAPHS]["1"]),
            config: entries(&root[member::CONFIG]).filter_map(|(k, v)| Some((k.clone(), text_of(v)?))).collect(),
            ggml: ggml
                .iter()
                .map(|g| {
                    (
                        text_of(&g[member::PATH]).unwrap_or_else(|| "?".into()),
                        text_of(&g[member::STATUS]).unwrap_or_else(|| "?".into()),
                    )
                })
                .collect(),
            ops,
            events: counts(&root[member::EVENTS]),
        })
    }

    /// Calls computed by the shim.
    pub fn taken(&self) -> u64 {
        total(self.ops.values().map(|op| op.taken))
    }

    /// Calls left to the original.
    pub fn declined(&self) -> u64 {
        total(self.ops.values().map(Op::declined_total))
    }

    /// Adds another run's counts; what is not a count is kept from the first that has it.
    pub fn merge(&mut self, other: &Stats) {
        for (target, source) in [
            (&mut self.version, &other.version),
            (&mut self.cpu, &other.cpu),
            (&mut self.gate_mode, &other.gate_mode),
            (&mut self.gate_decision, &other.gate_decision),
            (&mut self.tier, &other.tier),
        ] {
            if target.is_none() {
                target.clone_from(source);
            }
        }
        for (key, op) in &other.ops {
            let sum = self.ops.entry(key.clone()).or_default();
            for (sum, n) in
                [(&mut sum.taken, op.taken), (&mut sum.ns, op.ns), (&mut sum.bytes, op.bytes), (&mut sum.mac, op.mac)]
            {
                *sum = sum.saturating_add(n);
            }
            sum.kernels.extend(op.kernels.clone());
            for (reason, n) in &op.declined {
                add(&mut sum.declined, reason, *n);
            }
        }
        for (event, n) in &other.events {
            add(&mut self.events, event, *n);
        }
    }

    /// One line: types taken over with their kernels, types declined with the reasons, events.
    pub fn summary(&self) -> String {
        let mut taken = Vec::new();
        let mut declined = Vec::new();
        for ((op, kind), counts) in &self.ops {
            let left = counts.declined_total();
            if counts.taken > 0 {
                let all = counts.taken.saturating_add(left);
                let share = if left == 0 {
                    String::new()
                } else {
                    format!(" {:.0} % of {all}", 100.0 * counts.taken as f64 / all as f64)
                };
                // Regimes often share a kernel: name it once.
                let names: BTreeSet<&str> = counts.kernels.values().map(String::as_str).collect();
                let by = if names.is_empty() {
                    String::new()
                } else {
                    format!(" by {}", names.into_iter().collect::<Vec<_>>().join(" and "))
                };
                taken.push(format!("{op} {kind}{share}{by}"));
            }
            if left > 0 {
                let mut reasons: Vec<_> = counts.declined.iter().collect();
                reasons.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
                let reasons: Vec<String> = reasons.iter().map(|(reason, n)| format!("{reason} {n}")).collect();
                declined.push(format!("{op} {kind} ({})", reasons.join(", ")));
            }
        }
        let list = |items: &[String]| {
            if items.is_empty() { "nothing".to_owned() } else { items.join(", ") }
        };
        let mut line = format!("taken over: {}; declined: {}", list(&taken), list(&declined));
        if self.computed == Some(false) {
            line = "no graph was computed".to_owned();
        }
        if !self.events.is_empty() {
            let events: Vec<String> = self.events.iter().map(|(event, n)| format!("{event} {n}")).collect();
            line.push_str(&format!("; events: {}", events.join(", ")));
        }
        if let Some(tier) = &self.tier {
            line.push_str(&format!("; tier {tier}"));
        }
        line
    }
}

/// Counts of a file may be any numbers.
fn total(counts: impl Iterator<Item = u64>) -> u64 {
    counts.fold(0, u64::saturating_add)
}

fn add(counts: &mut BTreeMap<String, u64>, name: &str, n: u64) {
    let count = counts.entry(name.to_owned()).or_default();
    *count = count.saturating_add(n);
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

fn counts(value: &Value) -> BTreeMap<String, u64> {
    entries(value).map(|(k, v)| (k.clone(), number(v))).collect()
}

fn number(value: &Value) -> u64 {
    value.as_u64().or_else(|| value.as_f64().map(|f| f as u64)).unwrap_or(0)
}

/// Text, number or boolean as text.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(s) => Some(s.clone()),
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = r#"{"version":"0.1.0","pid":7,"program":"llama-bench",
        "cpu":{"brand":"AMD EPYC 9755"},"gate":{"mode":"strict","decision":"engage"},
        "tier":"avx512","config":{"ZEN5TURBO_LOG":"off"},
        "ggml":[{"path":"/x/libggml-cpu.so","status":"bound"}],
        "ops":{"MUL_MAT":{
            "q4_K":{"taken":90,"ns":5,"bytes":6,"mac":7,"kernels":{"decode":"q4_k_avx512"},"declined":{"use_ref":10}},
            "iq1_s":{"taken":0,"declined":{"type_not_supported":3}}}},
        "events":{"abi_mismatch":1}}"#;

    #[test]
    fn a_full_file_is_read_and_summed_up_in_one_line() {
        let s = Stats::parse(FULL).unwrap();
        assert_eq!((s.taken(), s.declined()), (90, 13));
        assert_eq!(s.cpu.as_deref(), Some("AMD EPYC 9755"));
        assert_eq!(s.ggml, [("/x/libggml-cpu.so".to_owned(), "bound".to_owned())]);
        assert_eq!(
            s.summary(),
            "taken over: MUL_MAT q4_K 90 % of 100 by q4_k_avx512; declined: MUL_MAT iq1_s (type_not_supported 3), \
             MUL_MAT q4_K (use_ref 10); events: abi_mismatch 1; tier avx512"
        );
    }

    fn threads(text: &str) -> Threads {
        Stats::parse(text).unwrap().threads
    }

    #[test]
    fn threads_are_told_with_what_limits_them() {
        let quota = threads(
            r#"{"threads":{"asked":8,"used":2,"budget":2,"capped":5,"lost_mcpu":40},
                "threads_limit":"CPU quota 200000/100000 us of /sys/fs/cgroup/a"}"#,
        );
        assert!(quota.is_capped());
        assert_eq!(quota.line(), "asked 8, used 2 (CPU quota 200000/100000 us of /sys/fs/cgroup/a)");
        assert_eq!(quota.line_of_all().unwrap(), format!("{}; 5 graphs got fewer than asked", quota.line()));
        let set = threads(r#"{"threads":{"asked":8,"used":3,"budget":16},"threads_limit":"ZEN5TURBO_THREADS=3"}"#);
        assert_eq!(set.line(), "asked 8, used 3 (ZEN5TURBO_THREADS=3)");
        let all =
            threads(r#"{"threads":{"asked":2,"used":2,"budget":4,"lost_mcpu":500},"threads_limit":"CPUs online"}"#);
        assert_eq!(all.line(), "asked 2, used 2 (CPUs online); others had 0.50 CPUs that they could have used");
        assert_eq!((all.is_capped(), all.line_of_all()), (false, None));
    }

    #[test]
    fn barriers_are_told_for_each_graph_of_one_column() {
        let of = |skipped: u64| {
            let text = format!(
                r#"{{"graphs":{{"1":{{"count":10,"barriers":{{"between":1590,"skipped":{skipped},"inside":220}}}},
                    "many":{{"count":1,"barriers":{{"between":7}}}}}}}}"#
            );
            Stats::parse(&text).unwrap().barriers.unwrap().line()
        };
        assert_eq!(of(360), "181 in a graph of one column, 22 of them inside operations; 36 more are skipped");
        assert_eq!(of(0), "181 in a graph of one column, 22 of them inside operations");
        assert_eq!(Stats::parse(r#"{"graphs":{"1":{"count":3}}}"#).unwrap().barriers, None);
    }

    #[test]
    fn a_graph_of_one_column_below_the_limit_says_why() {
        let of = |tuning: &str| {
            threads(&format!(
                r#"{{"threads":{{"asked":64,"used":24,"budget":64}},"threads_limit":"CPUs online","tuning":{tuning}}}"#
            ))
        };
        assert_eq!(of(r#"{"threads":24}"#).line(), "asked 64, used 24 (one column, as zen5turbo tune measured)");
        for tuning in ["{}", r#"{"threads":32}"#] {
            assert_eq!(of(tuning).line(), "asked 64, used 24 (one column, while others use the CPUs)");
        }
    }

    #[test]
    fn missing_and_odd_fields_are_tolerated() {
        let s = Stats::parse("{}").unwrap();
        assert_eq!(s.taken(), 0);
        assert_eq!(s.summary(), "taken over: nothing; declined: nothing");
        let s = Stats::parse(r#"{"computed":false,"tier":"avx2"}"#).unwrap();
        assert_eq!(s.summary(), "no graph was computed; tier avx2");
        let s = Stats::parse(r#"{"ops":{"MUL_MAT":{"q8_0":{"taken":2.0}},"X":null},"ggml":3,"version":2}"#).unwrap();
        assert_eq!((s.taken(), s.version.as_deref()), (2, Some("2")));
    }

    #[test]
    fn counts_that_cannot_be_are_added_up_without_a_panic() {
        let text = format!(
            r#"{{"ops":{{"MUL_MAT":{{"q8_0":{{"taken":{0},"ns":{0},"declined":{{"a":{0},"b":{0}}}}}}}}},"events":{{"e":{0}}}}}"#,
            u64::MAX
        );
        let mut stats = Stats::parse(&text).unwrap();
        let again = stats.clone();
        stats.merge(&again);
        assert_eq!((stats.taken(), stats.declined(), stats.events["e"]), (u64::MAX, u64::MAX, u64::MAX));
        assert!(stats.summary().contains("100 % of"), "{}", stats.summary());
    }

    #[test]
    fn what_is_not_a_statistics_file_is_refused_with_a_reason() {
        assert!(Stats::parse("").unwrap_err().to_string().contains("empty"));
        assert!(Stats::parse("model?").unwrap_err().to_string().contains("not JSON"));
        assert!(Stats::parse("[1]").unwrap_err().to_string().contains("not an object"));
    }

    #[test]
    fn runs_are_merged_by_adding_counts() {
        let mut all = Stats::default();
        let one = Stats::parse(FULL).unwrap();
        all.merge(&one);
        all.merge(&one);
        assert_eq!((all.taken(), all.declined()), (180, 26));
        assert_eq!(all.events["abi_mismatch"], 2);
        assert_eq!(all.tier.as_deref(), Some("avx512"));
    }
}
