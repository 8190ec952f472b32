//! The kernel and its policies on memory.

use super::Settings;
use crate::doctor::memory::{chosen, pools};
use crate::doctor::policy::vulnerabilities;

const THP: &str = "sys/kernel/mm/transparent_hugepage";

pub fn read(settings: &mut Settings<'_>) {
    let root = settings.root;
    settings.file("kernel.release", "proc/sys/kernel/osrelease");
    settings.file("kernel.command_line", "proc/cmdline");
    settings.file("kernel.clocksource", "sys/devices/system/clocksource/clocksource0/current_clocksource");
    settings.file("kernel.numa_balancing", "proc/sys/kernel/numa_balancing");
    for (id, file) in [("memory.thp", "enabled"), ("memory.thp_defrag", "defrag")] {
        let told = root.told(&format!("{THP}/{file}")).map(|text| chosen(&text).to_owned());
        settings.put(id, told);
    }
    settings.file("memory.overcommit", "proc/sys/vm/overcommit_memory");
    settings.file("memory.swappiness", "proc/sys/vm/swappiness");
    let pools = pools(root);
    if pools.is_empty() {
        settings.put("memory.hugetlb", Err("/sys/kernel/mm/hugepages is not there".into()));
    }
    for pool in pools {
        settings.put(&format!("memory.hugetlb:{}", pool.name()), Ok(format!("{} reserved", pool.all)));
    }
    let states = vulnerabilities(root);
    if states.is_empty() {
        settings.put("mitigation", Err("/sys/devices/system/cpu/vulnerabilities is not there".into()));
    }
    for (name, state) in states {
        settings.put(&format!("mitigation:{name}"), Ok(state));
    }
}
