//! Attention (`FLASH_ATTN_EXT`): which ones are computed here, and one thread's part of them.
//!
//! Query heads that share a head of keys and values are computed together, several tokens at a time. Many tokens are cut by
//! heads and tokens ([`Order::Heads`]). Few tokens read keys and values once, so they are cut by keys, and the heads of a key,
//! which lie beside each other, are computed one after the other ([`Order::Keys`]); what the parts give is put together at the end.

use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
use std::ops::Range;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use zen5turbo_kernels::attention::{Attention, MOST_QUERIES, Query, Scale, Shared};
use zen5turbo_kernels::formats::WeightType;
use zen5turbo_kernels::isa::LANES;

use super::execute::turns;
use super::index::Index;
use super::plan::{Padded, Plan};
use crate::config::{KernelChoice, config};
use crate::ggml::abi::{ComputeParams, Tensor};
use crate::ggml::probe::{Abi, TYPE_F32};
use crate::reason::Reason;
use crate::startup;
use crate::stats::{self, OpKind};
use crate::tuning::Regime;

/// Parts of the keys for each thread, so that none waits long for another one.
const PARTS_PER_THREAD: usize = 4;

/// Fewest keys of a part: putting parts together must be little beside them.
const FEWEST_KEYS: usize = 64;

/// Bytes of keys and values of all heads that are gone through before the next ones, which are fetched meanwhile: both
/// stay in the level-2 cache. (AMD EPYC, Zen 4, 2026-11-22, 32 heads of 64, 2048 tokens before, tokens/s with one and two
/// threads: 128 KiB 49 and 74, 256 KiB 47 and 65, 512 KiB 41 and 54, 1 MiB 37 and 52.)
const TILE_BYTES: usize = 128 << 10;

/// Most bytes of sums that one thread goes through again and again with [`Order::Keys`]: a part of its level-2 cache.
const MOST_SUMS: usize = 256 << 10;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Sources of an attention that are known here: queries, keys, values, mask, sinks.
const SOURCES: usize = 5;

/// The attentions of a graph.
pub struct Attentions {
    nodes: Vec<Node>,
    index: Index,
}

/// One attention.
pub struct Node {
    op: *const Tensor,
    /// Number of the type of its keys.
    ty: u8,
    pub decision: Result<Job, Reason>,
    /// Counts the pieces given out beyond each thread's first.
    next: Padded<AtomicUsize>,
}

/// An attention that is taken over.
pub struct Job {
    heads: Heads,
    attention: Attention,
    scale: Scale,
    /// ALiBi: the largest exponent of a head's slope; 0 for none.
    max_bias: f32,
    order: Order,
    /// Bytes of a key, of a value.
    row_bytes: [usize; 2],
    /// Of keys and values, each read once; and products, for the statistics.
    bytes: u64,
    macs: u64,
}

/// What is computed after what, and by whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// Pieces are some queries of a head of keys, all keys; `cuts` of them for each head.
    Heads { cuts: usize },
    /// Pieces are all queries of a batch and a part of the keys, so many of `keys` keys.
    Keys { parts: usize, keys: usize },
}

/// Where queries, keys, values and results lie.
struct Heads {
    query: Strided,
    key: Strided,
    value: Strided,
    /// Without one: null.
    mask: Strided,
    mask_ne: [usize; 2],
    /// A score for every query head; null for none.
    sinks: *const f32,
    result: *mut f32,
    /// Elements of a result.
    value_len: usize,
    tokens: usize,
    /// Query heads, those that share keys and values, and independent batches.
    heads: usize,
    sharing: usize,
    batches: usize,
    /// Batches that share keys and values.
    batches_sharing: usize,
    keys: usize,
}

/// Memory with steps of so many bytes.
struct Strided {
    start: *const u8,
    nb: [usize; 4],
}

impl Strided {
    fn of(t: &Tensor) -> Self {
        Strided { start: t.data.cast_const().cast(), nb: t.nb }
    }

    #[inline]
    fn at(&self, i1: usize, i2: usize, i3: usize) -> *const u8 {
        self.start.wrapping_add(i1 * self.nb[1] + i2 * self.nb[2] + i3 * self.nb[3])
    }
}

/// One of the query heads that share keys and values, of one token, by its number in the group.
struct Place {
    token: usize,
    head: usize,
    batch: usize,
}

impl Heads {
    /// Heads of keys.
    fn key_heads(&self) -> usize {
        self.heads / self.sharing
    }

    /// Groups of queries that share keys: heads of keys in all batches.
    fn groups(&self) -> usize {
        self.key_heads() * self.batches
    }

    /// Queries of a group.
    fn rows(&self) -> usize {
        self.tokens * self.sharing
    }

    /// Query `row` of a group. Heads of one token follow each other: they see the same keys.
    #[inline]
    fn place(&self, group: usize, row: usize) -> Place {
        let key_heads = self.key_heads();
        Place {
            token: row / self.sharing,
            head: group % key_heads * self.sharing + row % self.sharing,
            batch: group / key_heads,
        }
    }

    fn query(&self, p: &Place, max_bias: f32) -> Query {
        let mask = if self.mask.start.is_null() {
            std::ptr::null()
        } else {
            self.mask.at(p.token, p.head % self.mask_ne[0], p.batch % self.mask_ne[1])
        };
        Query {
            elements: self.query.at(p.token, p.head, p.batch).cast(),
            mask,
            slope: slope(p.head, self.heads, max_bias),
        }
    }

    /// Fetches keys and values of these keys, of all heads, into the level-2 cache: in the order in which they lie in memory,
    /// in which no hardware prefetcher sees the heads one by one.
    fn fetch(&self, keys: Range<usize>, batch: usize, [key_bytes, value_bytes]: [usize; 2]) {
        let batch = batch / self.batches_sharing;
        for (rows, bytes) in [(&self.key, key_bytes), (&self.value, value_bytes)] {
            for key in keys.clone() {
                for head in 0..self.key_heads() {
                    for line in (0..bytes).step_by(LINE) {
                        // SAFETY: a prefetch changes nothing that the program can see, and cannot fault.
                        unsafe { _mm_prefetch::<_MM_HINT_T1>(rows.at(key, head, batch).wrapping_add(line).cast()) };
                    }
                }
            }
        }
    }

    fn shared(&self, group: usize, scale: Scale) -> Shared {
        let (head, batch) = (group % self.key_heads(), group / self.key_heads() / self.batches_sharing);
        Shared {
            keys: (self.key.at(0, head, batch), self.key.nb[1]),
            values: (self.value.at(0, head, batch), self.value.nb[1]),
            scale,
        }
    }

    fn result(&self, p: &Place) -> *mut f32 {
        self.result.wrapping_add(((p.batch * self.tokens + p.token) * self.heads + p.head) * self.value_len)
    }

    /// # Safety
    /// The sinks are those of ggml's tensor.
    unsafe fn sink(&self, p: &Place) -> Option<f32> {
        // SAFETY: one for every head, as `decide` checked.
        (!self.sinks.is_null()).then(|| unsafe { self.sinks.add(p.head).read() })
    }
}

/// What a head's mask is multiplied by (ALiBi, <https://arxiv.org/abs/2108.12409>), as ggml has it.
fn slope(head: usize, heads: usize, max_bias: f32) -> f32 {
    if max_bias <= 0.0 {
        return 1.0;
    }
    let log2 = 1usize << heads.ilog2();
    let (exponent, steps) = if head < log2 { (max_bias, head + 1) } else { (max_bias / 2.0, 2 * (head - log2) + 1) };
    (-exponent / log2 as f32).exp2().powi(steps as i32)
}

/// Whether and how to compute `op`.
///
/// # Safety
/// `op`, a `FLASH_ATTN_EXT`, and its sources are tensors of the ggml that `abi` belongs to.
unsafe fn decide(abi: &Abi, op: &Tensor, threads: usize) -> Result<Job, Reason> {
    let config = config();
    if config.kernels == KernelChoice::Off {
        return Err(Reason::KernelsOff);
    }
    if !config.attention {
        return Err(Reason::AttentionOff);
    }
    // SAFETY: null, or tensors.
    let [q, k, v, mask, sinks] = unsafe { [0, 1, 2, 3, 4].map(|i| op.src[i].as_ref()) };
    let (Some(q), Some(k), Some(v)) = (q, k, v) else { return Err(Reason::ShapeNotSupported) };
    if op.src[SOURCES..].iter().any(|s| !s.is_null()) {
        return Err(Reason::ShapeNotSupported);
    }
    let (Some(key_type), Some(value_type)) = (abi.weight_type(k.ty), abi.weight_type(v.ty)) else {
        return Err(Reason::TypeNotSupported);
    };
    if q.ty != TYPE_F32 {
        return Err(Reason::Src1NotF32);
    }
    if op.ty != TYPE_F32 {
        return Err(Reason::DstNotF32);
    }
    if [k, v].into_iter().any(|t| !t.extra.is_null()) {
        return Err(Reason::Repacked);
    }
    let half_mask = mask.is_none_or(|m| abi.weight_type(m.ty) == Some(WeightType::F16));
    if !half_mask || sinks.is_some_and(|s| s.ty != TYPE_F32) {
        return Err(Reason::TypeNotSupported);
    }
    let sources = [Some(q), Some(k), Some(v), mask, sinks];
    let sound =
        [Some(op)].into_iter().chain(sources).flatten().all(|t| !t.data.is_null() && t.ne.iter().all(|&n| n > 0));
    if !sound || !shapes_fit(op, [q, k, v], [key_type, value_type], mask, sinks) {
        return Err(Reason::ShapeNotSupported);
    }
    let n = |x: i64| x as usize;
    let heads = Heads {
        query: Strided::of(q),
        key: Strided::of(k),
        value: Strided::of(v),
        mask: mask.map_or(Strided { start: std::ptr::null(), nb: [0; 4] }, Strided::of),
        mask_ne: mask.map_or([1, 1], |m| [n(m.ne[2]), n(m.ne[3])]),
        sinks: sinks.map_or(std::ptr::null(), |s| s.data.cast_const().cast()),
        result: op.data.cast(),
        value_len: n(v.ne[0]),
        tokens: n(q.ne[1]),
        heads: n(q.ne[2]),
        sharing: n(q.ne[2] / k.ne[2]),
        batches: n(q.ne[3]),
        batches_sharing: n(q.ne[3] / k.ne[3]),
        keys: n(k.ne[1]),
    };
    let (key, value) = ((key_type, n(k.ne[0])), (value_type, n(v.ne[0])));
    let attention = Attention::new((startup::data_path(), startup::isa()), key, value, heads.rows());
    let attention = attention.ok_or(Reason::TypeNotSupported)?;
    Ok(Job::new(op, heads, attention, (key, value), threads))
}

/// Whether the tensors, none of them empty, are what ggml's own code asks for.
fn shapes_fit(
    op: &Tensor,
    [q, k, v]: [&Tensor; 3],
    [key_type, value_type]: [WeightType; 2],
    mask: Option<&Tensor>,
    sinks: Option<&Tensor>,
) -> bool {
    let rows = |t: &Tensor, ty: WeightType| {
        let (block, bytes) = ty.block();
        let n = t.ne[0] as usize;
        n.is_multiple_of(block) && t.nb[0] == bytes && t.nb[1] >= ty.row_bytes(n)
    };
    let result = [v.ne[0], q.ne[2], q.ne[1], q.ne[3]];
    let mut dense = [4; 4];
    for i in 1..4 {
        dense[i] = dense[i - 1] * op.ne[i - 1] as usize;
    }
    q.nb[0] == 4
        && q.ne[0] == k.ne[0]
        && rows(k, key_type)
        && rows(v, value_type)
        && k.ne[1..] == v.ne[1..]
        && q.ne[2] % k.ne[2] == 0
        && q.ne[3] % k.ne[3] == 0
        && op.ne == result
        && op.nb == dense
        && mask.is_none_or(|m| m.nb[0] == 2 && m.ne[0] >= k.ne[1] && m.ne[1] >= q.ne[1])
        && sinks.is_none_or(|s| s.nb[0] == 4 && s.ne[0] >= q.ne[2])
}

impl Job {
    fn new(
        op: &Tensor,
        heads: Heads,
        attention: Attention,
        ((key_type, key_len), (value_type, value_len)): ((WeightType, usize), (WeightType, usize)),
        threads: usize,
    ) -> Self {
        let [scale, max_bias, cap] = [0, 1, 2].map(|i| f32::from_bits(op.op_params[i] as u32));
        let row_bytes = [key_type.row_bytes(key_len), value_type.row_bytes(value_len)];
        let read = heads.groups() / heads.batches_sharing * heads.keys;
        let macs = heads.groups() * heads.rows() * heads.keys * (key_len + value_len);
        let sums = 4 * attention.sums_len() * heads.key_heads() * heads.rows();
        let few = heads.rows() <= attention.most_queries() && sums <= MOST_SUMS;
        let wanted = if threads == 1 { 1 } else { (PARTS_PER_THREAD * threads).div_ceil(heads.batches) };
        let parts = wanted.min(heads.keys / FEWEST_KEYS).max(1);
        // Few keys are few parts: heads may be more.
        let enough = parts * heads.batches >= threads.min(heads.groups());
        let order = if few && enough {
            let keys = heads.keys.div_ceil(parts).next_multiple_of(FEWEST_KEYS);
            Order::Keys { parts: heads.keys.div_ceil(keys), keys }
        } else {
            Order::Heads { cuts: heads.rows().div_ceil(attention.most_queries()) }
        };
        Job {
            scale: Scale { scale: if cap == 0.0 { scale } else { scale / cap }, cap },
            max_bias,
            order,
            row_bytes,
            bytes: (read * (row_bytes[0] + row_bytes[1])) as u64,
            macs: macs as u64,
            heads,
            attention,
        }
    }

    /// Queries of all groups.
    fn all_rows(&self) -> usize {
        self.heads.groups() * self.heads.rows()
    }

    /// Sums that a thread keeps for itself; behind its scratch.
    fn own_rows(&self) -> usize {
        match self.order {
            Order::Heads { .. } => MOST_QUERIES,
            Order::Keys { parts: 1, .. } => self.all_rows() / self.heads.batches,
            Order::Keys { .. } => 0,
        }
    }

    fn thread_bytes(&self) -> usize {
        self.attention.scratch_bytes() + 4 * self.attention.sums_len() * self.own_rows()
    }

    fn shared_bytes(&self) -> usize {
        match self.order {
            Order::Keys { parts, .. } if parts > 1 => 4 * self.attention.sums_len() * parts * self.all_rows(),
            _ => 0,
        }
    }
}

impl Attentions {
    /// None; takes no memory.
    pub const fn new() -> Self {
        Attentions { nodes: Vec::new(), index: Index::new() }
    }

    /// Forgets all of them.
    pub fn clear(&mut self) {
        self.nodes.clear();
    }

    /// Plans one for `threads` threads.
    ///
    /// # Safety
    /// `op`, a `FLASH_ATTN_EXT`, is a node of a graph of the ggml that `abi` belongs to, its tensors allocated.
    pub unsafe fn push(&mut self, abi: &Abi, op: &Tensor, threads: usize) {
        // SAFETY: by contract.
        let decision = unsafe { decide(abi, op, threads) };
        // SAFETY: as above.
        let ty = unsafe { op.src[1].as_ref() }.map_or(u8::MAX, |k| u8::try_from(k.ty).unwrap_or(u8::MAX));
        if let Ok(job) = &decision {
            let regime = Regime::of(job.heads.tokens);
            stats::set_kernel(OpKind::FlashAttnExt, ty, regime.name(), job.attention.kernel.isa.name());
        }
        self.nodes.push(Node { op, ty, decision, next: Padded::default() });
    }

    /// To be called when all are there.
    pub fn build_index(&mut self) {
        self.index.build(self.nodes.iter().map(|node| node.op));
    }

    /// Leaves all of them to ggml.
    pub fn decline(&mut self, reason: Reason) {
        for node in self.nodes.iter_mut().filter(|node| node.decision.is_ok()) {
            node.decision = Err(reason);
        }
    }

    fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.nodes.iter().filter_map(|node| node.decision.as_ref().ok())
    }

    /// Bytes of scratch that every thread needs.
    pub fn thread_bytes(&self) -> usize {
        self.jobs().map(Job::thread_bytes).max().unwrap_or(0)
    }

    /// Bytes that all threads share.
    pub fn shared_bytes(&self) -> usize {
        self.jobs().map(Job::shared_bytes).max().unwrap_or(0)
    }

    /// The node for an operation of this graph.
    #[inline]
    pub fn find(&self, op: *const Tensor) -> Option<&Node> {
        self.index.find(op, |i| self.nodes[i].op).map(|i| &self.nodes[i])
    }
}

/// Computes this thread's share of `job`. Every thread of the graph calls this for every job: past the decision nobody
/// can decline, and the barrier inside needs them all.
///
/// # Safety
/// `params` is what ggml passed for the graph that `plan` describes, `params.nth <= plan.threads`.
pub unsafe fn run(plan: &Plan, node: &Node, job: &Job, abi: &Abi, params: &ComputeParams) {
    let (ith, nth) = (params.ith as usize, params.nth as usize);
    let started = (ith == 0).then(Instant::now);
    plan.arrive(ith);
    // SAFETY: `decide` checked the tensors; the scratch was laid out for this job by `Plan::make`; every piece is one
    // thread's.
    unsafe {
        match job.order {
            Order::Heads { cuts } => job.by_heads(cuts, plan, node, [ith, nth]),
            Order::Keys { parts, keys } => {
                job.by_keys(parts, keys, plan, node, [ith, nth]);
                if parts > 1 {
                    // all threads of the graph come here; then every part of every query is done
                    (abi.barrier)(params.threadpool);
                    let stride = job.all_rows() * job.attention.sums_len();
                    for row in (ith..job.all_rows()).step_by(nth) {
                        let sums = plan.shared_attention().add(row * job.attention.sums_len());
                        job.finish(row / job.heads.rows(), row % job.heads.rows(), sums, parts, stride);
                    }
                }
            }
        }
    }
    if let Some(started) = started {
        let ns = started.elapsed().as_nanos() as u64;
        stats::taken(OpKind::FlashAttnExt, node.ty, ns, job.bytes, job.macs);
    }
}

impl Job {
    /// A thread's scratch, and its own sums behind it.
    fn scratch(&self, plan: &Plan, ith: usize) -> (*mut u8, *mut f32) {
        let [scratch, ..] = plan.thread_scratch(ith);
        (scratch, scratch.wrapping_add(self.attention.scratch_bytes()).cast())
    }

    /// The result of query `row` of a group, see [`Attention::finish`].
    unsafe fn finish(&self, group: usize, row: usize, sums: *const f32, parts: usize, stride: usize) {
        let place = self.heads.place(group, row);
        // SAFETY: as in `run`.
        unsafe { self.attention.finish(sums, parts, stride, self.heads.sink(&place), self.heads.result(&place)) };
    }

    /// See [`Order::Heads`].
    unsafe fn by_heads(&self, cuts: usize, plan: &Plan, node: &Node, [ith, nth]: [usize; 2]) {
        let (heads, attention) = (&self.heads, &self.attention);
        let (scratch, sums) = self.scratch(plan, ith);
        for i in turns(ith, nth, heads.groups() * cuts, &node.next.0) {
            let (group, cut) = (i % heads.groups(), i / heads.groups());
            let (from, to) = (cut * heads.rows() / cuts, (cut + 1) * heads.rows() / cuts);
            let query = |row: usize| heads.query(&heads.place(group, from + row), self.max_bias);
            // SAFETY: as in `run`.
            unsafe {
                attention.clear(to - from, sums);
                attention.add(&heads.shared(group, self.scale), 0..heads.keys, to - from, query, sums, scratch);
                for row in from..to {
                    self.finish(group, row, sums.add((row - from) * attention.sums_len()), 1, 0);
                }
            }
        }
    }

    /// See [`Order::Keys`]. Sums of several parts are left to be put together.
    unsafe fn by_keys(&self, parts: usize, part_keys: usize, plan: &Plan, node: &Node, [ith, nth]: [usize; 2]) {
        let (heads, attention) = (&self.heads, &self.attention);
        let (scratch, own) = self.scratch(plan, ith);
        let (len, rows, count) = (attention.sums_len(), heads.rows(), heads.key_heads());
        let bytes = count * (self.row_bytes[0] + self.row_bytes[1]);
        let step = (TILE_BYTES / bytes / LANES * LANES).clamp(LANES, attention.keys_of_tile(rows));
        for i in turns(ith, nth, parts * heads.batches, &node.next.0) {
            let (part, batch) = (i / heads.batches, i % heads.batches);
            let first = batch * count;
            let at = part * self.all_rows() + first * rows;
            let sums = if parts == 1 { own } else { plan.shared_attention().wrapping_add(at * len) };
            let end = ((part + 1) * part_keys).min(heads.keys);
            // SAFETY: as in `run`.
            unsafe {
                attention.clear(count * rows, sums);
                for from in (part * part_keys..end).step_by(step) {
                    let to = (from + step).min(end);
                    let next = to..(to + step).min(end);
                    for head in 0..count {
                        let share = |h: usize| next.start + next.len() * h / count;
                        heads.fetch(share(head)..share(head + 1), batch, self.row_bytes);
                        let (group, sums) = (first + head, sums.add(head * rows * len));
                        let query = |row: usize| heads.query(&heads.place(group, row), self.max_bias);
                        attention.add(&heads.shared(group, self.scale), from..to, rows, query, sums, scratch);
                    }
                }
                if parts == 1 {
                    for row in 0..count * rows {
                        self.finish(first + row / rows, row % rows, sums.add(row * len), 1, 0);
                    }
                }
            }
        }
    }
}
