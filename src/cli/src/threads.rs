//! How many threads to ask a program for.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use zen5turbo_host::CpuBudget;
use zen5turbo_host::cpu_budget::Limit;
use zen5turbo_host::cpuset::{self, CpuSet};
use zen5turbo_host::topology::{Core, Topology};

use crate::root::Root;
use crate::tune;

/// Numbers of threads, with the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    /// For prompts.
    pub prompt: usize,
    /// For generation.
    pub generation: usize,
    /// Where the numbers come from.
    pub why: String,
}

/// The CPUs that a process may use that is started here.
pub fn allowed(root: &Root) -> Option<CpuSet> {
    let list = root.field("proc/self/status", "Cpus_allowed_list").and_then(|list| CpuSet::parse(&list));
    list.or_else(|| cpuset::affinity().ok())
}

/// For a process that is started here. `None` where sysfs does not tell the CPUs.
pub fn advice(root: &Root, cpu: &str) -> Option<Advice> {
    let topology = Topology::read(&root.path("sys/devices/system"))?;
    let online: CpuSet = topology.nodes.iter().flat_map(|node| node.cpus.iter()).collect();
    let allowed = allowed(root).unwrap_or(online);
    let nodes: Vec<usize> = topology.nodes.iter().map(|node| node.id).collect();
    let cores = topology.spread_cores(&allowed, &nodes);
    let measured = root.is_machine().then(|| tune::threads_of(cpu)).flatten();
    Some(of(&cores, &CpuBudget::of_children(&root.path("")), measured))
}

/// One thread for each core, as far as a quota allows. In generation fewer, where `zen5turbo tune` has `measured` that they
/// are enough.
fn of(cores: &[Core], budget: &CpuBudget, measured: Option<usize>) -> Advice {
    let n = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let prompt = match budget.limit {
        Limit::Quota { .. } => cores.len().min(budget.cpus),
        Limit::Online | Limit::Affinity(_) => cores.len(),
    };
    let prompt = prompt.max(1);
    let different = |of: fn(&Core) -> usize| {
        let mut found: Vec<usize> = cores.iter().map(of).collect();
        found.sort_unstable();
        found.dedup();
        found.len()
    };
    let mut domains: Vec<CpuSet> = Vec::new();
    cores.iter().for_each(|core| {
        if !domains.contains(&core.domain) {
            domains.push(core.domain);
        }
    });
    let mut why = match &budget.limit {
        Limit::Quota { .. } if prompt < cores.len() => format!("{}: every thread more would be stopped", budget.limit),
        _ => {
            let siblings = cores.iter().map(|core| core.cpus.len()).max().unwrap_or(1);
            let smt = if siblings > 1 {
                format!(" with {siblings} CPUs each, which share its multipliers")
            } else {
                String::new()
            };
            format!("one for each of {}{smt}", n(cores.len(), "core"))
        }
    };
    let parts = (domains.len(), different(|core| core.node));
    if parts.0 > 1 {
        let nodes = if parts.1 > 1 { format!(" and {}", n(parts.1, "NUMA node")) } else { String::new() };
        why += &format!(
            "; they lie on {} (CCDs){nodes}, and memory is read fastest by all of them",
            n(parts.0, "L3 cache")
        );
    }
    let generation = measured.map_or(prompt, |n| n.clamp(1, prompt));
    why += &match measured {
        Some(n) if n < prompt => format!("; zen5turbo tune measured that {n} read memory as fast as more"),
        Some(_) => String::new(),
        None => "; zen5turbo tune measures whether fewer are enough in generation".to_owned(),
    };
    Advice { prompt, generation, why }
}

/// Programs of llama.cpp that take `-t` for generation and `-tb` for prompts, and those that take `-t` alone.
const TAKE_BOTH: [&str; 11] = [
    "llama-batched-bench",
    "llama-cli",
    "llama-completion",
    "llama-embedding",
    "llama-imatrix",
    "llama-mtmd-cli",
    "llama-parallel",
    "llama-perplexity",
    "llama-server",
    "llama-speculative",
    "llama-speculative-simple",
];
const TAKE_ONE: [&str; 2] = ["llama-bench", "rpc-server"];

/// The options that give a program these numbers.
///
/// # Errors
/// Why it gets none, in words.
pub fn options(program: &OsStr, arguments: &[OsString], advice: &Advice) -> Result<Vec<OsString>, String> {
    let name = Path::new(program).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let both = TAKE_BOTH.contains(&name.as_str());
    if !both && !TAKE_ONE.contains(&name.as_str()) {
        return Err(format!("{name} is none of the programs of llama.cpp that are known to take -t"));
    }
    let is_one = |argument: &OsString| {
        let text = argument.to_string_lossy();
        ["-t", "--threads", "-tb", "--threads-batch"].iter().any(|option| {
            text == *option
                || (option.starts_with("--") && text.strip_prefix(option).is_some_and(|rest| rest.starts_with('=')))
        })
    };
    if let Some(given) = arguments.iter().find(|argument| is_one(argument)) {
        return Err(format!("{} is given", given.to_string_lossy()));
    }
    // llama-bench measures prompts and generation with one number.
    let all = if both { vec![("-t", advice.generation), ("-tb", advice.prompt)] } else { vec![("-t", advice.prompt)] };
    Ok(all.into_iter().flat_map(|(option, n)| [option.into(), n.to_string().into()]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cores(n: usize, siblings: usize, per_cache: usize, per_node: usize) -> Vec<Core> {
        let set = |cpus: &mut dyn Iterator<Item = usize>| cpus.collect::<CpuSet>();
        let core = |i: usize| Core {
            cpus: set(&mut (0..siblings).map(|s| i + s * n)),
            domain: set(&mut (i / per_cache * per_cache..(i / per_cache + 1) * per_cache)),
            node: i / per_node,
        };
        (0..n).map(core).collect()
    }

    fn budget(cpus: usize) -> CpuBudget {
        CpuBudget { cpus, limit: Limit::Online }
    }

    #[test]
    fn siblings_share_a_core_and_get_one_thread() {
        let advice = of(&cores(8, 2, 8, 8), &budget(16), None);
        assert_eq!((advice.prompt, advice.generation), (8, 8));
        assert!(advice.why.starts_with("one for each of 8 cores with 2 CPUs each"), "{}", advice.why);
        assert!(advice.why.contains("zen5turbo tune measures"), "{}", advice.why);
    }

    #[test]
    fn a_quota_counts_in_whole_cpus() {
        let limit = Limit::Quota { quota: 250_000, period: 100_000, group: "/g".into() };
        let advice = of(&cores(8, 2, 8, 8), &CpuBudget { cpus: 2, limit: limit.clone() }, None);
        assert_eq!((advice.prompt, advice.generation), (2, 2));
        assert!(advice.why.starts_with("CPU quota 250000/100000 us of /g"), "{}", advice.why);
        let wide = of(&cores(4, 1, 4, 4), &CpuBudget { cpus: 6, limit }, None);
        assert_eq!(wide.prompt, 4);
    }

    #[test]
    fn chiplets_and_nodes_are_named_and_a_measurement_counts() {
        let advice = of(&cores(32, 2, 8, 16), &budget(64), Some(12));
        assert_eq!((advice.prompt, advice.generation), (32, 12));
        assert!(advice.why.contains("4 L3 caches (CCDs) and 2 NUMA nodes"), "{}", advice.why);
        assert!(advice.why.contains("12 read memory as fast"), "{}", advice.why);
        assert_eq!(of(&[], &budget(1), Some(9)), of(&[], &budget(1), Some(1)));
    }

    #[test]
    fn programs_of_llama_cpp_get_options_once() {
        let advice = Advice { prompt: 8, generation: 4, why: String::new() };
        let give = |program: &str, arguments: &[&str]| {
            let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
            options(OsStr::new(program), &arguments, &advice)
                .map(|words| words.iter().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(give("/opt/llama-server", &["-m", "x.gguf"]).unwrap(), "-t 4 -tb 8");
        assert_eq!(give("llama-bench", &[]).unwrap(), "-t 8");
        for given in ["-t", "--threads", "--threads=4", "-tb"] {
            assert!(give("llama-cli", &[given, "4"]).unwrap_err().contains("is given"), "{given}");
        }
        assert!(give("python3", &[]).unwrap_err().contains("none of the programs"));
        assert!(give("llama-cli", &["--threads-http", "2"]).is_ok());
    }
}
