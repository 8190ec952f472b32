//! Weights and threads on a machine with two memory nodes, emulated (`scripts/vm/run`).

use std::collections::BTreeMap;

use zen5turbo_tests::{
    Fixture, Guest, GuestOutcome, Mapping, Snapshot, dl_backend_avx2, guest_model, llama_dl, work_dir,
};

const HUGE_PAGE: usize = 2 << 20;

/// Rows that are computed together.
const PANEL: usize = 16;

/// llama-bench on a model whose weights move to huge pages, with one CPU on each node.
fn bench(numa: &str) -> GuestOutcome {
    let run = Guest::engaged(llama_dl("llama-bench"))
        .file(dl_backend_avx2())
        .arg("-m")
        .file_arg(guest_model())
        .args("-p 8 -n 48 -t 2 -r 1")
        .knob("NUMA", numa)
        .knob("HUGEPAGES", "thp")
        // Reading ahead maps the file elsewhere for moments; here one mapping of it is looked for.
        .knob("PREFETCH", "off")
        .watch(1)
        .run();
    let run = GuestOutcome { program: run.program.success(), ..run };
    run.program.stats().assert_healthy();
    println!("{}", run.program.stats());
    run
}

/// The node of every page of the model that was promoted, at the end, by its offset in the file. The shim maps a
/// model from a multiple of 2 MiB on.
fn promoted(run: &GuestOutcome) -> BTreeMap<usize, char> {
    let of_model = |m: &Mapping| m.is_of(&guest_model());
    let first = run.snapshots.iter().flat_map(|s| &s.mappings).filter(|m| of_model(m)).map(|m| m.start).min();
    let base = first.expect("the model was mapped") / HUGE_PAGE * HUGE_PAGE;
    let end = base + std::fs::metadata(guest_model()).expect("the model").len() as usize;
    let of_run = |m: &&Mapping| m.path.is_empty() && m.start >= base && m.start < end;
    // The last one that the end of the process, which takes pages away, has not reached.
    let complete = |s: &&Snapshot| {
        let mut mappings = s.mappings.iter().filter(of_run).peekable();
        mappings.peek().is_some() && mappings.all(Mapping::is_complete)
    };
    let last = run.snapshots.iter().rev().find(complete).expect("promoted pages were seen");
    let mut pages = BTreeMap::new();
    for mapping in last.mappings.iter().filter(of_run) {
        for (i, nodes) in mapping.nodes.as_bytes().chunks(HUGE_PAGE / 4096).enumerate() {
            assert!(nodes.iter().all(|&n| n == nodes[0]), "a page lies in two places: {mapping:?} {}", mapping.runs());
            pages.insert(mapping.start - base + i * HUGE_PAGE, char::from(nodes[0]));
        }
    }
    assert!(pages.len() >= 8, "only {} pages were promoted: {last:?}", pages.len());
    pages
}

/// A matrix of the model: rows and bytes of a row, by where it begins in the file.
fn matrices() -> BTreeMap<usize, (usize, usize)> {
    let bytes = std::fs::read(guest_model()).expect("the model");
    let mut at = 8;
    let mut take = |n: usize| {
        at += n;
        &bytes[at - n..at]
    };
    let number = |b: &[u8]| b.iter().rev().fold(0, |n, &b| n << 8 | usize::from(b));
    let tensors = number(take(8));
    for _ in 0..number(take(8)) {
        let name = number(take(8));
        take(name);
        let mut kind = number(take(4));
        let mut count = 1;
        if kind == 9 {
            kind = number(take(4));
            count = number(take(8));
        }
        for _ in 0..count {
            // The sizes of GGUF's value types; a string has its length before it.
            let size = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8][kind];
            let size = if kind == 8 { number(take(8)) } else { size };
            take(size);
        }
    }
    let mut found = Vec::new();
    for _ in 0..tensors {
        let name = number(take(8));
        let name = String::from_utf8_lossy(take(name)).into_owned();
        let dims: Vec<_> = (0..number(take(4))).map(|_| number(take(8))).collect();
        let (_, offset) = (take(4), number(take(8)));
        // Of Q8_0: 32 codes and a scale of two bytes in a block.
        if dims.len() == 2 && name.starts_with("blk.") {
            found.push((offset, (dims[1], dims[0] / 32 * 34)));
        }
    }
    let data = at.next_multiple_of(32);
    found.into_iter().map(|(offset, shape)| (data + offset, shape)).collect()
}

#[test]
fn interleaved_pages_take_turns_on_both_nodes() {
    for numa in ["auto", "interleave"] {
        let run = bench(numa);
        let pages = promoted(&run);
        let list: String = pages.values().collect();
        println!("{numa}: {list}");
        let even = pages.iter().next().map(|(&at, &node)| (at / HUGE_PAGE % 2, node)).expect("a page");
        for (&at, &node) in &pages {
            assert_eq!(node == even.1, at / HUGE_PAGE % 2 == even.0, "{list}");
        }
        assert_eq!(run.program.stats().text("/memory/numa/mode"), "interleave");
        assert_eq!(run.program.stats().number("/memory/numa/moved"), 0);
    }
}

#[test]
fn sharded_rows_lie_on_the_node_that_computes_them() {
    let run = bench("shard");
    let stats = run.program.stats();
    assert_eq!(stats.text("/memory/numa/mode"), "shard");
    assert!(stats.number("/memory/numa/moved") >= 2, "{stats}");
    let (pages, matrices) = (promoted(&run), matrices());
    println!("{}", pages.values().collect::<String>());
    let mut checked = [0; 2];
    for (&at, &node) in &pages {
        let middle = at + HUGE_PAGE / 2;
        let Some((&start, &(rows, row_bytes))) = matrices.range(..=middle).next_back() else { continue };
        if middle >= start + rows * row_bytes {
            continue; // a tensor that no product reads
        }
        let panels = rows.div_ceil(PANEL);
        let expected = usize::from((middle - start) / row_bytes / PANEL >= panels / 2);
        assert_eq!(node.to_digit(10), Some(expected as u32), "the page at byte {at} of the file");
        checked[expected] += 1;
    }
    assert!(checked.iter().all(|&n| n > 1), "pages of both nodes: {checked:?}");
}

#[test]
fn off_places_nothing() {
    let run = bench("off");
    let stats = run.program.stats();
    assert_eq!(stats.text("/memory/numa/mode"), "off");
    assert_eq!(stats.number("/memory/numa/moved"), 0);
}

/// The same bits with and without shares, with threads on both nodes, two on each, or one, and when ggml
/// itself places threads.
#[test]
fn results_do_not_depend_on_who_computes_which_rows() {
    let dir = work_dir();
    let placed = Fixture::new("placed").linked_with_avx2().build(&dir, "placed");
    let mut script = String::new();
    let settings =
        [("off", "auto"), ("shard", "auto"), ("shard", "0,1,2"), ("shard", "cores"), ("interleave", "cores")];
    for threads in [2, 3, 4] {
        for (numa, pin) in settings {
            let vars = format!("ZEN5TURBO_NUMA={numa} ZEN5TURBO_PIN={pin}");
            script +=
                &format!("echo {threads} {numa} {pin}; {vars} '{}' {threads} plain || exit 1\n", placed.display());
        }
    }
    script += &format!("ZEN5TURBO_NUMA=shard '{}' 4 distribute || exit 1\n", placed.display());
    let run = Guest::shell(&script)
        .file(&placed)
        .var("LD_PRELOAD", zen5turbo_tests::shim())
        .knob("GATE", "off")
        .knob("KERNELS", "avx2")
        .var("OMP_WAIT_POLICY", "passive")
        .cpus(2)
        .run()
        .program
        .success();
    println!("{run}");
    let results: Vec<_> = run.stdout.lines().filter(|line| line.starts_with("results")).collect();
    assert_eq!(results.len(), 3 * settings.len() + 1);
    assert!(results.iter().all(|line| *line == results[0]), "{run}");
    // Four threads fill the four cores: 0 and 1 on the first node, 2 and 3 on the second, in turn.
    let sharded = run.stdout.split("4 shard cores").nth(1).expect("that run");
    for (ith, cpu) in [0, 2, 1, 3].into_iter().enumerate() {
        assert!(sharded.contains(&format!("thread {ith}: {cpu}\n")), "{sharded}");
    }
}
