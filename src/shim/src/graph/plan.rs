//! The plan of a graph: what is done with each matrix product, decided before the threads start. Attention is planned
//! in [`super::attention`].

use std::collections::BTreeSet;
use std::ffi::c_void;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use zen5turbo_kernels::formats::ActFormat;
use zen5turbo_kernels::isa::LANES;
use zen5turbo_kernels::kernel::{Blocking, Tiles};

use super::attention::Attentions;
use super::dense::{Columns, Pieces};
use super::experts::Experts;
use super::index::Index;
use super::padded::Padded;
use super::policy::{self, Selection};
use crate::buffers::large;
use crate::buffers::scratch::Scratch;
use crate::ggml::abi::{OP_NONE, TENSOR_FLAG_INPUT, Tensor};
use crate::ggml::checked;
use crate::loader::{Abi, MatrixOp, Op};
use crate::log::{self, LogLevel, log};
use crate::placement::{self, Matrices, Team};
use crate::reason::Reason;
use crate::stats;
use crate::tuning;
use crate::weights::sources::Pin;
use crate::weights::{copies, reader};

/// Up to this many elements, every thread quantises the activations for itself, which needs no barrier. More elements
/// are quantised once, by all threads together.
const PRIVATE_ELEMENTS: usize = 8 << 10;

/// The plan of one graph.
pub struct Plan {
    /// The products, in the order of the graph.
    pub nodes: Vec<Node>,
    index: Index,
    /// The attentions of the graph, which have their own plan.
    pub attention: Attentions,
    /// The most columns of activations in a product with weights. In a language model these are the tokens.
    pub columns: usize,
    /// The number of threads for which the scratch memory is laid out.
    pub threads: usize,
    scratch: Scratch,
    /// Bytes of scratch for each thread: its panel, its private activations, its groups of picks.
    thread_bytes: usize,
    panel_bytes: usize,
    private_bytes: usize,
    /// Offset in the scratch of the partial sums of attention, which threads add up.
    partial_at: usize,
    /// What each thread has done in this graph.
    pub progress: Vec<Padded<Progress>>,
    /// How panels are cut.
    pub blocking: Blocking,
    /// On which NUMA nodes the threads run, and which rows belong to which node.
    pub team: Team,
    /// Which threads have reached their first product; empty when [`Team::is_attentive`] is false.
    arrived: Vec<Padded<AtomicBool>>,
    /// With shares: for each product, the number of the next piece on each NUMA node.
    next_of_nodes: Vec<Padded<AtomicUsize>>,
}

/// What a thread has done in a graph. Only this thread writes it, and the others read it when the graph has ended.
#[derive(Default)]
pub struct Progress {
    /// The id of the activations that it has quantised for itself; 0 for none.
    pub private: AtomicU64,
    /// The id of the activations that it has last quantised together with the others; 0 for none.
    pub shared: AtomicU64,
    /// The id of the picks that it has grouped by expert.
    pub grouped: AtomicU64,
}

/// One matrix product.
pub struct Node {
    pub op: *const Tensor,
    pub kind: MatrixOp,
    /// Number of the weight type.
    pub ty: u8,
    pub decision: Result<Job, Reason>,
    /// Addresses of the weights.
    weights: Range<usize>,
    /// The number of pieces that threads have taken; a MUL_MAT does not count each thread's first piece. Not used when
    /// the product is divided among NUMA nodes.
    pub next: Padded<AtomicUsize>,
    /// The place of its weights in the order of pages (see [`reader`]), if the model does not fit in memory.
    pub place: Option<u32>,
    /// Its position in the plan.
    pub number: usize,
}

/// A product that is computed here.
pub struct Job {
    pub selection: Selection,
    pub work: Work,
    pub act: Activations,
    /// The id of the picks, for products of experts: products with the same id have the same picks. Ids start at 1 in
    /// every graph.
    pub group_id: u64,
    /// Bytes of weights (of experts: at most), for the statistics.
    pub bytes: u64,
    /// Multiply-adds, for the statistics.
    pub macs: u64,
}

/// The two kinds of matrix products.
pub enum Work {
    /// MUL_MAT.
    Dense(Columns, Pieces),
    /// MUL_MAT_ID. Which columns use which weights is known only when the node runs.
    Experts(Experts),
}

/// The quantised activations of a product.
#[derive(Clone, Copy)]
pub struct Activations {
    /// Products with the same id use the same activations. Ids start at 1 in every graph.
    pub id: u64,
    pub bytes: usize,
    /// Whether every thread quantises them for itself.
    pub private: bool,
}

/// Two products with equal keys have the same quantised activations, if no operation between them writes to that
/// memory.
#[derive(PartialEq, Eq)]
struct ActKey {
    data: *const c_void,
    ne: [i64; 4],
    nb: [usize; 4],
    format: ActFormat,
    /// The formats of experts, by their columns.
    formats: &'static [(usize, ActFormat)],
    tiles: Tiles,
    /// Slices interleave the columns differently.
    slices: usize,
    /// The ids of a MUL_MAT_ID, which decide the order of the columns.
    ids: (*const c_void, [usize; 4]),
}

/// The picked experts (`ids`) of the last MUL_MAT_ID.
struct LastIds {
    /// Address, strides, numbers of slots and tokens, number of experts.
    key: (*const u8, [usize; 4], [usize; 3]),
    id: u64,
    /// The memory of the ids, which no operation may write meanwhile.
    range: Range<usize>,
}

/// The activations of the last product.
struct Last {
    key: ActKey,
    id: u64,
    /// The memory of the activations and of the ids, which no operation may write meanwhile.
    ranges: [Range<usize>; 2],
}

impl Plan {
    /// An empty plan; takes no memory.
    pub const fn new() -> Self {
        Plan {
            nodes: Vec::new(),
            index: Index::new(),
            attention: Attentions::new(),
            columns: 0,
            threads: 0,
            scratch: Scratch::new(),
            thread_bytes: 0,
            panel_bytes: 0,
            private_bytes: 0,
            partial_at: 0,
            progress: Vec::new(),
            blocking: Blocking::MEASURED,
            team: Team::new(),
            arrived: Vec::new(),
            next_of_nodes: Vec::new(),
        }
    }

    /// Plans the graph for at most `threads` threads. Of an earlier plan, only the memory is kept. With a pin, which is
    /// held until the graph ends, products read the copies of their weights.
    ///
    /// # Safety
    /// `cgraph` is a graph of the ggml that `abi` belongs to, its tensors allocated.
    pub unsafe fn make(&mut self, abi: &Abi, cgraph: *mut c_void, threads: usize, pin: Option<&Pin>) {
        self.nodes.clear();
        self.attention.clear();
        self.columns = 0;
        self.threads = threads;
        self.team = Team::of(threads);
        self.blocking = tuning::blocking();
        let (mut panel, mut private, mut shared, mut group) = (0, 0, 0, 0);
        let mut last: Option<Last> = None;
        let mut last_ids: Option<LastIds> = None;
        let mut ids = 0;
        // SAFETY: `cgraph` is a graph of the ggml of `abi`, by the contract of this function.
        let nodes = unsafe { abi.nodes(cgraph) };
        if nodes.is_none() {
            stats::event(Reason::GraphOdd);
        }
        for op in nodes.into_iter().flatten() {
            if op.is_none() {
                stats::event(Reason::GraphOdd);
            }
            // SAFETY: `op` is a node of this graph, so it is a tensor of the ggml of `abi`.
            let Some(op) = op.filter(|&op| unsafe { abi.fits(op) }) else {
                self.nodes.clear();
                self.attention.clear();
                self.columns = 0;
                break;
            };
            match abi.op(op.op) {
                Op::Matrix(kind) => {
                    // SAFETY: `op` is a product of this graph, and `fits` has found its fields where they are expected.
                    self.columns = self.columns.max(unsafe { columns(kind, op) });
                    // SAFETY: `op` is a product of this graph, whose tensors are allocated by the contract of this
                    // function.
                    let mut node = unsafe { self.node(abi, kind, op) };
                    if let Ok(job) = &mut node.decision {
                        // SAFETY: the product is taken, so `policy::decide` has found all its sources.
                        let key = unsafe { act_key(op, job) };
                        match &last {
                            Some(l) if l.key == key => job.act.id = l.id,
                            _ => {
                                ids += 1;
                                job.act.id = ids;
                                // SAFETY: the sources of a tensor of this graph are null or tensors that live as long.
                                let ranges = unsafe { [extent(abi, op.source(1)), extent(abi, op.source(2))] };
                                last = Some(Last { key, id: ids, ranges });
                            }
                        }
                        panel = panel.max(job.selection.kernel.scratch_bytes(job.selection.k, &self.blocking));
                        let most = if job.act.private { &mut private } else { &mut shared };
                        *most = job.act.bytes.max(*most);
                        if let Work::Experts(x) = &job.work {
                            panel = panel.max(x.kernels.scratch_bytes(job.selection.k, &self.blocking));
                            group = group.max(x.ids.group_bytes());
                            let key = (x.ids.data, x.ids.nb, [x.ids.used, x.ids.tokens, x.ids.experts]);
                            if last_ids.as_ref().is_none_or(|l| l.key != key) {
                                ids += 1;
                                // SAFETY: the sources of a tensor of this graph are null or tensors that live as long.
                                let range = extent(abi, unsafe { op.source(2) });
                                last_ids = Some(LastIds { key, id: ids, range });
                            }
                            job.group_id = last_ids.as_ref().map_or(0, |l| l.id);
                        }
                    }
                    self.nodes.push(node);
                }
                // SAFETY: `op` is an attention of this graph, whose tensors are allocated by the contract of this
                // function.
                Op::Attention => unsafe { self.attention.push(abi, op, threads) },
                Op::Ordinary | Op::Other(_) | Op::View => {}
                Op::Opaque => (last, last_ids) = (None, None),
            }
            // An operation that writes over the activations or the ids makes the quantised ones invalid.
            if last.is_some() || last_ids.is_some() {
                let w = extent(abi, Some(op));
                let written = |r: &Range<usize>| w.start < r.end && r.start < w.end;
                last = last.filter(|l| !l.ranges.iter().any(written));
                last_ids = last_ids.filter(|l| !written(&l.range));
            }
        }
        if let Some(pin) = pin {
            self.find_weights(pin);
        }
        // Attention keeps nothing in its scratch from one operation to the next, so it uses the memory of the panels.
        self.panel_bytes = panel.max(self.attention.thread_bytes()).next_multiple_of(64);
        self.private_bytes = private.next_multiple_of(64);
        self.thread_bytes = (self.panel_bytes + self.private_bytes + group + SLACK).next_multiple_of(128);
        self.partial_at = (threads * self.thread_bytes + shared + SLACK).next_multiple_of(64);
        if !self.scratch.reserve(self.partial_at + self.attention.shared_bytes()) {
            self.attention.decline(Reason::OutOfMemory);
            for node in &mut self.nodes {
                if node.decision.is_ok() {
                    node.decision = Err(Reason::OutOfMemory);
                }
            }
        }
        self.progress.clear();
        self.progress.resize_with(threads, Padded::default);
        self.arrived.clear();
        self.next_of_nodes.clear();
        if self.team.is_attentive() {
            self.arrived.resize_with(threads, Padded::default);
        }
        if let Some(shares) = &self.team.shares {
            self.next_of_nodes.resize_with(shares.nodes * self.nodes.len(), Padded::default);
        }
        self.index.build(self.nodes.iter().map(|node| node.op));
        self.attention.build_index();
    }

    unsafe fn node(&self, abi: &Abi, kind: MatrixOp, op: &Tensor) -> Node {
        // SAFETY: `op` is a tensor of the ggml of `abi`, by the contract of `make`. `decide` has found all sources of a
        // product that it takes.
        let decision =
            unsafe { policy::decide(abi, kind, op).map(|selection| Job::new(kind, op, selection, self.threads)) };
        // SAFETY: the sources of a tensor of this graph are null or tensors that live as long.
        let src0 = unsafe { op.source(0) };
        let ty = src0.and_then(|t| u8::try_from(t.ty).ok()).unwrap_or(u8::MAX);
        if let (Ok(job), Some(shares), Some(src0)) = (&decision, &self.team.shares, src0) {
            placement::weights_seen(matrices(src0, job.selection.rows), shares);
        }
        if let Ok(Job { selection, .. }) = &decision {
            stats::set_kernel(kind.counted(), ty, selection.regime.name(), selection.kernel.isa.name());
        }
        if let Some(src0) = src0 {
            tell(kind, src0, &decision);
        }
        Node {
            op,
            kind,
            ty,
            decision,
            weights: extent(abi, src0),
            next: Padded::default(),
            place: None,
            number: self.nodes.len(),
        }
    }

    /// Reports the weights of this graph to [`reader`] and [`copies`], and lets products read the copies of their
    /// weights.
    fn find_weights(&mut self, pin: &Pin) {
        let all = self.nodes.iter().map(|node| node.weights.clone());
        reader::order(pin, all);
        if reader::follows() {
            // Not for experts: it is not known yet which of them are read.
            let dense = self.nodes.iter_mut().filter(|node| node.kind == MatrixOp::MulMat);
            reader::follow(pin, dense.map(|node| (node.weights.clone(), &mut node.place)));
        }
        if !copies::are_made() {
            return;
        }
        let taken = self.nodes.iter().filter(|node| node.decision.is_ok());
        copies::want(pin, taken.map(|node| node.weights.clone()), large::at);
        for node in &mut self.nodes {
            let Ok(job) = &mut node.decision else { continue };
            let Some(source) = pin.find(&node.weights) else { continue };
            if let Some(distance) = source.distance(pin, &node.weights) {
                match &mut job.work {
                    Work::Dense(columns, _) => columns.read_copy(distance),
                    Work::Experts(experts) => experts.read_copy(distance),
                }
            }
        }
    }

    /// Every thread calls this at every product. At its first product of the graph, it is pinned to its CPUs, if
    /// threads are pinned.
    #[inline]
    pub fn arrive(&self, ith: usize) {
        // Only this thread writes its flag.
        if let Some(Padded(arrived)) = self.arrived.get(ith)
            && !arrived.load(Ordering::Relaxed)
        {
            arrived.store(true, Ordering::Relaxed);
            self.team.enter(ith);
        }
    }

    /// With shares, the part of a product that belongs to the NUMA node of thread `ith` of `nth`. `panels` are all
    /// panels of the product. `None` for all threads when the graph runs with fewer threads than planned, because a
    /// NUMA node could then have panels and no thread.
    #[inline]
    pub fn share(&self, node: &Node, ith: usize, nth: usize, panels: usize) -> Option<Share<'_>> {
        let shares = self.team.shares.as_ref().filter(|_| nth == self.threads)?;
        let (mine, rank) = self.team.place(ith);
        Some(Share {
            panels: shares.panels(panels, mine),
            rank,
            threads: shares.threads(mine),
            next: &self.next_of_nodes[node.number * shares.nodes + mine].0,
        })
    }

    /// The scratch of thread `ith`: panel, private activations, groups of picks.
    pub fn thread_scratch(&self, ith: usize) -> [*mut u8; 3] {
        let p = self.scratch.start.wrapping_add(ith * self.thread_bytes);
        [p, p.wrapping_add(self.panel_bytes), p.wrapping_add(self.panel_bytes + self.private_bytes)]
    }

    /// The activations that all threads make together.
    pub fn shared_activations(&self) -> *mut u8 {
        self.scratch.start.wrapping_add(self.threads * self.thread_bytes)
    }

    /// The partial sums of attention, which threads add up.
    pub fn shared_attention(&self) -> *mut f32 {
        self.scratch.start.wrapping_add(self.partial_at).cast()
    }

    /// The node for an operation of this graph.
    #[inline]
    pub fn find(&self, op: *const Tensor) -> Option<&Node> {
        self.index.find(op, |i| self.nodes[i].op).map(|i| &self.nodes[i])
    }
}

/// The part of a product that the threads of one NUMA node compute.
pub struct Share<'a> {
    pub panels: Range<usize>,
    /// This thread's number among these threads.
    pub rank: usize,
    pub threads: usize,
    pub next: &'a AtomicUsize,
}

/// The addresses of the weights of a product.
fn matrices(src0: &Tensor, rows: usize) -> Matrices {
    // Weights have three dimensions at most.
    let count = src0.ne[2] as usize;
    Matrices { start: src0.data as usize, rows, row_bytes: src0.nb[1], count, stride: src0.nb[2] }
}

/// Bytes between the areas of two threads: two cache lines.
const SLACK: usize = 128;

impl Job {
    /// The job of a product that `policy` has selected.
    unsafe fn new(kind: MatrixOp, op: &Tensor, selection: Selection, threads: usize) -> Self {
        // SAFETY: the product is taken, so `policy::decide` has found its first two sources.
        let (src0, src1) = unsafe { (&*op.src[0], &*op.src[1]) };
        let (work, columns, quantised, matrices) = if kind == MatrixOp::MulMat {
            let columns = Columns::new(op, src0, src1, &selection);
            let pieces = columns.pieces(0..selection.rows.div_ceil(LANES), threads);
            let (n, slices) = (columns.per_slice * columns.slices, columns.slices);
            (Work::Dense(columns, pieces), n, n, slices)
        } else {
            // SAFETY: the product is a MUL_MAT_ID that is taken, so `policy::decide` has found its third source.
            let x = Experts::new(op, src0, src1, unsafe { &*op.src[2] }, &selection, threads);
            let (n, quantised, most) = (x.ids.picks(), x.columns(), x.most_active());
            (Work::Experts(x), n, quantised, most)
        };
        let act_bytes = match &work {
            Work::Dense(..) => selection.kernel.act.bytes(selection.k, columns),
            Work::Experts(x) => x.act_bytes(),
        };
        let (block, block_bytes) = selection.kernel.weight.block();
        Job {
            work,
            act: Activations { id: 0, bytes: act_bytes, private: selection.k * quantised <= PRIVATE_ELEMENTS },
            group_id: 0,
            bytes: (matrices * selection.rows * (selection.k / block) * block_bytes) as u64,
            macs: (selection.rows * selection.k * columns) as u64,
            selection,
        }
    }
}

/// Columns of activations of a product with weights, whether it is computed here or by ggml. 0 when the first matrix is
/// not weights: when it is computed in the graph, an input, or a view, as in attention.
///
/// # Safety
/// `op` is a product of the graph.
unsafe fn columns(kind: MatrixOp, op: &Tensor) -> usize {
    // SAFETY: `op` is a tensor of ggml, by the contract of this function, and so are its sources, which live as long.
    let (Some(src0), Some(src1)) = (unsafe { (op.source(0), op.source(1)) }) else { return 0 };
    // The program sets an input anew for every graph, for example rotations.
    if src0.op != OP_NONE || src0.flags & TENSOR_FLAG_INPUT != 0 || !src0.view_src.is_null() {
        return 0;
    }
    if !src1.is_sound() || !op.is_sound() {
        return 0;
    }
    let n = match kind {
        MatrixOp::MulMat => src1.ne[1] * src1.ne[2] * src1.ne[3],
        MatrixOp::MulMatId => op.ne[2], // of [rows, used, tokens]
    };
    n as usize
}

/// With `ZEN5TURBO_LOG=debug`, logs once for every weight tensor and regime which kernel computes it.
fn tell(kind: MatrixOp, src0: &Tensor, decision: &Result<Job, Reason>) {
    static TOLD: Mutex<BTreeSet<(usize, &'static str)>> = Mutex::new(BTreeSet::new());
    if !log::enabled(LogLevel::Debug) {
        return;
    }
    let (regime, what) = match decision {
        Ok(job) => (job.selection.regime.name(), job.selection.kernel.isa.name()),
        Err(reason) => ("", reason.as_str()),
    };
    let mut told = TOLD.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if told.len() < MOST_TOLD && told.insert((src0 as *const Tensor as usize, regime)) {
        let name = checked::text(&src0.name);
        let (verb, columns) = if decision.is_ok() { ("", " columns: ") } else { ("left to ggml: ", "") };
        log!(debug, "{} {name} {:?}: {verb}{regime}{columns}{what}", kind.counted().as_str(), &src0.ne[..2]);
    }
}

/// Lines of [`tell`] in a process at most, so that the list does not grow for ever in a program that makes new tensors
/// for every graph.
const MOST_TOLD: usize = 4096;

/// The key of the activations of a product.
unsafe fn act_key(op: &Tensor, job: &Job) -> ActKey {
    // SAFETY: the product is taken, so `policy::decide` has found its first two sources.
    let src1 = unsafe { &*op.src[1] };
    let (formats, tiles, slices, ids) = match &job.work {
        Work::Dense(c, _) => (&[][..], c.tiles, c.slices, (std::ptr::null(), [0; 4])),
        Work::Experts(x) => {
            // SAFETY: the product is a MUL_MAT_ID that is taken, so `policy::decide` has found its third source.
            let ids = unsafe { &*op.src[2] };
            (x.kernels.formats(), Tiles::new(x.ids.picks(), x.ids.picks()), 0, (ids.data.cast_const(), ids.nb))
        }
    };
    ActKey { data: src1.data, ne: src1.ne, nb: src1.nb, format: job.selection.kernel.act, formats, tiles, slices, ids }
}

/// The addresses of a tensor's elements; empty when there is no tensor.
pub fn extent(abi: &Abi, t: Option<&Tensor>) -> Range<usize> {
    t.map_or(0..0, |t| t.extent(abi.weight_type(t.ty)))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
