//! CPU, clocks, and how cores, caches and NUMA nodes are arranged.

use std::collections::{BTreeMap, BTreeSet};

use zen5turbo_host::Cpu;
use zen5turbo_host::cpuset::CpuSet;
use zen5turbo_host::proc::field_kib;
use zen5turbo_host::topology::{Node, Topology};

use super::Settings;
use crate::doctor::policy::{boosting, over_policies};
use crate::doctor::topology::{Parts, from_sysfs};
use crate::root::field;
use crate::text;

const CPU: &str = "sys/devices/system/cpu";

pub fn read(settings: &mut Settings<'_>) {
    let root = settings.root;
    let info = root.read("proc/cpuinfo").unwrap_or_default();
    // cpuinfo has blanks before its colons.
    let told = |key: &str| info.lines().find_map(|l| l.split_once(':').filter(|(name, _)| name.trim() == key));
    let value = |key: &str| told(key).map(|(_, value)| value.trim().to_owned());
    let missing = |what: &str| format!("/proc/cpuinfo tells no {what}");
    let model = if root.is_machine() { Some(Cpu::detect().describe()) } else { value("model name") };
    settings.put("cpu.model", model.ok_or_else(|| missing("model name")));
    settings.put("cpu.microcode", value("microcode").ok_or_else(|| missing("microcode")));
    settings.put(
        "machine.virtual",
        value("flags")
            .map(|flags| if flags.split(' ').any(|f| f == "hypervisor") { "yes" } else { "no" }.to_owned())
            .ok_or_else(|| missing("flags")),
    );
    clocks(settings);
    settings.file("cpu.smt", &format!("{CPU}/smt/control"));
    settings.file("cpu.online", &format!("{CPU}/online"));
    arrangement(settings);
}

fn clocks(settings: &mut Settings<'_>) {
    let root = settings.root;
    let none = || format!("/{CPU}/cpufreq has no policies, as in most virtual machines");
    // `a`, or `a (8), b (8)` where policies differ.
    let words = |values: BTreeMap<String, usize>| -> Result<String, String> {
        match values.len() {
            0 => Err(none()),
            1 => Ok(values.into_keys().collect()),
            _ => Ok(values.iter().map(|(value, n)| format!("{value} ({n})")).collect::<Vec<_>>().join(", ")),
        }
    };
    settings.put("cpu.driver", words(over_policies(root, "scaling_driver")));
    settings.put("cpu.governor", words(over_policies(root, "scaling_governor")));
    settings.put("cpu.preference", words(over_policies(root, "energy_performance_preference")));
    settings.file("cpu.amd_pstate", &format!("{CPU}/amd_pstate/status"));
    let on = boosting(root).map(|on| if on { "on" } else { "off" }.to_owned());
    settings.put("cpu.boost", on.ok_or_else(|| format!("/{CPU}/cpufreq/boost is not there")));
    for (id, file) in [
        ("cpu.clock_min", "cpuinfo_min_freq"),
        ("cpu.clock_max", "cpuinfo_max_freq"),
        ("cpu.limit_min", "scaling_min_freq"),
        ("cpu.limit_max", "scaling_max_freq"),
    ] {
        let megahertz = |khz: String| khz.parse::<f64>().map_or(khz.clone(), |khz| format!("{:.0} MHz", khz / 1e3));
        let values = over_policies(root, file).into_iter().map(|(khz, n)| (megahertz(khz), n)).collect();
        settings.put(id, words(values));
    }
    settings.file("cpu.idle_driver", &format!("{CPU}/cpuidle/current_driver"));
    let states = root.list(&format!("{CPU}/cpu0/cpuidle"));
    let state = |name: &String| {
        let of = format!("{CPU}/cpu0/cpuidle/{name}");
        let off = root.number(&format!("{of}/disable")).is_some_and(|disabled| disabled != 0);
        Some(format!("{}{}", root.read(&format!("{of}/name"))?, if off { " (disabled)" } else { "" }))
    };
    let states: Vec<String> = states.iter().filter_map(state).collect();
    let none = || format!("/{CPU}/cpu0/cpuidle has no states");
    settings.put("cpu.idle_states", if states.is_empty() { Err(none()) } else { Ok(states.join(", ")) });
}

/// Packages, nodes and last-level caches; what BIOS setups call NPS and "L3 as NUMA domain" shows here.
fn arrangement(settings: &mut Settings<'_>) {
    let root = settings.root;
    let why = || format!("/{CPU} does not tell the topology");
    let parts = Parts::of(root);
    settings.put("cpu.topology", parts.as_ref().map(Parts::line).ok_or_else(why));
    // hwloc leaves out what this process may not use; what the BIOS has set is in sysfs.
    let packages = from_sysfs(root).map(|parts| parts.packages);
    let Some((topology, packages)) = Topology::read(&root.path("sys/devices/system")).zip(packages) else {
        return settings.put("memory.nodes", Err(why()));
    };
    let nodes = topology.nodes.len();
    settings.put("memory.nodes", Ok(nodes.to_string()));
    let all: CpuSet = topology.nodes.iter().flat_map(|node| node.cpus.iter()).collect();
    let numbers: Vec<usize> = topology.nodes.iter().map(|node| node.id).collect();
    let cores = topology.spread_cores(&all, &numbers);
    let domains: BTreeSet<Vec<usize>> = cores.iter().map(|core| core.domain.iter().collect()).collect();
    let is_one_cache = |node: &Node| domains.contains(&node.cpus.iter().collect::<Vec<_>>());
    let alike = topology.nodes.iter().filter(|node| !node.cpus.is_empty()).all(is_one_cache);
    settings.put(
        "memory.l3_as_numa",
        Ok(match (alike, nodes > packages) {
            (true, true) => "yes: every L3 is a node",
            (true, false) => "cannot be told: a package has one L3",
            (false, _) => "no",
        }
        .to_owned()),
    );
    settings.put("memory.nodes_per_package", Ok(format!("{} (NPS, unless L3 are nodes)", nodes / packages.max(1))));
    for node in &topology.nodes {
        let path = format!("sys/devices/system/node/node{}/meminfo", node.id);
        // `Node 0 MemTotal:  24000000 kB`.
        let text = root.told(&path).map(|text| text.replace(&format!("Node {} ", node.id), ""));
        let size = text.and_then(|text| field_kib(&text, "MemTotal").ok_or(format!("/{path} tells no MemTotal")));
        let line = size.map(|size| format!("{}, CPUs {}", text::bytes(size), node.cpus));
        settings.put(&format!("memory.node:{}", node.id), line);
    }
    if root.list("sys/devices/system/node").is_empty() {
        let meminfo = root.read("proc/meminfo").unwrap_or_default();
        let total = field(&meminfo, "MemTotal").ok_or("/proc/meminfo tells no MemTotal".to_owned());
        settings.put("memory.total", total);
    }
}
