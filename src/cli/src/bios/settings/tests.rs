use super::*;
use crate::root::tests::tree;
use std::fs;
use std::path::Path;

/// A server of two packages with two nodes each (NPS2), two L3 on every node, one core at each.
const SERVER: [(&str, &str); 31] = [
    ("sys/class/dmi/id/board_vendor", "Supermicro\n"),
    ("sys/class/dmi/id/board_name", "H14DSH\n"),
    ("sys/class/dmi/id/board_version", "Default string\n"),
    ("sys/class/dmi/id/bios_version", "1.3b\n"),
    ("sys/class/dmi/id/bios_date", "08/30/2026\n"),
    (
        "proc/cpuinfo",
        "processor\t: 0\nmodel name\t: AMD EPYC 9575F 64-Core\nmicrocode\t: 0xb002151\nflags\t\t: fpu avx\n",
    ),
    ("proc/cmdline", "root=/dev/sda mitigations=off\n"),
    ("proc/sys/kernel/osrelease", "6.18.1\n"),
    ("proc/sys/kernel/numa_balancing", "1\n"),
    ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
    ("sys/devices/system/cpu/cpufreq/policy0/scaling_driver", "amd-pstate-epp\n"),
    ("sys/devices/system/cpu/cpufreq/policy0/scaling_governor", "performance\n"),
    ("sys/devices/system/cpu/cpufreq/policy1/scaling_governor", "powersave\n"),
    ("sys/devices/system/cpu/cpufreq/policy0/cpuinfo_max_freq", "5000000\n"),
    ("sys/devices/system/cpu/cpufreq/policy1/cpuinfo_max_freq", "5000000\n"),
    ("sys/devices/system/cpu/amd_pstate/status", "active\n"),
    ("sys/devices/system/cpu/cpufreq/boost", "1\n"),
    ("sys/devices/system/cpu/smt/control", "off\n"),
    ("sys/devices/system/cpu/vulnerabilities/spectre_v2", "Vulnerable\n"),
    ("sys/devices/system/cpu/online", "0-7\n"),
    ("sys/devices/system/node/online", "0-3\n"),
    ("sys/devices/system/node/has_memory", "0-3\n"),
    ("sys/devices/system/node/node0/cpulist", "0-1\n"),
    ("sys/devices/system/node/node1/cpulist", "2-3\n"),
    ("sys/devices/system/node/node2/cpulist", "4-5\n"),
    ("sys/devices/system/node/node3/cpulist", "6-7\n"),
    ("sys/devices/system/node/node1/meminfo", "Node 1 MemTotal:   33554432 kB\nNode 1 MemFree: 1 kB\n"),
    ("sys/devices/system/node/node0/hugepages/hugepages-1048576kB/nr_hugepages", "16\n"),
    ("sys/class/powercap/intel-rapl:0/name", "package-0\n"),
    ("sys/class/powercap/intel-rapl:0/energy_uj", "1000000\n"),
    ("sys/class/powercap/intel-rapl:0/constraint_0_power_limit_uw", "400000000\n"),
];

fn server() -> (tempfile::TempDir, Root) {
    let mut files: Vec<(String, String)> = SERVER.iter().map(|(p, t)| ((*p).into(), (*t).into())).collect();
    for cpu in 0..8 {
        let of = format!("sys/devices/system/cpu/cpu{cpu}");
        files.push((format!("{of}/topology/physical_package_id"), (cpu / 4).to_string()));
        files.push((format!("{of}/topology/thread_siblings_list"), cpu.to_string()));
        files.push((format!("{of}/cache/index3/shared_cpu_list"), cpu.to_string()));
        files.push((format!("{of}/cache/index3/size"), "32768K".into()));
    }
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    tree(&files)
}

fn write(root: &Root, path: &str, bytes: &[u8]) {
    let path = root.path(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn get(settings: &[Setting], id: &str) -> Reading {
    settings.iter().find(|s| s.id == id).unwrap_or_else(|| panic!("{id} in {settings:?}")).reading.clone()
}

fn value(settings: &[Setting], id: &str) -> String {
    match get(settings, id) {
        Reading::Value(value) => value,
        Reading::Unreadable(why) => panic!("{id} is not readable: {why}"),
    }
}

fn why(settings: &[Setting], id: &str) -> String {
    match get(settings, id) {
        Reading::Value(value) => panic!("{id} is {value}"),
        Reading::Unreadable(why) => why,
    }
}

/// An SMBIOS 3 entry point for any table.
fn entry_point() -> Vec<u8> {
    let mut entry = b"_SM3_\0\x18\x03\x05\0\x01\0\0\x10\0\0\0\0\0\0\0\0\0\0".to_vec();
    entry[5] = 0u8.wrapping_sub(entry.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte)));
    entry
}

/// A memory device (type 17) of SMBIOS 3.3.
fn module(slot: &str, mib: u32, rated: u16, configured: u16) -> Vec<u8> {
    let mut device = vec![0; 0x5c];
    let mut put = |at: usize, bytes: &[u8]| device[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &[17, 0x5c, 0x10, 0x00]);
    put(8, &[80, 0, 64, 0]);
    let short = if mib >= 0x7fff { 0x7fff } else { mib as u16 };
    put(0x0c, &short.to_le_bytes());
    put(0x0e, &[9, 0, 1, 2, 34]); // DIMM, no set, locators, DDR5
    put(0x15, &rated.to_le_bytes());
    put(0x17, &[3, 4, 0, 5, 2]); // manufacturer, serial number, no tag, part number, two ranks
    put(0x1c, &mib.to_le_bytes());
    put(0x20, &configured.to_le_bytes());
    put(0x26, &1350u16.to_le_bytes());
    device.extend(format!("{slot}\0P0 CHANNEL A\0Micron\0SECRET-SERIAL\0MTC20F2085S1RC64\0\0").bytes());
    device
}

fn with_modules(root: &Root, modules: &[Vec<u8>]) {
    let end = [127, 4, 0x7f, 0, 0, 0];
    let table: Vec<u8> = modules.iter().flatten().copied().chain(end).collect();
    write(root, "sys/firmware/dmi/tables/smbios_entry_point", &entry_point());
    write(root, "sys/firmware/dmi/tables/DMI", &table);
}

#[test]
fn a_server_is_read_setting_by_setting() {
    let (_folder, root) = server();
    let settings = read(&root);
    for (id, expected) in [
        ("board.name", "H14DSH"),
        ("bios.version", "1.3b"),
        ("bios.date", "08/30/2026"),
        ("cpu.model", "AMD EPYC 9575F 64-Core"),
        ("cpu.microcode", "0xb002151"),
        ("machine.virtual", "no"),
        ("cpu.governor", "performance (1), powersave (1)"),
        ("cpu.driver", "amd-pstate-epp"),
        ("cpu.amd_pstate", "active"),
        ("cpu.boost", "on"),
        ("cpu.clock_max", "5000 MHz"),
        ("cpu.smt", "off"),
        ("memory.nodes", "4"),
        ("memory.nodes_per_package", "2 (NPS, unless L3 are nodes)"),
        ("memory.l3_as_numa", "no"),
        ("memory.node:1", "32.0 GiB, CPUs 2-3"),
        ("memory.thp", "madvise"),
        ("memory.hugetlb:node0:1GiB", "16 reserved"),
        ("kernel.numa_balancing", "1"),
        ("kernel.command_line", "root=/dev/sda mitigations=off"),
        ("mitigation:spectre_v2", "Vulnerable"),
        ("power.limit:package-0", "400.0 W"),
    ] {
        assert_eq!(value(&settings, id), expected, "{id}");
    }
    assert_eq!(why(&settings, "board.version"), "the machine does not tell it");
    assert_eq!(why(&settings, "bios.vendor"), "/sys/class/dmi/id/bios_vendor is not there");
    assert_eq!(why(&settings, "memory.speed"), "/sys/firmware/dmi/tables/smbios_entry_point is not there");
    assert!(why(&settings, "fabric.fclk").contains("ryzen_smu is not loaded"));
}

#[test]
fn every_l3_a_node_is_told_from_nps() {
    let (_folder, root) = server();
    for node in 0..4 {
        let cpus = format!("{}-{}", 2 * node, 2 * node + 1);
        for cpu in [2 * node, 2 * node + 1] {
            write(&root, &format!("sys/devices/system/cpu/cpu{cpu}/cache/index3/shared_cpu_list"), cpus.as_bytes());
        }
    }
    assert_eq!(value(&read(&root), "memory.l3_as_numa"), "yes: every L3 is a node");
}

#[test]
fn modules_are_told_with_their_configured_speed_and_without_their_serial_numbers() {
    let (_folder, root) = server();
    with_modules(
        &root,
        &[module("DIMM 0", 65536, 6400, 6000), module("DIMM 1", 0, 0, 0), module("DIMM 2", 16384, 6400, 6000)],
    );
    let settings = read(&root);
    assert_eq!(value(&settings, "memory.speed"), "6000 MT/s");
    assert_eq!(value(&settings, "memory.modules"), "2");
    assert_eq!(
        value(&settings, "memory.module:P0 CHANNEL A DIMM 0"),
        "64.0 GiB DDR5 at 6000 MT/s (rated 6400 MT/s), 1.35 V, 2 ranks, Micron MTC20F2085S1RC64"
    );
    assert!(value(&settings, "memory.module:P0 CHANNEL A DIMM 2").starts_with("16.0 GiB DDR5"));
    assert!(!serde_json::to_string(&settings).unwrap().contains("SECRET"));
}

#[test]
fn tables_that_are_broken_are_unreadable_with_the_reason() {
    let (_folder, root) = server();
    write(&root, "sys/firmware/dmi/tables/smbios_entry_point", b"nothing");
    write(&root, "sys/firmware/dmi/tables/DMI", b"");
    assert!(why(&read(&root), "memory.modules").contains("is not an SMBIOS entry point"));
    with_modules(&root, &[vec![17, 4]]);
    assert!(why(&read(&root), "memory.modules").contains("DMI "));
    with_modules(&root, &[]);
    assert!(why(&read(&root), "memory.modules").contains("names no memory module"));
}

const SMU: &str = "sys/kernel/ryzen_smu_drv";

fn with_smu(root: &Root, version: u32, fclk: f32) {
    let mut table = vec![0u8; 0x994];
    for (at, clock) in [(0x11c, fclk), (0x12c, 3000.0), (0x13c, 3000.0)] {
        table[at..at + 4].copy_from_slice(&f32::to_le_bytes(clock));
    }
    write(root, &format!("{SMU}/version"), b"SMU v98.82.0\n");
    write(root, &format!("{SMU}/pm_table_version"), &version.to_le_bytes());
    write(root, &format!("{SMU}/pm_table"), &table);
}

#[test]
fn memory_and_fabric_clocks_come_from_tables_that_are_known_only() {
    let (_folder, root) = server();
    with_smu(&root, 0x62_0205, 2000.0);
    let settings = read(&root);
    assert_eq!(value(&settings, "smu.version"), "SMU v98.82.0");
    let clocks = ["fabric.fclk", "fabric.uclk", "fabric.mclk"].map(|id| value(&settings, id));
    assert_eq!(clocks, ["2000 MHz", "3000 MHz", "3000 MHz"]);
    with_smu(&root, 0x62_9999, 2000.0);
    assert!(why(&read(&root), "fabric.fclk").contains("table version 0x629999 of the SMU has it is not known"));
    with_smu(&root, 0x62_0205, 0.5);
    assert!(why(&read(&root), "fabric.fclk").contains("has 0.5 where a clock was expected"));
    write(&root, &format!("{SMU}/pm_table"), &[0; 8]);
    assert!(why(&read(&root), "fabric.mclk").contains("has 8 bytes only"));
}

#[test]
fn energy_is_counted_over_the_end_of_the_counter() {
    let (_folder, root) = server();
    write(&root, "sys/class/powercap/intel-rapl:0/max_energy_range_uj", b"65000000000\n");
    let energy = Energy::of(&root).unwrap();
    let power = |after: &str| {
        let work = || {
            std::thread::sleep(std::time::Duration::from_millis(10));
            write(&root, "sys/class/powercap/intel-rapl:0/energy_uj", after.as_bytes());
        };
        let ((), powers) = energy.during(&root, work);
        powers[0].clone()
    };
    let (zone, watts) = power("2000000");
    // One joule in 10 ms or more.
    assert!(zone == "package-0" && (1e-3..=100.0).contains(&watts), "{watts}");
    assert!(power("1000000").1 > 1e4, "it began again at 0: 65 kJ were used");
}

#[test]
fn a_table_of_modules_that_is_cut_or_lies_about_lengths_is_read_as_far_as_it_is_whole() {
    let (_folder, root) = server();
    let both = [module("DIMM A", 32768, 6400, 6000), module("DIMM B", 32768, 6400, 6000)].concat();
    for length in 0..both.len() {
        with_modules(&root, &[both[..length].to_vec()]);
        write(&root, "sys/firmware/dmi/tables/DMI", &both[..length]);
        let modules = get(&read(&root), "memory.modules");
        let whole = length * 2 / both.len();
        assert!(whole == 0 || modules == Reading::Value(whole.to_string()), "{length}: {modules:?}");
    }
    for (at, lie) in [(1, 0), (1, 3), (1, 0xff), (0, 0)] {
        let mut table = both.clone();
        table[at] = lie;
        write(&root, "sys/firmware/dmi/tables/DMI", &table);
        let _ = read(&root);
    }
}

#[test]
fn a_machine_that_tells_nothing_has_reasons_only() {
    let (_folder, root) = tree(&[]);
    let settings = read(&root);
    assert!(settings.len() > 20);
    assert!(settings.iter().all(|setting| matches!(setting.reading, Reading::Unreadable(_))), "{settings:?}");
    assert!(Energy::of(&root).is_err());
    let here = Root::new(Path::new("/"));
    assert!(read(&here).iter().any(|s| s.id == "kernel.release" && matches!(s.reading, Reading::Value(_))));
}
