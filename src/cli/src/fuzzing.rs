//! What a fuzzer calls: every reader of what somebody else wrote. Plain functions that panic at a defect.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use zen5turbo_ggml::hooks;
use zen5turbo_host::memory::Budget;

use crate::ab::fuzzing::{model, quality};
use crate::bios;
use crate::doctor;
use crate::elf::Elf;
use crate::knobs::Settings;
use crate::live;
use crate::llama_bench;
use crate::loader::{LoaderCache, expand};
use crate::maps::Mapping;
use crate::root::{Root, field};
use crate::shim_stats;
use crate::top;

/// An ELF file.
pub fn elf(data: &[u8]) {
    if let Ok(elf) = Elf::of_bytes(data, &hooks::reported()) {
        let _ = (elf.musl(), expand(&elf.rpath, Path::new("/o")), expand(&elf.runpath, Path::new("/o")));
    }
}

/// `/etc/ld.so.cache`.
pub fn loader_cache(data: &[u8]) {
    let _ = LoaderCache::of_bytes(data).find("libggml.so", &[]);
}

/// Lines of `/proc`, names of models, what llama-bench and llama-perplexity print.
pub fn texts(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for mapping in text.lines().filter_map(Mapping::parse) {
        let _ = (mapping.name(), mapping.is_shim());
    }
    let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
    let _ = (field(&text, first), doctor::memory::chosen(first), doctor::capability(&text, 14));
    model(first, rest.as_bytes());
    quality(&text);
    let _ = llama_bench::parse(&text);
    let _ = bios::label(first);
}

/// JSON files: statistics and records.
pub fn json(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(mut stats) = shim_stats::parse(&text) {
        let again = stats.clone();
        shim_stats::merge(&mut stats, &again);
        let _ = (shim_stats::summary(&stats), stats.taken(), stats.declined());
        top::frame::fuzz(&text);
    }
    bios::fuzz(&text);
}

/// The live statistics of a process.
pub fn segment(data: &[u8]) {
    zen5turbo_telemetry::fuzzing::name(data);
    for snapshot in zen5turbo_telemetry::fuzzing::segment(data) {
        live::fuzz(&snapshot);
    }
}

/// Files of the kernel that are read, of the machine and of process 1.
const FILES: [&str; 48] = [
    "proc/self/status",
    "proc/self/cgroup",
    "proc/self/limits",
    "proc/meminfo",
    "proc/cpuinfo",
    "proc/cmdline",
    "proc/pressure/memory",
    "proc/sys/vm/overcommit_memory",
    "proc/sys/vm/max_map_count",
    "proc/sys/kernel/numa_balancing",
    "proc/sys/kernel/perf_event_paranoid",
    "proc/sys/kernel/osrelease",
    "proc/1/environ",
    "proc/1/maps",
    "proc/1/status",
    "proc/1/stat",
    "proc/1/smaps_rollup",
    "proc/1/mem",
    "sys/fs/cgroup/memory.max",
    "sys/fs/cgroup/memory.current",
    "sys/fs/cgroup/memory.stat",
    "sys/fs/cgroup/memory.pressure",
    "sys/fs/cgroup/hugetlb.2MB.max",
    "sys/fs/cgroup/memory/memory.limit_in_bytes",
    "sys/fs/cgroup/memory/memory.usage_in_bytes",
    "sys/kernel/mm/transparent_hugepage/enabled",
    "sys/kernel/mm/transparent_hugepage/defrag",
    "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
    "sys/devices/system/cpu/online",
    "sys/devices/system/cpu/smt/control",
    "sys/devices/system/cpu/cpufreq/boost",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_governor",
    "sys/devices/system/cpu/cpufreq/policy0/cpuinfo_max_freq",
    "sys/devices/system/cpu/cpu0/topology/thread_siblings_list",
    "sys/devices/system/cpu/cpu0/cache/index3/shared_cpu_list",
    "sys/devices/system/cpu/cpu0/cache/index3/size",
    "sys/devices/system/node/online",
    "sys/devices/system/node/has_memory",
    "sys/devices/system/node/node0/cpulist",
    "sys/devices/system/node/node0/meminfo",
    "sys/devices/system/node/node0/hugepages/hugepages-1048576kB/free_hugepages",
    "sys/class/powercap/intel-rapl:0/name",
    "sys/class/powercap/intel-rapl:0/constraint_0_power_limit_uw",
    "sys/firmware/dmi/tables/smbios_entry_point",
    "sys/firmware/dmi/tables/DMI",
    "sys/kernel/ryzen_smu_drv/pm_table_version",
    "sys/kernel/ryzen_smu_drv/pm_table",
    "sys/class/dmi/id/board_name",
];

/// A made tree of such files: parts of `data`, separated by the bytes `FF FE`, each a number of a file, from 128 on of a
/// folder in its place, and its contents.
pub fn fake_root(data: &[u8]) {
    thread_local! {
        static TREE: OnceCell<TempDir> = const { OnceCell::new() };
    }
    TREE.with(|tree| {
        let folder =
            tree.get_or_init(|| tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()).path();
        let mut made: BTreeSet<PathBuf> = BTreeSet::new();
        for part in parts(data).take(24) {
            let [number, contents @ ..] = part else { continue };
            let path = folder.join(FILES[usize::from(number & 127) % FILES.len()]);
            if made.contains(&path) {
                continue;
            }
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            if number & 128 == 0 { fs::write(&path, contents) } else { fs::create_dir(&path) }.unwrap();
            made.insert(path);
        }
        look_around(folder);
        for path in made {
            fs::remove_file(&path).or_else(|_| fs::remove_dir(&path)).unwrap();
        }
    });
}

fn parts(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(data);
    std::iter::from_fn(move || {
        let all = rest?;
        let end = all.windows(2).position(|w| w == [0xff, 0xfe]);
        rest = end.map(|end| &all[end + 2..]);
        Some(&all[..end.unwrap_or(all.len())])
    })
}

/// All that is read below a root.
fn look_around(folder: &Path) {
    let root = Root::new(folder);
    let budget = Budget::below(folder);
    let _ =
        (budget.spare(), budget.room_for_files(), budget.most_of_files(), budget.limit(), budget.pressure().is_high());
    doctor::fuzz(&root, &Settings::of([("ZEN5TURBO_HUGEPAGES".to_owned(), "2m".to_owned())]));
    bios::fuzz_settings(&root);
    assert!(live::find(&root).is_empty());
}
