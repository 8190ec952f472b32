//! Finds the operations after which the threads of a graph need not wait for each other.
//!
//! Operations that follow each other without a barrier form a span. A thread can be in one of them while another thread
//! is still in an earlier one. So an operation joins a span only if it writes nothing that an operation of the span
//! reads or writes, and reads nothing that one of them writes. ggml gives several tensors the same memory one after the
//! other, so addresses are compared, not tensors.
//!
//! Products and attention that this library computes are in spans, and a few of ggml's operations of which it is known
//! what they read, write and share. All other operations have a barrier before and after them.

use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};

use super::index::Index;
use crate::ggml::abi::Tensor;
use crate::threads::node_ends::After;

/// Memory that the threads use together in one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shared {
    /// None, or only what belongs to this operation alone.
    Nothing,
    /// The quantised activations with this id. The first operation with an id writes them.
    Activations(u64),
    /// The partial sums of attention.
    Sums,
    /// ggml's work buffer, where each thread has a part whose size the operation decides.
    Work,
}

impl Shared {
    /// Whether two operations use the same memory for different things.
    fn conflicts(self, other: Self) -> bool {
        match (self, other) {
            (Self::Activations(a), Self::Activations(b)) => a != b,
            (Self::Sums, Self::Sums) | (Self::Work, Self::Work) => true,
            _ => false,
        }
    }
}

/// Sources of a tensor.
const SOURCES: usize = 10;

/// The addresses that an operation uses. An empty range stands for nothing.
#[derive(Clone, Debug)]
pub struct Access {
    pub reads: [Range<usize>; SOURCES],
    pub writes: Range<usize>,
    pub shared: Shared,
}

/// One operation of a graph.
pub enum Step {
    /// It computes nothing, such as a view.
    Nothing,
    /// Its conduct is not known.
    Unknown,
    /// Only what is told here is read, written and shared, and the threads do not wait for each other at ggml's barrier.
    Known(Access),
}

/// Operations that no barrier separates.
struct Span {
    reads: Vec<Range<usize>>,
    writes: Vec<Range<usize>>,
    shared: Vec<Shared>,
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start.max(b.start) < a.end.min(b.end)
}

impl Span {
    fn clear(&mut self) {
        self.reads.clear();
        self.writes.clear();
        self.shared.clear();
    }

    /// Whether the operation can run while threads are still in operations of the span.
    fn is_independent(&self, access: &Access) -> bool {
        let written = |range: &Range<usize>| self.writes.iter().any(|writes| overlap(range, writes));
        let read = |range: &Range<usize>| self.reads.iter().any(|reads| overlap(range, reads));
        !written(&access.writes)
            && !read(&access.writes)
            && !access.reads.iter().any(written)
            && !self.shared.iter().any(|&shared| shared.conflicts(access.shared))
    }

    fn add(&mut self, access: Access) {
        self.reads.extend(access.reads.into_iter().filter(|range| !range.is_empty()));
        self.writes.push(access.writes);
        self.shared.push(access.shared);
    }
}

/// The operations of a graph that another one follows without a barrier.
pub struct Independent {
    /// Each with the operation that follows.
    pairs: Vec<(*const Tensor, *const Tensor)>,
    index: Index,
    span: Span,
    /// Of the graph that was looked at last.
    signature: Signature,
    /// Whether threads really pass the barriers. Otherwise the graph is watched.
    pass: bool,
    trust: &'static Trust,
}

impl Independent {
    /// Of no graph; takes no memory.
    pub const fn new() -> Self {
        Independent {
            pairs: Vec::new(),
            index: Index::new(),
            span: Span { reads: Vec::new(), writes: Vec::new(), shared: Vec::new() },
            signature: Signature(0),
            pass: false,
            trust: &TRUST,
        }
    }

    /// Forgets the graph: threads wait after each operation.
    pub fn clear(&mut self) {
        self.pairs.clear();
        self.index.build(std::iter::empty());
        self.pass = false;
    }

    /// Looks at the operations of a graph in their order.
    pub fn find<'a>(&mut self, steps: impl Iterator<Item = (&'a Tensor, Step)>) {
        self.pairs.clear();
        self.span.clear();
        let mut signature = Signature::START;
        let mut last: Option<*const Tensor> = None;
        for (op, step) in steps {
            signature.add(op);
            match step {
                Step::Nothing => {}
                Step::Unknown => {
                    self.span.clear();
                    last = None;
                }
                Step::Known(access) => {
                    match last {
                        Some(before) if self.span.is_independent(&access) => self.pairs.push((before, op)),
                        _ => self.span.clear(),
                    }
                    self.span.add(access);
                    last = Some(op);
                }
            }
        }
        self.signature = signature;
        self.pass = !self.pairs.is_empty() && self.trust.has(signature);
        self.index.build(self.pairs.iter().map(|(op, _)| *op));
    }

    /// What follows an operation.
    #[inline]
    pub fn after(&self, op: *const Tensor) -> After {
        match self.index.find(op, |i| self.pairs[i].0) {
            None => After::Wait,
            Some(i) if self.pass => After::Pass(self.pairs[i].1),
            Some(i) => After::Watch(self.pairs[i].1),
        }
    }

    /// What is to be seen in the graph.
    pub fn expectation(&self) -> Expectation {
        Expectation { signature: self.signature, pairs: self.pairs.len(), passes: self.pass, trust: self.trust }
    }
}

/// Tells graphs apart in which ggml may come to other operations, or fuse other ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Signature(u64);

impl Signature {
    const START: Self = Self(0x9e37_79b9_7f4a_7c15);

    fn add(&mut self, op: &Tensor) {
        let word = |a: i32, b: i32| u64::from(a as u32) << 32 | u64::from(b as u32);
        let near = |source: *mut Tensor| source.addr().wrapping_sub(std::ptr::from_ref(op).addr()) as u64;
        let words = [
            word(op.op, op.ty),
            word(op.flags, op.op_params[0]),
            near(op.src[0]),
            near(op.src[1]),
            op.ne[0] as u64,
            op.ne[1] as u64,
            op.ne[2] as u64,
        ];
        for word in words {
            self.0 = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
    }
}

/// What the plan expects the first thread to see.
#[derive(Clone, Copy)]
pub struct Expectation {
    signature: Signature,
    pairs: usize,
    passes: bool,
    trust: &'static Trust,
}

/// The graphs that were watched, and went as expected.
struct Trust {
    /// The newest ones.
    signatures: [AtomicU64; 64],
    next: AtomicUsize,
    /// Set when a graph went another way than one with the same signature before: no barrier is passed any more.
    lost: AtomicBool,
}

static TRUST: Trust = Trust::new();

impl Trust {
    const fn new() -> Self {
        Trust { signatures: [const { AtomicU64::new(0) }; 64], next: AtomicUsize::new(0), lost: AtomicBool::new(false) }
    }

    fn has(&self, signature: Signature) -> bool {
        !self.lost.load(Relaxed) && self.signatures.iter().any(|known| known.load(Relaxed) == signature.0)
    }

    fn add(&self, signature: Signature) {
        let at = self.next.fetch_add(1, Relaxed) % self.signatures.len();
        self.signatures[at].store(signature.0, Relaxed);
    }
}

impl Expectation {
    /// A graph has ended. Its first thread came `met` times to the operation that was expected; `None` if it came to
    /// another one. Returns false if threads have passed barriers in a graph that went another way than it should. That
    /// does not happen unless ggml goes through equal graphs in different ways.
    pub fn compare(self, met: Option<usize>) -> bool {
        let as_expected = met == Some(self.pairs);
        if self.passes && !as_expected {
            self.trust.lost.store(true, Relaxed);
            return false;
        }
        if !self.passes && as_expected && self.pairs > 0 {
            self.trust.add(self.signature);
        }
        true
    }
}

#[cfg(test)]
#[path = "independent_tests.rs"]
mod tests;
