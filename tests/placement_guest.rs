//! Weights and threads on a machine with two NUMA nodes, emulated (`scripts/vm/run`).

use std::collections::BTreeMap;
use std::ops::Range;

use zen5turbo_tests::{
    Fixture, Guest, GuestOutcome, Snapshot, buffers, copies, dl_backend_avx2, guest_model, llama_dl, work_dir,
};

const HUGE_PAGE: usize = 2 << 20;

/// Rows that are computed together.
const PANEL: usize = 16;

/// llama-bench on a model whose weights are copied to huge pages, with one CPU on each node.
fn bench(numa: &str, more: &str) -> GuestOutcome {
    let run = Guest::engaged(llama_dl("llama-bench"))
        .file(dl_backend_avx2())
        .arg("-m")
        .file_arg(guest_model())
        .args("-p 8 -n 48 -t 2 -r 1")
        .args(more)
        .knob("NUMA", numa)
        .knob("HUGEPAGES", "thp")
        .knob("LOG", "debug")
        .watch(1)
        .run();
    let run = GuestOutcome { program: run.program.success(), ..run };
    run.program.stats().assert_healthy();
    println!("{}", run.program.stats());
    run
}

/// The node of every page of 2 MiB that is there in a range, by its address, at the end: in the last snapshot with the most of them.
/// The end of the process, which takes pages away, may have been seen too.
fn there(run: &GuestOutcome, range: &Range<usize>) -> BTreeMap<usize, char> {
    let pages_of = |snapshot: &Snapshot| {
        let mut pages = BTreeMap::new();
        for mapping in snapshot.mappings.iter().filter(|m| m.path.is_empty()) {
            let (first, end) = (mapping.start.max(range.start).next_multiple_of(HUGE_PAGE), mapping.end.min(range.end));
            for at in (first..end).step_by(HUGE_PAGE).filter(|at| at + HUGE_PAGE <= end) {
                let nodes = &mapping.nodes[(at - mapping.start) / 4096..][..HUGE_PAGE / 4096];
                if nodes.bytes().all(|node| node.is_ascii_digit()) {
                    pages.insert(at, nodes.to_owned());
                }
            }
        }
        pages
    };
    let pages = run.snapshots.iter().map(pages_of).max_by_key(BTreeMap::len).expect("a snapshot");
    assert!(pages.len() >= 8, "only {} pages were seen in {range:x?}: {:#?}", pages.len(), run.snapshots.last());
    let node = |(at, nodes): (usize, String)| {
        let node = nodes.chars().next().expect("a page");
        assert!(nodes.chars().all(|n| n == node), "the page at {at:#x} lies in two places");
        (at, node)
    };
    pages.into_iter().map(node).collect()
}

/// Where the copy of the model lies. Its first page is that of the file's first bytes, which the shim maps at a multiple of 2 MiB.
fn copy(run: &GuestOutcome) -> Range<usize> {
    let copies = copies(&run.program.stderr);
    let [(of, at)] = copies[..] else { panic!("one copy of the model: {copies:x?}\n{}", run.program) };
    let len = std::fs::metadata(guest_model()).expect("the model").len() as usize;
    // llama.cpp unmaps what lies before the first tensor.
    let of_model =
        |s: &Snapshot| s.mappings.iter().any(|m| m.is_of(&guest_model()) && (of..of + len).contains(&m.start));
    assert!(run.snapshots.iter().any(of_model), "the model was mapped at {of:#x}: {:#?}", run.snapshots.last());
    at..at + len
}

/// A tensor of the model, of F32 or Q8_0.
struct Tensor {
    name: String,
    /// Where it begins in the file.
    offset: usize,
    rows: usize,
    row_bytes: usize,
}

impl Tensor {
    /// Whether it is a matrix that products read and nothing else does.
    fn is_matrix(&self) -> bool {
        self.rows > 1 && self.name.starts_with("blk.")
    }
}

/// What the file has, in its order.
fn tensors() -> Vec<Tensor> {
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
        let (is_f32, offset) = (number(take(4)) == 0, number(take(8)));
        // Q8_0 has 32 codes and a scale of two bytes in a block.
        let row_bytes = if is_f32 { dims[0] * 4 } else { dims[0] / 32 * 34 };
        found.push(Tensor { name, offset, rows: dims.get(1).copied().unwrap_or(1), row_bytes });
    }
    let data = at.next_multiple_of(32);
    found.iter_mut().for_each(|tensor| tensor.offset += data);
    found
}

/// Checks that pages lie on the node that computes the rows in their middle: the first half of a matrix's panels on the first node. `tensors`
/// by their addresses.
fn assert_sharded(pages: &BTreeMap<usize, char>, tensors: &BTreeMap<usize, Tensor>) {
    println!("{}", pages.values().collect::<String>());
    let mut checked = [0; 2];
    for (&at, &node) in pages {
        let middle = at + HUGE_PAGE / 2;
        let Some((start, tensor)) = tensors.range(..=middle).next_back() else { continue };
        let Tensor { name, rows, row_bytes, .. } = tensor;
        if !tensor.is_matrix() || middle >= start + rows * row_bytes {
            continue;
        }
        let expected = usize::from((middle - start) / row_bytes / PANEL >= rows.div_ceil(PANEL) / 2);
        assert_eq!(node.to_digit(10), Some(expected as u32), "the page at {at:#x}, in {name} at {start:#x}");
        checked[expected] += 1;
    }
    println!("pages of matrices on each node: {checked:?}");
    assert!(checked.iter().all(|&n| n > 1), "pages of both nodes: {checked:?}");
}

/// This is the default.
#[test]
fn interleaved_pages_take_turns_on_both_nodes() {
    assert_interleaved("auto");
}

#[test]
#[ignore = "nightly"]
fn pages_that_are_to_be_interleaved_take_turns_as_by_default() {
    assert_interleaved("interleave");
}

fn assert_interleaved(numa: &str) {
    let run = bench(numa, "");
    let pages = there(&run, &copy(&run));
    let list: String = pages.values().collect();
    println!("{numa}: {list}");
    for (&at, &node) in &pages {
        assert_eq!(node.to_digit(10), Some((at / HUGE_PAGE % 2) as u32), "the page at {at:#x}: {list}");
    }
    assert_eq!(run.program.stats().text("/memory/numa/mode"), "interleave");
    assert_eq!(run.program.stats().number("/memory/numa/moved"), 0);
}

#[test]
fn sharded_rows_lie_on_the_node_that_computes_them() {
    let run = bench("shard", "");
    let stats = run.program.stats();
    assert_eq!(stats.text("/memory/numa/mode"), "shard");
    assert!(stats.number("/memory/numa/moved") >= 2, "{stats}");
    let copy = copy(&run);
    let tensors = tensors().into_iter().map(|tensor| (copy.start + tensor.offset, tensor)).collect();
    assert_sharded(&there(&run, &copy), &tensors);
}

/// Such a buffer is interleaved while it is filled.
#[test]
fn weights_in_a_buffer_move_to_the_node_that_computes_them() {
    let run = bench("shard", "-lm none");
    let stats = run.program.stats();
    assert_eq!(stats.text("/memory/numa/mode"), "shard");
    for what in ["mapped", "wanted", "copied/thp"] {
        let bytes = stats.number(&format!("/memory/weights/{what}"));
        assert_eq!(bytes > 0, what == "wanted", "{what}: {stats}");
    }
    // llama.cpp has the tensors in the order in which it makes them.
    const ORDER: [&str; 11] = [
        "token_embd",
        "output_norm",
        "attn_norm",
        "attn_q",
        "attn_k",
        "attn_v",
        "attn_output",
        "ffn_norm",
        "ffn_gate",
        "ffn_down",
        "ffn_up",
    ];
    let place = |tensor: &Tensor| {
        let name = tensor.name.trim_end_matches(".weight");
        let (block, name) = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')).unwrap_or(("", name));
        let rank = ORDER.iter().position(|known| *known == name).unwrap_or_else(|| panic!("{name} is not known"));
        (block.parse::<usize>().ok(), rank)
    };
    let mut all = tensors();
    all.sort_by_key(place);
    let bytes: usize = all.iter().map(|tensor| tensor.rows * tensor.row_bytes).sum();
    let buffers = buffers(&run.program.stderr);
    let (start, len) = buffers.into_iter().max_by_key(|(_, len)| *len).expect("buffers of ours");
    assert!((bytes >> 20 << 20..bytes + (1 << 20)).contains(&len), "{len} bytes for {bytes} of weights");
    let mut at = start;
    let mut placed = BTreeMap::new();
    for tensor in all {
        let next = (at + tensor.rows * tensor.row_bytes).next_multiple_of(32);
        placed.insert(std::mem::replace(&mut at, next), tensor);
    }
    assert_sharded(&there(&run, &(start..at)), &placed);
}

#[test]
#[ignore = "nightly"]
fn off_places_nothing() {
    let run = bench("off", "");
    let stats = run.program.stats();
    assert_eq!(stats.text("/memory/numa/mode"), "off");
    assert_eq!(stats.number("/memory/numa/moved"), 0);
}

/// The same bits with and without shares, with two threads on each of both nodes, and when ggml itself places threads.
#[test]
fn results_do_not_depend_on_who_computes_which_rows() {
    same_results([4]);
}

/// Also with threads on both nodes, and two on one of them.
#[test]
#[ignore = "nightly"]
fn results_do_not_depend_on_the_number_of_threads_on_each_node() {
    same_results([2, 3, 4]);
}

fn same_results<const N: usize>(numbers_of_threads: [u32; N]) {
    let dir = work_dir();
    let placed = Fixture::new("placed").linked_with_avx2().build(&dir, "placed");
    let mut script = String::new();
    let settings =
        [("off", "auto"), ("shard", "auto"), ("shard", "0,1,2"), ("shard", "cores"), ("interleave", "cores")];
    for threads in numbers_of_threads {
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
    assert_eq!(results.len(), N * settings.len() + 1);
    assert!(results.iter().all(|line| *line == results[0]), "{run}");
    // Four threads fill the four cores: 0 and 1 on the first node, 2 and 3 on the second, in turn.
    let sharded = run.stdout.split("4 shard cores").nth(1).expect("that run");
    for (ith, cpu) in [0, 2, 1, 3].into_iter().enumerate() {
        assert!(sharded.contains(&format!("thread {ith}: {cpu}\n")), "{sharded}");
    }
}
