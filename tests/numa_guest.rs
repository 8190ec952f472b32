//! A machine with two NUMA nodes and hugetlb pages, emulated: `scripts/vm/run`.

use zen5turbo_tests::{
    Fixture, Guest, Mapping, Snapshot, copies, dl_backend_avx2, guest_model, llama_dl, page_nodes, work_dir,
};

/// The last snapshot's mapping that `wanted` picks.
fn last_mapping(snapshots: &[Snapshot], wanted: impl Fn(&Mapping) -> bool) -> &Mapping {
    let all = snapshots.iter().rev().flat_map(|snapshot| &snapshot.mappings);
    all.into_iter().find(|mapping| wanted(mapping)).unwrap_or_else(|| panic!("no such mapping in {snapshots:#?}"))
}

/// Pages whose places the test chose, seen by the prober that other tests rely on; then llama-bench.
#[test]
fn two_nodes_hugetlb_pages_and_llama_cpp_under_the_shim() {
    let dir = work_dir();
    let known = Fixture::new("numa_pages").build(&dir, "numa_pages");
    let look = format!("'{}' /out/known.jsonl 8 '{}' 4 2", page_nodes().display(), known.display());
    let run = Guest::engaged(llama_dl("llama-bench"))
        .file(dl_backend_avx2())
        .arg("-m")
        .file_arg(guest_model())
        .args("-p 8 -n 48 -t 2 -r 1") // with a CPU of each node at work, copying rests most of the time
        .file(&known)
        .pages("2M", [8, 8])
        .pages("1G", [1, 1])
        .before("cat /sys/devices/system/node/online")
        .before(&look)
        .knob("LOG", "debug")
        .watch(1)
        .run();
    let program = run.program.success();
    println!("{}", program.stdout);
    assert!(program.stdout.starts_with("0-1\n"), "{program}");

    let snapshots = Snapshot::read_all(&run.out.path().join("known.jsonl"));
    for (page_kib, pages) in [(4, 2048), (2048, 4), (1 << 20, 2)] {
        let mapping = last_mapping(&snapshots, |m| m.page_kib == page_kib && m.policy == "interleave:0-1");
        assert_eq!(mapping.nodes.len(), pages, "{mapping:?}");
        let alternate = mapping.nodes.as_bytes().windows(2).all(|pair| pair == b"01" || pair == b"10");
        assert!(alternate, "pages of {page_kib} KiB: {}", mapping.runs());
    }

    let stats = program.stats();
    stats.assert_healthy();
    assert!(stats.taken("MUL_MAT", Some("q8_0")) > 0, "{stats}");
    let model = last_mapping(&run.snapshots, |m| m.is_of(&guest_model()));
    println!("the model: {:?}, {}, {} snapshots, {}", model.count(), model.policy, run.snapshots.len(), model.runs());
    // By default weights are copied where there are two nodes, and the pages of the file that have a copy are let go.
    assert!(stats.number("/memory/weights/copied/thp") > 0, "{stats}");
    let copies = copies(&program.stderr);
    let [(of, at)] = copies[..] else { panic!("one copy of the model: {copies:x?}") };
    let distance = at.wrapping_sub(of);
    let seen = run.snapshots.iter().filter_map(|snapshot| {
        let model = snapshot.mappings.iter().find(|m| m.is_of(&guest_model()))?;
        let pages = (model.start..model.end).step_by(4096).zip(model.nodes.bytes());
        let absent: Vec<_> = pages.filter(|(_, node)| !node.is_ascii_digit()).map(|(page, _)| page).collect();
        let is_copied = |page: &usize| snapshot.has(page.wrapping_add(distance));
        Some((absent.len(), absent.iter().filter(|page| !is_copied(page)).count()))
    });
    let seen: Vec<_> = seen.collect();
    println!("pages of the file that are not there, and those that have no copy either: {seen:?}");
    assert!(seen.iter().any(|&(absent, lost)| absent > 0 && lost == 0), "{seen:?}");
}

#[test]
fn a_cgroup_limits_hugetlb_pages_and_the_user_is_not_root() {
    let dir = work_dir();
    let known = Fixture::new("numa_pages").build(&dir, "numa_pages");
    let guest = |pages| {
        Guest::new(&known)
            .args(pages)
            .pages("2M", [8, 8])
            .cgroup("hugetlb.2MB.max", "4194304")
            .user(1000)
            .watch(8)
            .before("id -u; cat /sys/fs/cgroup/program/hugetlb.2MB.max")
            .run()
            .program
    };
    let allowed = guest("2 0").success();
    assert_eq!(allowed.stdout, "1000\n4194304\n");
    // What the limit refuses is a page at its first touch: SIGBUS.
    let _ = guest("3 0").exit(128 + libc::SIGBUS);
}
