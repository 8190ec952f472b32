//! The shim's statistics (`ZEN5TURBO_STATS=FILE`, JSON): what it took over, what it declined, why.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::Value;
use zen5turbo_telemetry::document::{ByName, Document};
use zen5turbo_telemetry::{Member, document};

use crate::text;

/// Reads a statistics file.
pub fn read(path: &Path) -> Result<Document> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read the statistics file {}", path.display()))?;
    parse(&text).with_context(|| format!("{} is not a statistics file", path.display()))
}

/// Parses the text of a statistics file.
pub fn parse(text: &str) -> Result<Document> {
    ensure!(!text.trim().is_empty(), "it is empty; expected the JSON object that ZEN5TURBO_STATS=FILE writes");
    let root: Value = serde_json::from_str(text)
        .context("found text that is not JSON; expected the object that ZEN5TURBO_STATS=FILE writes")?;
    Document::read(&root).context("found JSON that is not an object; expected what ZEN5TURBO_STATS=FILE writes")
}

/// A text of the document for a reader: a question mark where it is not told.
pub fn or_unknown(text: &str) -> &str {
    if text.is_empty() { "?" } else { text }
}

/// Calls of functions that are taken over one by one, for rows and for repacked weights.
pub fn single_functions(statistics: &Document) -> u64 {
    let counts = statistics.direct.iter().flatten().map(|(_, function)| function.taken);
    counts.fold(0, u64::saturating_add)
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
    /// Of these statistics.
    pub fn of(statistics: &Document) -> Self {
        let document::Threads { asked, used, budget, capped, lost_mcpu, .. } = statistics.threads;
        Self {
            asked,
            used,
            capped,
            limit: statistics.about.threads_limit.clone(),
            lost_cpus: lost_mcpu as f64 / 1000.0,
            cpus: budget,
            needed: statistics.about.tuning.threads,
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
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Barriers {
    /// ggml's: behind nearly every operation, and inside some.
    pub between: f64,
    /// Inside products and attention that this library computes.
    pub inside: f64,
}

impl Barriers {
    /// Of graphs of one class; `None` where there are no barriers.
    pub fn of(graphs: &document::Graphs) -> Option<Self> {
        let document::Barriers { between, inside } = graphs.barriers;
        let mean = |all: u64| all as f64 / graphs.count.max(1) as f64;
        let any = graphs.barriers != document::Barriers::default();
        any.then(|| Self { between: mean(between), inside: mean(inside) })
    }

    /// Of graphs of one column.
    pub fn of_one_column(statistics: &Document) -> Option<Self> {
        Self::of(statistics.graphs.get("1")?)
    }

    /// `181 in a graph of one column, 22 of them inside products and attention`
    pub fn line(&self) -> String {
        let all = self.between + self.inside;
        format!("{all:.0} in a graph of one column, {:.0} of them inside products and attention", self.inside)
    }
}

/// Adds another run's counts of operations and events; what is not a count is kept from the first that has it.
pub fn merge(all: &mut Document, other: &Document) {
    let (about, others) = (&mut all.about, &other.about);
    for (target, source) in [
        (&mut about.version, &others.version),
        (&mut about.cpu.brand, &others.cpu.brand),
        (&mut about.gate.mode, &others.gate.mode),
        (&mut about.gate.decision, &others.gate.decision),
        (&mut about.tier, &others.tier),
    ] {
        if target.is_empty() {
            target.clone_from(source);
        }
    }
    for (name, weight_type, op) in other.operations() {
        let sum = all.ops.entry(name.to_owned()).or_default().entry(weight_type.to_owned()).or_default();
        for (sum, n) in
            [(&mut sum.taken, op.taken), (&mut sum.ns, op.ns), (&mut sum.bytes, op.bytes), (&mut sum.mac, op.mac)]
        {
            *sum = sum.saturating_add(n);
        }
        sum.kernels.extend(op.kernels.clone());
        add(&mut sum.declined, &op.declined);
    }
    for (name, op) in &other.other_ops {
        let sum = all.other_ops.entry(name.clone()).or_default();
        sum.taken = sum.taken.saturating_add(op.taken);
        sum.bytes = sum.bytes.saturating_add(op.bytes);
        add(&mut sum.declined, &op.declined);
    }
    add(&mut all.events, &other.events);
}

/// One line: types taken over with their kernels, types declined with the reasons, events.
pub fn summary(statistics: &Document) -> String {
    let mut taken = Vec::new();
    let mut declined = Vec::new();
    for (op, kind, counts) in statistics.operations() {
        let left = counts.declined();
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
    let single = single_functions(statistics);
    taken.extend((single > 0).then(|| format!("{single} calls of single functions")));
    let list = |items: &[String]| {
        if items.is_empty() { "nothing".to_owned() } else { items.join(", ") }
    };
    let mut line = format!("taken over: {}; declined: {}", list(&taken), list(&declined));
    if statistics.computed == Some(false) {
        line = "no graph was computed".to_owned();
    }
    if !statistics.events.is_empty() {
        let events: Vec<String> = statistics.events.iter().map(|(event, n)| format!("{event} {n}")).collect();
        line.push_str(&format!("; events: {}", events.join(", ")));
    }
    if !statistics.about.tier.is_empty() {
        line.push_str(&format!("; tier {}", statistics.about.tier));
    }
    line
}

/// Counts of a file may be any numbers, so sums stop at the largest.
fn add(counts: &mut ByName<u64>, more: &ByName<u64>) {
    for (name, n) in more {
        let count = counts.entry(name.clone()).or_default();
        *count = count.saturating_add(*n);
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
        let s = parse(FULL).unwrap();
        assert_eq!((s.taken(), s.declined()), (90, 13));
        assert_eq!(s.about.cpu.brand, "AMD EPYC 9755");
        let [copy] = &s.about.ggml[..] else { panic!("{:?}", s.about.ggml) };
        assert_eq!((copy.path.as_str(), copy.status.as_str()), ("/x/libggml-cpu.so", "bound"));
        assert_eq!(
            summary(&s),
            "taken over: MUL_MAT q4_K 90 % of 100 by q4_k_avx512; declined: MUL_MAT iq1_s (type_not_supported 3), \
             MUL_MAT q4_K (use_ref 10); events: abi_mismatch 1; tier avx512"
        );
    }

    fn threads(text: &str) -> Threads {
        Threads::of(&parse(text).unwrap())
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
        let text = r#"{"graphs":{"1":{"count":10,"barriers":{"between":1590,"inside":220}},
                                 "many":{"count":1,"barriers":{"between":7}}}}"#;
        let line = Barriers::of_one_column(&parse(text).unwrap()).unwrap().line();
        assert_eq!(line, "181 in a graph of one column, 22 of them inside products and attention");
        assert_eq!(Barriers::of_one_column(&parse(r#"{"graphs":{"1":{"count":3}}}"#).unwrap()), None);
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
        let s = parse("{}").unwrap();
        assert_eq!(s.taken(), 0);
        assert_eq!(summary(&s), "taken over: nothing; declined: nothing");
        let s = parse(r#"{"computed":false,"tier":"avx2"}"#).unwrap();
        assert_eq!(summary(&s), "no graph was computed; tier avx2");
        let s = parse(r#"{"ops":{"MUL_MAT":{"q8_0":{"taken":2.0}},"X":null},"ggml":3,"version":2}"#).unwrap();
        assert_eq!((s.taken(), s.about.version.as_str()), (2, "2"));
    }

    #[test]
    fn counts_that_cannot_be_are_added_up_without_a_panic() {
        let text = format!(
            r#"{{"ops":{{"MUL_MAT":{{"q8_0":{{"taken":{0},"ns":{0},"declined":{{"a":{0},"b":{0}}}}}}}}},"events":{{"e":{0}}}}}"#,
            u64::MAX
        );
        let mut stats = parse(&text).unwrap();
        let again = stats.clone();
        merge(&mut stats, &again);
        assert_eq!((stats.taken(), stats.declined(), stats.events["e"]), (u64::MAX, u64::MAX, u64::MAX));
        assert!(summary(&stats).contains("100 % of"), "{}", summary(&stats));
    }

    #[test]
    fn what_is_not_a_statistics_file_is_refused_with_a_reason() {
        assert!(parse("").unwrap_err().to_string().contains("empty"));
        assert!(parse("model?").unwrap_err().to_string().contains("not JSON"));
        assert!(parse("[1]").unwrap_err().to_string().contains("not an object"));
    }

    #[test]
    fn runs_are_merged_by_adding_counts() {
        let mut all = Document::default();
        let one = parse(FULL).unwrap();
        merge(&mut all, &one);
        merge(&mut all, &one);
        assert_eq!((all.taken(), all.declined()), (180, 26));
        assert_eq!(all.events["abi_mismatch"], 2);
        assert_eq!(all.about.tier, "avx512");
    }
}
