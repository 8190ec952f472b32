//! Packages, NUMA nodes, dies, last-level caches, cores: through hwloc, else from sysfs.

use std::collections::BTreeSet;

use zen5turbo_config::Threads;
use zen5turbo_host::CpuBudget;
use zen5turbo_host::cpu_budget::Limit;
use zen5turbo_host::cpuset::CpuSet;
use zen5turbo_host::topology::Topology;

use super::check::Check;
use crate::knobs::Settings;
use crate::root::Root;
use crate::text;
use crate::threads::{self, Advice, advice};

/// What the machine consists of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// Who told: `hwloc VERSION` or `sysfs`.
    pub source: String,
    pub packages: usize,
    /// NUMA nodes.
    pub nodes: usize,
    /// Dies where the kernel tells of them; on AMD the CCDs, since Linux 6.10.
    pub dies: usize,
    /// Last-level caches: size in bytes (0: not told) and cores.
    pub caches: Vec<(u64, usize)>,
    pub cores: usize,
    /// CPUs, the hardware threads, that are online.
    pub cpus: usize,
}

impl Parts {
    /// The machine below `root`; hwloc can only be asked of this one.
    pub fn of(root: &Root) -> Option<Parts> {
        #[cfg(feature = "hwloc")]
        // Without these files hwloc complains on stderr, and knows no more than sysfs does.
        if root.is_machine()
            && root.path("sys/devices/system/cpu/cpu0/topology").is_dir()
            && let Some(parts) = through_hwloc()
        {
            return Some(parts);
        }
        from_sysfs(root)
    }

    /// In one line.
    pub fn line(&self) -> String {
        let n = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        let mut kinds: Vec<((u64, usize), usize)> = Vec::new();
        for cache in &self.caches {
            match kinds.iter_mut().find(|(kind, _)| kind == cache) {
                Some((_, count)) => *count += 1,
                None => kinds.push((*cache, 1)),
            }
        }
        let caches: Vec<String> = kinds
            .iter()
            .map(|((size, cores), count)| {
                let size = if *size == 0 { "unknown size".to_owned() } else { text::bytes(*size) };
                format!("{count} L3 of {size} for {}", n(*cores, "core"))
            })
            .collect();
        let caches = if caches.is_empty() { "no L3 told".to_owned() } else { caches.join(" and ") };
        // A CCD has one L3 on Zen 3 to Zen 5, but for the parts that the kernel tells dies of.
        let dies =
            if self.dies > 0 { n(self.dies, "die") } else { format!("{} by their L3", n(self.caches.len(), "CCD")) };
        format!(
            "{}, {}, {dies}, {caches}, {}, {} ({})",
            n(self.packages, "package"),
            n(self.nodes, "NUMA node"),
            n(self.cores, "core"),
            n(self.cpus, "CPU"),
            self.source
        )
    }
}

#[cfg(feature = "hwloc")]
fn through_hwloc() -> Option<Parts> {
    use hwlocality::object::attributes::ObjectAttributes;
    use hwlocality::object::types::ObjectType;
    // It moves from CPU to CPU to ask each one, which a filter may kill; sysfs tells the same.
    if zen5turbo_host::seccomp::is_filtered() {
        return None;
    }
    let topology = hwlocality::Topology::new().ok()?;
    let count = |kind| topology.objects_with_type(kind).count();
    let cores_of = |set: &hwlocality::cpu::cpuset::CpuSet| {
        topology.objects_with_type(ObjectType::Core).filter(|core| core.is_inside_cpuset(set)).count()
    };
    let caches = topology
        .objects_with_type(ObjectType::L3Cache)
        .map(|l3| {
            let size = match l3.attributes() {
                Some(ObjectAttributes::Cache(cache)) => cache.size().map_or(0, |size| size.get()),
                _ => 0,
            };
            (size, l3.cpuset().map_or(0, |set| cores_of(&set)))
        })
        .collect();
    let version = hwlocality::hwloc_api_version();
    Some(Parts {
        source: format!("hwloc {}.{}", version >> 16, version >> 8 & 0xff),
        packages: count(ObjectType::Package),
        nodes: count(ObjectType::NUMANode),
        dies: count(ObjectType::Die),
        caches,
        cores: count(ObjectType::Core),
        cpus: count(ObjectType::PU),
    })
}

/// Without hwloc, or of a made tree.
pub fn from_sysfs(root: &Root) -> Option<Parts> {
    let topology = Topology::read(&root.path("sys/devices/system"))?;
    let all: CpuSet = topology.nodes.iter().flat_map(|node| node.cpus.iter()).collect();
    let nodes: Vec<usize> = topology.nodes.iter().map(|node| node.id).collect();
    let cores = topology.spread_cores(&all, &nodes);
    let of_cpu = |cpu: usize, file: &str| root.read(&format!("sys/devices/system/cpu/cpu{cpu}/{file}"));
    let different = |file: &str| {
        let package = |cpu| of_cpu(cpu, "topology/physical_package_id").unwrap_or_default();
        all.iter().filter_map(|cpu| Some((package(cpu), of_cpu(cpu, file)?))).collect::<BTreeSet<_>>().len()
    };
    let packages = different("topology/physical_package_id").max(1);
    let dies = different("topology/die_id");
    let mut caches: Vec<(CpuSet, u64, usize)> = Vec::new();
    for core in &cores {
        let Some(cpu) = core.cpus.iter().next() else { continue };
        if of_cpu(cpu, "cache/index3/shared_cpu_list").is_none() {
            continue;
        }
        match caches.iter_mut().find(|(domain, ..)| *domain == core.domain) {
            Some((.., n)) => *n += 1,
            None => {
                let size = of_cpu(cpu, "cache/index3/size").and_then(|text| kib(&text)).unwrap_or(0);
                caches.push((core.domain, size, 1));
            }
        }
    }
    Some(Parts {
        source: "sysfs".into(),
        packages,
        nodes: nodes.len(),
        // Where the CPU has no dies, the kernel numbers each package as one.
        dies: if dies > packages { dies } else { 0 },
        caches: caches.into_iter().map(|(_, size, cores)| (size, cores)).collect(),
        cores: cores.len(),
        cpus: all.len(),
    })
}

/// `32768K` in bytes.
fn kib(text: &str) -> Option<u64> {
    text.strip_suffix('K')?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The parts, SMT, how many of the CPUs may be used, and how many threads a graph gets.
pub fn checks(root: &Root, settings: &Settings) -> Vec<Check> {
    let Some(parts) = Parts::of(root) else {
        let found = "neither hwloc nor /sys/devices/system/cpu tells it";
        return vec![Check::limited("topology", found, "sysfs mounted", "mount -t sysfs sysfs /sys")];
    };
    vec![
        Check::ok("topology", parts.line()),
        smt(root, &parts),
        allowed(root, &parts),
        threads(&CpuBudget::of_children(&root.path("")), settings),
        advised(root, settings),
    ]
}

/// How many threads to ask a program for.
fn advised(root: &Root, settings: &Settings) -> Check {
    const ID: &str = "cpus.advice";
    let Some(advice) = advice(root, &settings.cpu().brand) else { return Check::ok(ID, "not told") };
    let Advice { prompt, generation, why } = advice;
    let numbers = if prompt == generation {
        format!("-t {prompt} for prompts and generation")
    } else {
        format!("-t {generation} for generation, -tb {prompt} for prompts")
    };
    Check::ok(ID, format!("{numbers}: {why}"))
}

/// How many threads a graph of a process gets that is started here, and what limits it.
fn threads(budget: &CpuBudget, settings: &Settings) -> Check {
    const ID: &str = "cpus.threads";
    let n = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let CpuBudget { cpus, limit } = budget;
    match (settings.config().threads, limit) {
        (Threads::Auto, Limit::Quota { .. }) => Check::limited(
            ID,
            format!("a graph gets at most {} ({limit})", n(*cpus, "thread")),
            "no CPU quota below the CPUs that are allowed",
            "nothing if intended (docker run --cpus, CPUQuota= of a unit); a quota counts in whole CPUs",
        ),
        (Threads::Auto, _) => Check::ok(ID, format!("a graph gets at most {} ({limit})", n(*cpus, "thread"))),
        (setting, _) => {
            let most = match setting {
                Threads::AtMost(most) => format!("at most {}", n(most, "thread")),
                Threads::Auto | Threads::Off => "as many threads as the program asks for".to_owned(),
            };
            let setting = settings.value("ZEN5TURBO_THREADS");
            let rest = format!("(ZEN5TURBO_THREADS={setting}); the process has {} ({limit})", n(*cpus, "CPU"));
            Check::ok(ID, format!("a graph gets {most} {rest}"))
        }
    }
}

fn smt(root: &Root, parts: &Parts) -> Check {
    let control = root.read("sys/devices/system/cpu/smt/control").unwrap_or_else(|| "not told".into());
    let found = if parts.cpus > parts.cores {
        format!("{} CPUs on {} cores (control: {control})", parts.cpus, parts.cores)
    } else {
        format!("one CPU per core (control: {control})")
    };
    Check::ok("smt", found)
}

fn allowed(root: &Root, parts: &Parts) -> Check {
    const ID: &str = "cpus.allowed";
    let Some(set) = threads::allowed(root) else {
        return Check::ok(ID, "not told");
    };
    let found = format!("{} of {} ({set})", set.len(), parts.cpus);
    if set.len() >= parts.cpus {
        Check::ok(ID, found)
    } else {
        let todo = "nothing if intended (taskset, cpuset, container limit); use no more threads than that: -t";
        Check::limited(ID, found, "all CPUs of the machine", todo)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::check::Status;
    use crate::root::tests::tree;

    /// Two packages of two L3 each, two cores at each, two CPUs per core.
    fn server() -> (tempfile::TempDir, Root) {
        let mut files: Vec<(String, String)> = vec![
            ("proc/self/status".into(), "Cpus_allowed_list:\t0-3\n".into()),
            ("sys/devices/system/cpu/online".into(), "0-15\n".into()),
            ("sys/devices/system/cpu/smt/control".into(), "on\n".into()),
            ("sys/devices/system/node/online".into(), "0-1\n".into()),
            ("sys/devices/system/node/has_memory".into(), "0-1\n".into()),
            ("sys/devices/system/node/node0/cpulist".into(), "0-3,8-11\n".into()),
            ("sys/devices/system/node/node1/cpulist".into(), "4-7,12-15\n".into()),
        ];
        for cpu in 0..16 {
            let (core, of) = (cpu % 8, format!("sys/devices/system/cpu/cpu{cpu}"));
            let l3 = core / 2 * 2;
            files.push((format!("{of}/topology/thread_siblings_list"), format!("{core},{}\n", core + 8)));
            files.push((format!("{of}/topology/physical_package_id"), format!("{}\n", core / 4)));
            files.push((format!("{of}/topology/die_id"), format!("{}\n", core / 2 % 2)));
            files.push((
                format!("{of}/cache/index3/shared_cpu_list"),
                format!("{l3}-{},{}-{}\n", l3 + 1, l3 + 8, l3 + 9),
            ));
            files.push((format!("{of}/cache/index3/size"), "32768K\n".into()));
        }
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        tree(&files)
    }

    #[test]
    fn a_server_is_told_part_by_part() {
        let (_folder, root) = server();
        let parts = Parts::of(&root).unwrap();
        let caches = vec![(32 << 20, 2); 4];
        let expected = Parts { source: "sysfs".into(), packages: 2, nodes: 2, dies: 4, caches, cores: 8, cpus: 16 };
        assert_eq!(parts, expected);
        let line = "2 packages, 2 NUMA nodes, 4 dies, 4 L3 of 32.0 MiB for 2 cores, 8 cores, 16 CPUs (sysfs)";
        assert_eq!(parts.line(), line);
        let checks = checks(&root, &Settings::of([]));
        assert_eq!(checks[1].found, "16 CPUs on 8 cores (control: on)");
        assert_eq!((checks[2].status, checks[2].found.as_str()), (Status::Limited, "4 of 16 (0-3)"));
        let threads = "a graph gets at most 4 threads (CPUs allowed: 0-3)";
        assert_eq!((checks[3].id.as_str(), checks[3].found.as_str()), ("cpus.threads", threads));
        let advice = "-t 4 for prompts and generation: one for each of 4 cores; they lie on 2 L3 caches (CCDs)";
        assert!(checks[4].id == "cpus.advice" && checks[4].found.starts_with(advice), "{checks:?}");
    }

    #[test]
    fn the_threads_of_a_graph_are_told_with_what_limits_them() {
        let quota = Limit::Quota { quota: 250_000, period: 100_000, group: "/sys/fs/cgroup/a".into() };
        let of = |setting: Option<&str>, cpus, limit: &Limit| {
            let set = setting.map(|value| ("ZEN5TURBO_THREADS".to_owned(), value.to_owned()));
            let check = threads(&CpuBudget { cpus, limit: limit.clone() }, &Settings::of(set));
            (check.status, check.found)
        };
        let found = "a graph gets at most 2 threads (CPU quota 250000/100000 us of /sys/fs/cgroup/a)";
        assert_eq!(of(None, 2, &quota), (Status::Limited, found.into()));
        assert_eq!(of(None, 1, &Limit::Online), (Status::Ok, "a graph gets at most 1 thread (CPUs online)".into()));
        let set = "a graph gets at most 3 threads (ZEN5TURBO_THREADS=3); the process has 8 CPUs (CPUs online)";
        assert_eq!(of(Some("3"), 8, &Limit::Online), (Status::Ok, set.into()));
        let off = "a graph gets as many threads as the program asks for (ZEN5TURBO_THREADS=off); the process has 8 CPUs (CPUs online)";
        assert_eq!(of(Some("off"), 8, &Limit::Online), (Status::Ok, off.into()));
        assert_eq!(of(Some("many"), 8, &Limit::Online).1, "a graph gets at most 8 threads (CPUs online)");
    }

    #[test]
    fn a_machine_that_tells_nothing_is_limited() {
        let (_folder, root) = tree(&[]);
        assert_eq!(checks(&root, &Settings::of([]))[0].status, Status::Limited);
    }

    #[test]
    fn this_machine_is_told_alike_by_both() {
        let root = Root::new(std::path::Path::new("/"));
        let (one, other) = (Parts::of(&root).unwrap(), from_sysfs(&root).unwrap());
        assert!(one.cores >= 1 && one.cpus >= one.cores && one.nodes >= 1 && one.packages >= 1, "{one:?}");
        // hwloc leaves out what the cpuset of this process forbids.
        assert!(one.cpus <= other.cpus && one.packages <= other.packages, "{one:?} {other:?}");
    }
}
