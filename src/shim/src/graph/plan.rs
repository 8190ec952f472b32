//! What will be done with each matrix product of a graph, decided before its threads start.

use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use zen5turbo_kernels::formats::ActFormat;
use zen5turbo_kernels::kernel::{Blocking, Product, Tiles};

use super::policy::{self, Take};
use crate::ggml::abi::Tensor;
use crate::ggml::probe::{Abi, Op};
use crate::reason::Reason;
use crate::stats::OpKind;

/// Quantised activations of at most this many elements are made by every thread for itself, which
/// needs no barrier; more are made once, by all threads together.
const PRIVATE_ELEMENTS: usize = 16 << 10;

/// Pieces per thread, so that a thread that is held up leaves little for the others to wait for.
const PIECES_PER_THREAD: usize = 8;

/// Fewest columns of a piece when the columns are cut as well: packing must pay.
const FEWEST_COLUMNS: usize = 64;

/// The plan of one graph.
pub struct Plan {
    nodes: Vec<Node>,
    /// Open-addressed hash table from the address of a node to its index plus 1.
    index: Vec<u32>,
    /// Threads that the scratch is laid out for.
    pub threads: usize,
    scratch: Scratch,
    /// Bytes of one thread's own scratch: its panel, and its private activations behind.
    thread_bytes: usize,
    panel_bytes: usize,
    /// Which activations each thread has quantised for itself, plus 1; and, at index `threads`,
    /// which ones lie in the shared buffer.
    pub prepared: Vec<Padded<AtomicU64>>,
    /// How panels are cut.
    pub blocking: Blocking,
}

/// One matrix product.
pub struct Node {
    op: *const Tensor,
    pub kind: OpKind,
    /// Number of the weight type.
    pub ty: u8,
    pub decision: Result<Job, Reason>,
    /// Next piece to be computed.
    pub next: Padded<AtomicUsize>,
}

/// Keeps what one thread writes away from what others read.
#[repr(align(64))]
#[derive(Default)]
pub struct Padded<T>(pub T);

/// A product that is taken over.
pub struct Job {
    pub take: Take,
    pub columns: Columns,
    pub pieces: Pieces,
    pub act: Activations,
    /// Bytes of weights and multiply-adds, for the statistics.
    pub bytes: u64,
    pub macs: u64,
}

/// Addresses of the weights and of source and result columns. A *slice* is one weight matrix
/// (`i02`, `i03`) with the columns that use it.
pub struct Columns {
    src0: *const u8,
    nb0: [usize; 4],
    ne02: usize,
    pub slices: usize,
    src1: *const u8,
    nb1: [usize; 4],
    dst: *mut u8,
    nbd: [usize; 4],
    ne11: usize,
    r2: usize,
    /// Columns of a slice.
    pub per_slice: usize,
    pub tiles: Tiles,
}

impl Columns {
    #[inline]
    fn position(&self, slice: usize, c: usize) -> [usize; 3] {
        if self.slices == 1 && self.per_slice == self.ne11 {
            return [c, 0, 0]; // the usual case, without divisions
        }
        let (i02, i03) = (slice % self.ne02, slice / self.ne02);
        let (i11, rest) = (c % self.ne11, c / self.ne11);
        let r3_index = rest / self.r2;
        [i11, i02 * self.r2 + rest % self.r2, i03 * (self.per_slice / self.ne11 / self.r2) + r3_index]
    }

    /// First of the `k` activations of a column.
    #[inline]
    pub fn source(&self, slice: usize, c: usize) -> *const f32 {
        let [i1, i2, i3] = self.position(slice, c);
        self.src1.wrapping_add(i1 * self.nb1[1] + i2 * self.nb1[2] + i3 * self.nb1[3]).cast()
    }

    /// First of the results of a column.
    #[inline]
    pub fn result(&self, slice: usize, c: usize) -> *mut f32 {
        let [i1, i2, i3] = self.position(slice, c);
        self.dst.wrapping_add(i1 * self.nbd[1] + i2 * self.nbd[2] + i3 * self.nbd[3]).cast()
    }

    /// The product of a slice with its quantised columns at `act`.
    pub fn product(&self, slice: usize, take: &Take, act: *const u8) -> Product {
        let (i02, i03) = (slice % self.ne02, slice / self.ne02);
        Product {
            weights: self.src0.wrapping_add(i02 * self.nb0[2] + i03 * self.nb0[3]),
            stride: self.nb0[1],
            rows: take.rows,
            k: take.k,
            act,
            tiles: self.tiles,
        }
    }
}

/// How a product is cut into pieces that threads take one by one: slices x row groups x column groups.
#[derive(Clone, Copy)]
pub struct Pieces {
    panels: usize,
    pub panels_per_piece: usize,
    row_groups: usize,
    tile_groups: usize,
    tiles: usize,
    pub count: usize,
}

impl Pieces {
    fn new(rows: usize, tiles: Tiles, slices: usize, threads: usize) -> Self {
        let panels = rows.div_ceil(zen5turbo_kernels::isa::LANES);
        let wanted = threads * PIECES_PER_THREAD;
        let tile_groups = if threads == 1 || panels * slices >= wanted {
            1
        } else {
            (tiles.columns / FEWEST_COLUMNS).clamp(1, wanted.div_ceil(panels * slices)).min(tiles.count)
        };
        let panels_per_piece = (panels * slices * tile_groups / wanted).clamp(1, panels);
        let row_groups = panels.div_ceil(panels_per_piece);
        let count = row_groups * tile_groups * slices;
        Pieces { panels, panels_per_piece, row_groups, tile_groups, tiles: tiles.count, count }
    }

    /// Slice, panels and tiles of piece `i`.
    pub fn get(&self, i: usize) -> (usize, std::ops::Range<usize>, std::ops::Range<usize>) {
        let (row, rest) = (i % self.row_groups, i / self.row_groups);
        let (col, slice) = (rest % self.tile_groups, rest / self.tile_groups);
        let panels = row * self.panels_per_piece..((row + 1) * self.panels_per_piece).min(self.panels);
        let tiles = col * self.tiles / self.tile_groups..(col + 1) * self.tiles / self.tile_groups;
        (slice, panels, tiles)
    }
}

/// The quantised activations of a product.
#[derive(Clone, Copy)]
pub struct Activations {
    /// Products with the same number use the same ones; numbers start at 1 in every graph.
    pub id: u64,
    pub bytes: usize,
    /// Made by every thread for itself.
    pub private: bool,
}

/// What makes two products' activations the same, as long as nobody writes that memory between.
#[derive(PartialEq, Eq)]
struct ActKey {
    data: *const c_void,
    ne: [i64; 4],
    nb: [usize; 4],
    format: ActFormat,
    tiles: Tiles,
    /// Slices interleave the columns differently.
    slices: usize,
}

/// The activations that the last product used.
struct Last {
    key: ActKey,
    id: u64,
    range: std::ops::Range<usize>,
}

impl Plan {
    /// An empty plan; takes no memory.
    pub const fn new() -> Self {
        Plan {
            nodes: Vec::new(),
            index: Vec::new(),
            threads: 0,
            scratch: Scratch::new(),
            thread_bytes: 0,
            panel_bytes: 0,
            prepared: Vec::new(),
            blocking: Blocking { panel_bytes: 20 << 10, prefetch_bytes: 16 << 10 },
        }
    }

    /// Plans the graph for at most `threads` threads. Nothing of an earlier graph is kept but memory.
    ///
    /// # Safety
    /// `cgraph` is a graph of the ggml that `abi` belongs to, its tensors allocated.
    pub unsafe fn make(&mut self, abi: &Abi, cgraph: *mut c_void, threads: usize) {
        self.nodes.clear();
        self.threads = threads;
        let (mut panel, mut private, mut shared) = (0, 0, 0);
        let mut last: Option<Last> = None;
        let mut ids = 0;
        // SAFETY: by contract.
        let n = unsafe { (abi.graph_n_nodes)(cgraph) };
        for i in 0..n {
            // SAFETY: i is below the number of nodes.
            let op = unsafe { &*(abi.graph_node)(cgraph, i) };
            // SAFETY: a node of this ggml.
            if !unsafe { abi.fits(op) } {
                self.nodes.clear();
                break;
            }
            match abi.op(op.op) {
                Op::Matrix(kind) => {
                    // SAFETY: as above.
                    let mut node = unsafe { self.node(abi, kind, op) };
                    if let Ok(job) = &mut node.decision {
                        // SAFETY: as above; a MUL_MAT has two sources.
                        let key = unsafe { act_key(op, job) };
                        match &last {
                            Some(l) if l.key == key => job.act.id = l.id,
                            _ => {
                                ids += 1;
                                job.act.id = ids;
                                // SAFETY: as above.
                                let range = unsafe { extent(abi, op.src[1]) };
                                last = Some(Last { key, id: ids, range });
                            }
                        }
                        panel = panel.max(job.take.kernel.scratch_bytes(job.take.k, &self.blocking));
                        *(if job.act.private { &mut private } else { &mut shared }) =
                            job.act.bytes.max(if job.act.private { private } else { shared });
                    }
                    self.nodes.push(node);
                }
                Op::Ordinary => {}
                Op::Opaque => last = None,
            }
            // Whatever writes over the activations ends their life.
            if let Some(l) = &last {
                // SAFETY: as above.
                let w = unsafe { extent(abi, op) };
                if w.start < l.range.end && l.range.start < w.end {
                    last = None;
                }
            }
        }
        self.panel_bytes = panel.next_multiple_of(64);
        self.thread_bytes = self.panel_bytes + (private + ACT_SLACK).next_multiple_of(128);
        if !self.scratch.reserve(threads * self.thread_bytes + shared + ACT_SLACK) {
            for node in &mut self.nodes {
                if node.decision.is_ok() {
                    node.decision = Err(Reason::OutOfMemory);
                }
            }
        }
        self.prepared.clear();
        self.prepared.resize_with(threads + 1, Padded::default);
        self.build_index();
    }

    unsafe fn node(&self, abi: &Abi, kind: OpKind, op: &Tensor) -> Node {
        // SAFETY: by the contract of `make`; a product has two sources.
        let decision = unsafe { policy::decide(abi, kind, op).map(|take| job(op, take, self.threads)) };
        // SAFETY: as above.
        let ty = unsafe { (*op.src[0]).ty };
        Node { op, kind, ty: u8::try_from(ty).unwrap_or(u8::MAX), decision, next: Padded::default() }
    }

    /// This thread's own scratch: panel, private activations.
    pub fn thread_scratch(&self, ith: usize) -> (*mut u8, *mut u8) {
        let p = self.scratch.start.wrapping_add(ith * self.thread_bytes);
        (p, p.wrapping_add(self.panel_bytes))
    }

    /// The activations that all threads make together.
    pub fn shared_activations(&self) -> *mut u8 {
        self.scratch.start.wrapping_add(self.threads * self.thread_bytes)
    }

    fn build_index(&mut self) {
        let size = (self.nodes.len() * 2 + 1).next_power_of_two();
        self.index.clear();
        self.index.resize(size, 0);
        for (i, node) in self.nodes.iter().enumerate() {
            let mut at = hash(node.op, size);
            while self.index[at] != 0 {
                at = (at + 1) & (size - 1);
            }
            self.index[at] = i as u32 + 1;
        }
    }

    /// The node for an operation of this graph.
    #[inline]
    pub fn find(&self, op: *const Tensor) -> Option<&Node> {
        let size = self.index.len();
        if size == 0 {
            return None;
        }
        let mut at = hash(op, size);
        while self.index[at] != 0 {
            let node = &self.nodes[self.index[at] as usize - 1];
            if node.op == op {
                return Some(node);
            }
            at = (at + 1) & (size - 1);
        }
        None
    }
}

/// Room behind the activations, so that thread areas stay apart by a pair of cache lines.
const ACT_SLACK: usize = 128;

fn hash(op: *const Tensor, size: usize) -> usize {
    ((op as usize >> 4).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) & (size - 1)
}

/// Lays out a product that `policy` takes.
unsafe fn job(op: &Tensor, take: Take, threads: usize) -> Job {
    // SAFETY: by the contract of `Plan::make`.
    let (src0, src1) = unsafe { (&*op.src[0], &*op.src[1]) };
    let n = |x: i64| x as usize;
    let (ne02, ne03) = (n(src0.ne[2]), n(src0.ne[3]));
    let (r2, r3) = (n(src1.ne[2]) / ne02, n(src1.ne[3]) / ne03);
    let per_slice = n(src1.ne[1]) * r2 * r3;
    let tiles = take.kernel.tiles(per_slice);
    let slices = ne02 * ne03;
    let columns = Columns {
        src0: src0.data.cast(),
        nb0: src0.nb,
        ne02,
        slices,
        src1: src1.data.cast(),
        nb1: src1.nb,
        dst: op.data.cast(),
        nbd: op.nb,
        ne11: n(src1.ne[1]),
        r2,
        per_slice,
        tiles,
    };
    let bytes = take.kernel.act.bytes(take.k, per_slice * slices);
    let private = take.k * per_slice * slices <= PRIVATE_ELEMENTS;
    let (block, block_bytes) = take.kernel.weight.block();
    Job {
        columns,
        pieces: Pieces::new(take.rows, tiles, slices, threads),
        act: Activations { id: 0, bytes, private },
        bytes: (slices * take.rows * (take.k / block) * block_bytes) as u64,
        macs: (slices * take.rows * take.k * per_slice) as u64,
        take,
    }
}

unsafe fn act_key(op: &Tensor, job: &Job) -> ActKey {
    // SAFETY: by the contract of `Plan::make`.
    let src1 = unsafe { &*op.src[1] };
    ActKey {
        data: src1.data,
        ne: src1.ne,
        nb: src1.nb,
        format: job.take.kernel.act,
        tiles: job.columns.tiles,
        slices: job.columns.slices,
    }
}

/// The addresses that a tensor's elements lie in.
unsafe fn extent(abi: &Abi, t: *const Tensor) -> std::ops::Range<usize> {
    // SAFETY: by the contract of `Plan::make`.
    unsafe {
        let start = (*t).data as usize;
        start..start + (abi.nbytes)(t)
    }
}

/// Memory of our own, aligned to pages, that only grows.
struct Scratch {
    start: *mut u8,
    bytes: usize,
}

impl Scratch {
    const fn new() -> Self {
        Scratch { start: std::ptr::null_mut(), bytes: 0 }
    }

    /// Makes room for `bytes`; false when there is none. The contents are lost.
    fn reserve(&mut self, bytes: usize) -> bool {
        if bytes <= self.bytes {
            return true;
        }
        let bytes = bytes.next_multiple_of(64 << 10);
        // SAFETY: the old mapping is ours and no thread uses it: a plan is made before its graph.
        unsafe {
            if !self.start.is_null() {
                libc::munmap(self.start.cast(), self.bytes);
            }
            let p = libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            if p == libc::MAP_FAILED {
                *self = Scratch::new();
                return false;
            }
            *self = Scratch { start: p.cast(), bytes };
        }
        true
    }
}
