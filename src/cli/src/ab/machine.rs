//! The machine and its settings, as far as they bear on speed, for the reader of a report.

use std::path::Path;
use std::thread;

use zen5turbo_host::proc::field_kib;

use crate::root::Root;
use crate::text;

/// Names and values; what cannot be read is left out.
pub fn facts() -> Vec<(String, String)> {
    let root = Root::new(Path::new("/"));
    let read = |path: &str| root.read(path);
    let memory = read("/proc/meminfo").unwrap_or_default();
    let meminfo = |name: &str| field_kib(&memory, name).map(text::bytes);
    let mut facts = Vec::new();
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|v| !v.is_empty()) {
            facts.push((name.to_owned(), value));
        }
    };
    add("usable CPUs", thread::available_parallelism().ok().map(|n| n.to_string()));
    add("SMT", read("/sys/devices/system/cpu/smt/control"));
    add("memory", meminfo("MemTotal"));
    add("memory available", meminfo("MemAvailable"));
    add("NUMA nodes", read("/sys/devices/system/node/online"));
    add("transparent huge pages", read("/sys/kernel/mm/transparent_hugepage/enabled"));
    add("reserved huge pages", read("/proc/sys/vm/nr_hugepages"));
    add("frequency driver", read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_driver"));
    add("governor", read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"));
    add("boost", read("/sys/devices/system/cpu/cpufreq/boost"));
    add("NUMA balancing", read("/proc/sys/kernel/numa_balancing"));
    let virtualised = read("/proc/cpuinfo")
        .is_some_and(|t| t.lines().any(|l| l.starts_with("flags") && l.split_whitespace().any(|w| w == "hypervisor")));
    add("virtual machine", Some(if virtualised { "yes" } else { "no" }.to_owned()));
    add("load average", read("/proc/loadavg"));
    facts
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_machine_has_cpus_and_memory() {
        let facts = super::facts();
        for name in ["usable CPUs", "memory", "virtual machine"] {
            assert!(facts.iter().any(|(n, v)| n == name && !v.is_empty()), "{name} in {facts:?}");
        }
    }
}
