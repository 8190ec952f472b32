//! What the administrator decides: clocks, SMT, page migration, mitigations.

use std::collections::BTreeMap;

use super::check::Check;
use crate::root::Root;

const CPU: &str = "sys/devices/system/cpu";

/// Everything on clocks and kernel policy.
pub fn checks(root: &Root, nodes: usize) -> Vec<Check> {
    vec![governor(root), boost(root), numa_balancing(root, nodes), mitigations(root)]
}

/// The values of a file over all frequency policies, with the number of policies that have each.
pub fn over_policies(root: &Root, file: &str) -> BTreeMap<String, usize> {
    let mut values = BTreeMap::new();
    for policy in root.list(&format!("{CPU}/cpufreq")).iter().filter(|name| name.starts_with("policy")) {
        if let Some(value) = root.read(&format!("{CPU}/cpufreq/{policy}/{file}")) {
            *values.entry(value).or_default() += 1;
        }
    }
    values
}

fn governor(root: &Root) -> Check {
    const ID: &str = "cpu.governor";
    let governors = over_policies(root, "scaling_governor");
    let preferences = over_policies(root, "energy_performance_preference");
    if governors.is_empty() {
        return Check::ok(ID, "not told, as in most virtual machines");
    }
    let words = |map: &BTreeMap<String, usize>| map.keys().cloned().collect::<Vec<_>>().join(", ");
    let driver = root.read(&format!("{CPU}/cpufreq/policy0/scaling_driver")).unwrap_or_else(|| "unknown driver".into());
    let mut found = format!("{} ({driver}", words(&governors));
    if !preferences.is_empty() {
        found += &format!(", preference {}", words(&preferences));
    }
    found.push(')');
    // With amd-pstate-epp and intel_pstate, `powersave` is the governor that heeds the preference.
    let eager = |word: &String| word.contains("performance");
    let fast = governors.keys().all(|g| g == "performance")
        || (!preferences.is_empty() && preferences.keys().all(eager) && governors.keys().all(|g| g == "powersave"));
    if fast {
        return Check::ok(ID, found);
    }
    Check::limited(ID, found, "performance: clocks rise at once", "sudo cpupower frequency-set -g performance")
}

/// Whether clocks may rise above the base clock; `None` where the kernel does not tell.
pub fn boosting(root: &Root) -> Option<bool> {
    let boost = root.number(&format!("{CPU}/cpufreq/boost")).map(|boost| boost == 1);
    boost.or_else(|| root.number(&format!("{CPU}/intel_pstate/no_turbo")).map(|no_turbo| no_turbo == 0))
}

fn boost(root: &Root) -> Check {
    const ID: &str = "cpu.boost";
    match boosting(root) {
        None => return Check::ok(ID, "not told, as in most virtual machines"),
        Some(true) => return Check::ok(ID, "on"),
        Some(false) => {}
    }
    let file = if root.path(&format!("{CPU}/cpufreq/boost")).exists() {
        format!("echo 1 | sudo tee /{CPU}/cpufreq/boost")
    } else {
        format!("echo 0 | sudo tee /{CPU}/intel_pstate/no_turbo")
    };
    Check::limited(ID, "off", "on, unless equal clocks matter more than speed", file)
}

fn numa_balancing(root: &Root, nodes: usize) -> Check {
    const ID: &str = "kernel.numa_balancing";
    match root.number("proc/sys/kernel/numa_balancing") {
        None => Check::ok(ID, "not in this kernel"),
        Some(0) => Check::ok(ID, "off"),
        Some(mode) if nodes <= 1 => Check::ok(ID, format!("{mode}; without effect on one NUMA node")),
        Some(mode) => Check::limited(
            ID,
            format!("{mode}: the kernel unmaps pages to see who reads them, and moves them"),
            "off: the shim places weights itself, and each fault stops a thread",
            "sudo sysctl kernel.numa_balancing=0",
        ),
    }
}

/// Every vulnerability that the kernel knows, and what it does about it.
pub fn vulnerabilities(root: &Root) -> Vec<(String, String)> {
    let folder = format!("{CPU}/vulnerabilities");
    let state = |name: String| root.read(&format!("{folder}/{name}")).map(|state| (name, state));
    root.list(&folder).into_iter().filter_map(state).collect()
}

fn mitigations(root: &Root) -> Check {
    const ID: &str = "kernel.mitigations";
    let states = vulnerabilities(root);
    let active: Vec<&str> =
        states.iter().filter(|(_, s)| s.starts_with("Mitigation")).map(|(n, _)| n.as_str()).collect();
    let found = format!("{} of {} active: {}", active.len(), states.len(), active.join(", "));
    let slow_gathers = states.iter().any(|(n, s)| n == "gather_data_sampling" && s.starts_with("Mitigation"));
    if slow_gathers {
        let expected = "none that slows vector code: gather_data_sampling makes gathers many times slower";
        return Check::limited(
            ID,
            found,
            expected,
            "gather_data_sampling=off on the kernel's command line, if you may",
        );
    }
    if active.is_empty() {
        return Check::ok(ID, format!("none of {} active", states.len()));
    }
    Check::ok(ID, format!("{found} (they cost at system calls, hardly in matrix products)"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::check::Status;
    use crate::root::tests::tree;

    fn statuses(files: &[(&str, &str)], nodes: usize) -> Vec<Status> {
        let (_folder, root) = tree(files);
        checks(&root, nodes).iter().map(|check| check.status).collect()
    }

    #[test]
    fn a_tuned_server_is_ok() {
        use Status::Ok;
        let files = [
            ("sys/devices/system/cpu/cpufreq/policy0/scaling_governor", "performance\n"),
            ("sys/devices/system/cpu/cpufreq/policy0/scaling_driver", "amd-pstate-epp\n"),
            ("sys/devices/system/cpu/cpufreq/boost", "1\n"),
            ("sys/devices/system/cpu/vulnerabilities/spectre_v2", "Mitigation: Retpolines\n"),
            ("sys/devices/system/cpu/vulnerabilities/meltdown", "Not affected\n"),
            ("proc/sys/kernel/numa_balancing", "0\n"),
        ];
        assert_eq!(statuses(&files, 2), [Ok, Ok, Ok, Ok]);
        let (_folder, root) = tree(&files);
        assert!(mitigations(&root).found.starts_with("1 of 2 active: spectre_v2"), "{:?}", mitigations(&root));
    }

    #[test]
    fn a_frugal_laptop_is_limited_line_by_line() {
        use Status::{Limited, Ok};
        let files = [
            ("sys/devices/system/cpu/cpufreq/policy0/scaling_governor", "powersave\n"),
            ("sys/devices/system/cpu/cpufreq/policy0/energy_performance_preference", "balance_power\n"),
            ("sys/devices/system/cpu/cpufreq/boost", "0\n"),
            ("sys/devices/system/cpu/vulnerabilities/gather_data_sampling", "Mitigation: Microcode\n"),
            ("proc/sys/kernel/numa_balancing", "1\n"),
        ];
        assert_eq!(statuses(&files, 2), [Limited, Limited, Limited, Limited]);
        assert_eq!(statuses(&files, 1)[2], Ok);
    }

    #[test]
    fn powersave_with_an_eager_preference_is_how_active_drivers_run_fast() {
        let policy = "sys/devices/system/cpu/cpufreq/policy0";
        let (governor, preference) =
            (format!("{policy}/scaling_governor"), format!("{policy}/energy_performance_preference"));
        let files = [(governor.as_str(), "powersave"), (preference.as_str(), "balance_performance")];
        assert_eq!(statuses(&files, 1)[0], Status::Ok);
    }

    #[test]
    fn nothing_told_is_no_fault() {
        assert_eq!(statuses(&[], 2), [Status::Ok; 4]);
    }
}
