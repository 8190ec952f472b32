//! How the pieces of a product are shared by 8 to 128 threads: simulated with the code that cuts the rows and hands the
//! pieces out, for the shapes of real models. No machine with so many threads has been at hand.
//!
//! A thread computes [`BYTES_PER_NS`], and the queue serves one claim in [`CLAIM_NS`].

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicUsize, Ordering};

use zen5turbo_kernels::isa::LANES;
use zen5turbo_kernels::kernel::Tiles;

use super::claims::{self, BYTES_PER_NS, CLAIM_NS};
use super::dense::{PIECES_PER_THREAD, Pieces};
use super::execute::claim_pieces::{claim_cut, claim_pieces};
use super::expert_pieces::Cut;
use super::groups::{Groups, Ids};
use crate::placement::{HUGE_PAGE, Matrices, Seen, Shares};

const THREADS: [usize; 4] = [8, 16, 64, 128];
const NODES: [usize; 3] = [1, 2, 4];

/// A matrix product: rows, elements of a row, and how many elements take how many bytes.
struct Shape {
    name: &'static str,
    rows: usize,
    k: usize,
    block: [usize; 2],
    /// Experts, and how many of them a token picks; `[1, 1]` for a plain matrix.
    experts: [usize; 2],
}

const Q4_K: [usize; 2] = [256, 144];
const Q6_K: [usize; 2] = [256, 210];
const Q8_0: [usize; 2] = [32, 34];
const MXFP4: [usize; 2] = [32, 17];

const fn plain(name: &'static str, rows: usize, k: usize, block: [usize; 2]) -> Shape {
    Shape { name, rows, k, block, experts: [1, 1] }
}

const fn of_experts(name: &'static str, rows: usize, k: usize, block: [usize; 2], experts: [usize; 2]) -> Shape {
    Shape { name, rows, k, block, experts }
}

const SHAPES: [Shape; 15] = [
    plain("llama-3.1-8b attn_q", 4096, 4096, Q4_K),
    plain("llama-3.1-8b attn_k", 1024, 4096, Q4_K),
    plain("llama-3.1-8b ffn_up", 14_336, 4096, Q4_K),
    plain("llama-3.1-8b ffn_down", 4096, 14_336, Q6_K),
    plain("llama-3.1-8b output", 128_256, 4096, Q6_K),
    plain("qwen3-30b-a3b attn_k", 512, 2048, Q4_K),
    plain("qwen3-30b-a3b attn_output", 2048, 4096, Q4_K),
    of_experts("qwen3-30b-a3b ffn_up_exps", 768, 2048, Q4_K, [128, 8]),
    of_experts("qwen3-30b-a3b ffn_down_exps", 2048, 768, Q6_K, [128, 8]),
    plain("gpt-oss-20b attn_k", 512, 2880, Q8_0),
    plain("gpt-oss-20b attn_output", 2880, 4096, Q8_0),
    plain("gpt-oss-20b output", 201_088, 2880, Q8_0),
    of_experts("gpt-oss-20b ffn_up_exps", 2880, 2880, MXFP4, [32, 4]),
    of_experts("deepseek-v2-lite ffn_up_exps", 1408, 2048, Q4_K, [64, 6]),
    plain("gemma-3-4b ffn_down", 2560, 10_240, Q6_K),
];

impl Shape {
    fn panels(&self) -> usize {
        self.rows.div_ceil(LANES)
    }

    fn panel_bytes(&self) -> usize {
        LANES * self.k / self.block[0] * self.block[1]
    }

    fn is_plain(&self) -> bool {
        self.experts == [1, 1]
    }
}

/// What a simulated product took.
#[derive(Debug)]
struct Found {
    /// The work of all pieces, in nanoseconds of one thread.
    work: usize,
    /// The work of the largest piece.
    largest: usize,
    /// The largest sum of work that a thread got when claims cost nothing.
    most: usize,
    /// Claims from the queues.
    claims: usize,
    /// Nanoseconds until the last thread was ready, claims included.
    end: usize,
    threads: usize,
}

impl Found {
    fn mean(&self) -> f64 {
        self.work as f64 / self.threads as f64
    }

    /// The largest share of a thread over the mean.
    fn imbalance(&self) -> f64 {
        self.most as f64 / self.mean()
    }

    /// How much longer the product takes than if all threads had the same work and no claim cost anything.
    fn slowdown(&self) -> f64 {
        self.end as f64 / self.mean()
    }
}

/// The number of a worker's queue, and what gives the work of its next piece.
type Worker<'a> = (usize, Box<dyn FnMut() -> Option<usize> + 'a>);

/// Runs the workers. A claim takes its queue for `claim` nanoseconds.
fn simulate(mut workers: Vec<Worker<'_>>, queues: &[AtomicUsize], claim: usize) -> Found {
    let threads = workers.len();
    let mut found = Found { work: 0, largest: 0, most: 0, claims: 0, end: 0, threads };
    let mut free = vec![0; queues.len()];
    let mut sums = vec![0; threads];
    let mut ready: BinaryHeap<_> = (0..threads).map(|i| Reverse((0, i))).collect();
    while let Some(Reverse((mut now, i))) = ready.pop() {
        let (queue, next) = &mut workers[i];
        let before = queues[*queue].load(Ordering::Relaxed);
        let piece = next();
        let claims = queues[*queue].load(Ordering::Relaxed) - before;
        if claims > 0 {
            now = now.max(free[*queue]) + claims * claim;
            free[*queue] = now;
            found.claims += claims;
        }
        found.end = found.end.max(now);
        if let Some(work) = piece {
            found.work += work;
            found.largest = found.largest.max(work);
            sums[i] += work;
            ready.push(Reverse((now + work, i)));
        }
    }
    found.most = sums.into_iter().max().unwrap_or(0);
    found
}

/// How threads are spread over NUMA nodes: as many on each, one node after the other.
fn shares(threads: usize, nodes: usize) -> Shares {
    Shares::new(nodes, (0..threads).map(|i| i * nodes / threads)).expect("there are threads")
}

/// How a product is cut: as the plan does it, or into so many pieces for each thread whatever a claim costs.
#[derive(Clone, Copy, PartialEq)]
enum By {
    Plan,
    Each(usize),
}

/// A plain product. The widest tile stands for kernels that compute 16 columns together.
fn plain_product(shape: &Shape, columns: usize, threads: usize, nodes: usize, by: By, claim: usize) -> Found {
    let tiles = Tiles::new(columns, 16);
    let queues: Vec<_> = (0..nodes).map(|_| AtomicUsize::new(0)).collect();
    let shares = shares(threads, nodes);
    let mut workers: Vec<Worker<'_>> = Vec::new();
    for (node, queue) in queues.iter().enumerate() {
        let (mine, of_node) = (shares.panels(shape.panels(), node), shares.threads(node));
        let pieces = match by {
            By::Plan => Pieces::new(mine, shape.panel_bytes(), tiles, 1, of_node),
            By::Each(each) => Pieces::cut(mine, tiles, 1, of_node, each),
        };
        for rank in 0..of_node {
            let mut turns = claim_pieces(rank, of_node, pieces.count, queue);
            let next = move || {
                let (_, panels, cols) = pieces.get(turns.next()?);
                let columns = tiles.start(cols.end) - tiles.start(cols.start);
                Some(claims::work(panels.len() * shape.panel_bytes(), columns) / BYTES_PER_NS)
            };
            workers.push((node, Box::new(next)));
        }
    }
    simulate(workers, &queues, claim)
}

/// A product of experts, each token with experts of its own choice.
fn product_of_experts(shape: &Shape, tokens: usize, threads: usize, nodes: usize, claim: usize) -> Found {
    let [count, used] = shape.experts;
    let mut state = 1_u64;
    let ids: Vec<i32> = (0..tokens)
        .flat_map(|_| {
            // `used` different ones: the first is random, the others follow at an odd distance.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (first, step) = ((state >> 33) as usize, (state >> 20) as usize % 8 * 2 + 1);
            (0..used).map(move |i| ((first + i * step) % count) as i32)
        })
        .collect();
    let ids = Ids { data: ids.as_ptr().cast(), nb: [4, 4 * used, 0, 0], used, tokens, experts: count };
    let mut memory = vec![0_u32; ids.group_bytes() / 4];
    // SAFETY: the memory has the size asked for, and the ids are there.
    let groups: Groups<'_> = unsafe { ids.group(memory.as_mut_ptr().cast(), false) };
    let queues: Vec<_> = (0..nodes).map(|_| AtomicUsize::new(0)).collect();
    let shares = shares(threads, nodes);
    let mut workers: Vec<Worker<'_>> = Vec::new();
    for (node, queue) in queues.iter().enumerate() {
        let (mine, of_node) = (shares.panels(shape.panels(), node), shares.threads(node));
        let cut = Cut::new(mine, shape.panel_bytes(), of_node);
        for rank in 0..of_node {
            let groups = &groups;
            let mut turns = claim_cut(cut.cursor(groups), rank, of_node, queue);
            let next = move || {
                let (e, panels) = turns.next()?;
                Some(claims::work(panels.len() * shape.panel_bytes(), groups.of(e).1.len()) / BYTES_PER_NS)
            };
            workers.push((node, Box::new(next)));
        }
    }
    simulate(workers, &queues, claim)
}

fn product(shape: &Shape, columns: usize, threads: usize, nodes: usize, claim: usize) -> Found {
    if shape.is_plain() {
        plain_product(shape, columns, threads, nodes, By::Plan, claim)
    } else {
        product_of_experts(shape, columns, threads, nodes, claim)
    }
}

/// Every shape with one token, a few, and a prompt, for every team.
fn each_case(mut f: impl FnMut(&Shape, [usize; 3])) {
    for shape in &SHAPES {
        for columns in [1, 4, 512] {
            for threads in THREADS {
                for nodes in NODES {
                    f(shape, [columns, threads, nodes]);
                }
            }
        }
    }
}

/// The largest share of a thread over the mean, if whole panels of one column group are shared as evenly as can be.
fn best(shape: &Shape, columns: usize, threads: usize, nodes: usize) -> f64 {
    let units = shape.panels() * if shape.is_plain() { 1 } else { shape.experts[1].min(shape.experts[1] * columns) };
    let of_node = shares(threads, nodes);
    let panels = (0..nodes).map(|node| of_node.panels(shape.panels(), node).len()).max().unwrap_or(0);
    let most = (panels * (units / shape.panels())).div_ceil(threads / nodes);
    (most * threads) as f64 / units as f64
}

#[test]
fn no_thread_gets_much_more_than_the_others() {
    each_case(|shape, [columns, threads, nodes]| {
        let found = product(shape, columns, threads, nodes, 0);
        let case = format!("{} {columns} columns {threads} threads {nodes} nodes: {found:?}", shape.name);
        // Whoever is ready takes the next piece: nobody begins a piece later than when an even share would have ended. Nodes
        // get whole panels.
        let node = nodes as f64 / shape.panels() as f64;
        assert!(found.imbalance() <= 1.0 + node + found.largest as f64 / found.mean() + 1e-3, "{case}");
        // A quarter, or as even as whole panels of 16 rows can be shared: those are never cut.
        let few = if columns < 128 { best(shape, columns, threads, nodes) } else { 1.0 };
        assert!(found.imbalance() <= few.max(1.25) + 1e-3, "{:.3} {few:.3} {case}", found.imbalance());
    });
}

#[test]
fn threads_do_not_wait_for_the_queue() {
    each_case(|shape, [columns, threads, nodes]| {
        let (free, found) = [0, CLAIM_NS].map(|claim| product(shape, columns, threads, nodes, claim)).into();
        let case = format!("{} {columns} columns {threads} threads {nodes} nodes: {found:?}", shape.name);
        // A piece takes at least four times as long as the claims of all threads of a queue, and there are at most twice as
        // many pieces as that.
        assert!((found.claims * CLAIM_NS / nodes) as f64 <= found.mean() / 2.0, "{case}");
        assert!(found.slowdown() <= free.imbalance() + 0.25, "{:.3} {:.3} {case}", found.slowdown(), free.imbalance());
    });
}

/// What the limit is for.
#[test]
fn eight_pieces_for_each_of_128_threads_would_take_twice_as_long() {
    let shape = &SHAPES[0];
    let eight = plain_product(shape, 1, 128, 1, By::Each(PIECES_PER_THREAD), CLAIM_NS);
    let planned = plain_product(shape, 1, 128, 1, By::Plan, CLAIM_NS);
    assert!(eight.slowdown() > 2.0 && eight.claims == 256, "{eight:?}");
    assert!(planned.slowdown() < 1.01 && planned.claims == 0, "{planned:?}");
}

#[test]
fn as_many_pieces_as_make_even_shares() {
    let up = &SHAPES[2];
    let found = plain_product(up, 1, 64, 1, By::Plan, 0);
    assert!(up.panels() == 896 && found.imbalance() < 1.001, "{found:?}");
}

/// Few threads are not affected: there are as many pieces as without the limit.
#[test]
fn up_to_16_threads_have_many_pieces_of_large_matrices() {
    for threads in [2, 4, 8, 16] {
        for shape in SHAPES.iter().filter(|shape| shape.is_plain() && shape.rows >= 4096) {
            let tiles = Tiles::new(1, 1);
            let pieces = Pieces::new(0..shape.panels(), shape.panel_bytes(), tiles, 1, threads);
            assert!(pieces.count >= 4 * threads, "{} {threads}: {}", shape.name, pieces.count);
        }
    }
}

/// Bytes of the weights that threads read from their own NUMA node, and from others, when rows are divided among nodes
/// and pages of so many bytes lie where the row in their middle is computed.
fn bytes_by_node(shape: &Shape, nodes: usize, page: usize) -> [usize; 2] {
    let (row_bytes, count) = (shape.panel_bytes() / LANES, shape.experts[0]);
    let stride = shape.rows * row_bytes;
    let shares = shares(64, nodes);
    let seen = Seen::new();
    seen.add(Matrices { start: 0, rows: shape.rows, row_bytes, count, stride }, &shares);
    let end = count * stride;
    let place: Vec<_> = (0..end).step_by(page).map(|at| seen.node_at((at + page / 2).min(end - 1))).collect();
    let mut found = [0; 2];
    for matrix in 0..count {
        for row in 0..shape.rows {
            let reader = shares.node_of_row(shape.rows, row);
            let (mut at, to) = (matrix * stride + row * row_bytes, matrix * stride + (row + 1) * row_bytes);
            while at < to {
                let until = to.min((at / page + 1) * page);
                found[usize::from(place[at / page] != Some(reader))] += until - at;
                at = until;
            }
        }
    }
    found
}

#[test]
fn threads_read_the_rows_of_their_own_node() {
    for shape in &SHAPES {
        for nodes in NODES {
            for page in [4096, HUGE_PAGE] {
                let [local, remote] = bytes_by_node(shape, nodes, page);
                // Rows of an expert that is smaller than a page for each node lie together on one node or two, whoever
                // reads them: the table shows how many are read from afar.
                if shape.rows * shape.panel_bytes() / LANES / nodes < page {
                    continue;
                }
                // Where the rows of a node end, half a page at most lies on the wrong one.
                let ends = nodes * shape.experts[0] - 1;
                let bound = if nodes == 1 { 0 } else { ends * page / 2 };
                assert!(
                    remote <= bound,
                    "{} {nodes} nodes, pages of {page}: {remote} of {}",
                    shape.name,
                    local + remote
                );
            }
        }
    }
}

/// The figures of the record: `cargo test --release -p zen5turbo-shim scaling -- --ignored --nocapture`.
#[test]
#[ignore = "nightly"]
fn print_the_tables() {
    println!(
        "| product | columns | threads | share: largest over mean | claims | time over even shares | with 8 pieces each: claims, time |"
    );
    println!("|---|---|---|---|---|---|---|");
    each_case(|shape, [columns, threads, nodes]| {
        if nodes > 1 {
            return;
        }
        let (free, found) = [0, CLAIM_NS].map(|claim| product(shape, columns, threads, nodes, claim)).into();
        let eight = if shape.is_plain() {
            let eight = plain_product(shape, columns, threads, nodes, By::Each(PIECES_PER_THREAD), CLAIM_NS);
            format!("{}, {:.2}", eight.claims, eight.slowdown())
        } else {
            String::new()
        };
        println!(
            "| {} | {columns} | {threads} | {:.2} | {} | {:.2} | {eight} |",
            shape.name,
            free.imbalance(),
            found.claims,
            found.slowdown()
        );
    });
    println!("\n| weights | MiB | 2 nodes, 4 KiB pages: remote | 4 nodes | 2 nodes, 2 MiB pages | 4 nodes |");
    println!("|---|---|---|---|---|---|");
    for shape in &SHAPES {
        let of = |nodes, page| bytes_by_node(shape, nodes, page);
        let percent = |[local, remote]: [usize; 2]| format!("{:.1} %", 100.0 * remote as f64 / (local + remote) as f64);
        let [local, remote] = of(1, 4096);
        println!(
            "| {} | {} | {} | {} | {} | {} |",
            shape.name,
            (local + remote) >> 20,
            percent(of(2, 4096)),
            percent(of(4, 4096)),
            percent(of(2, HUGE_PAGE)),
            percent(of(4, HUGE_PAGE))
        );
    }
}
