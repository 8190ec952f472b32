//! Finds products that are computed together: Q, K and V of an attention, gate and up of a feed-forward network.
//!
//! When the threads come to the first product of a group, they compute the later ones as well, one after the other
//! without a barrier between them. A thread that finds no more pieces of one product goes on with the next one. When
//! ggml comes to a later product of the group, nothing is left to do.
//!
//! So a later product runs at the same time as the ones of its group, and before the operations that stand between them
//! in the graph. It joins the group only if it reads nothing that one of all these writes, and writes nothing that one
//! of them reads or writes. ggml gives several tensors the same memory one after the other, so addresses are compared,
//! not tensors.

use std::ffi::c_void;
use std::ops::Range;

use super::plan::{Activations, Plan, extent};
use crate::ggml::abi::{TENSOR_FLAG_COMPUTE, Tensor};
use crate::loader::{Abi, MatrixOp, Op};

/// Sources of a tensor.
const SOURCES: usize = 10;

/// A group ends after as many other operations, so that a long graph without products costs nothing. K and V stand a few
/// behind Q: its bias, norm and rotation.
const MOST_BETWEEN: usize = 16;

/// Finds the groups of a graph.
///
/// # Safety
/// `plan` was just made for `cgraph`, with `abi`.
pub unsafe fn find(plan: &mut Plan, abi: &Abi, cgraph: *mut c_void) {
    let mut groups = Groups::default();
    let mut places = 0..plan.nodes.len();
    let mut before: *const Tensor = std::ptr::null();
    let mut joined_last: Option<usize> = None;
    // SAFETY: `cgraph` is a graph of the ggml of `abi`, by the contract of this function.
    for op in unsafe { abi.nodes(cgraph) }.into_iter().flatten().flatten() {
        let operation = abi.op(op.op);
        if operation == Op::View {
            continue;
        }
        if let Some(place) = joined_last.take() {
            plan.nodes[place].between.after = op;
        }
        // SAFETY: `op` is a tensor of this graph, and its sources live as long.
        let access = || unsafe { Access::of(abi, op) };
        match operation {
            Op::Opaque => groups.end(),
            Op::Matrix(matrix) => {
                let Some(place) = places.next().filter(|&place| plan.nodes[place].op == op) else { break };
                match &plan.nodes[place].decision {
                    Err(_) => groups.other(access),
                    Ok(job) => {
                        if let Some(joined) = groups.product(place, Kind::of(matrix, op), job.act, access()) {
                            plan.nodes[joined.before].next_together = Some(place);
                            let node = &mut plan.nodes[place];
                            (node.first, node.between.before) = (Some(joined.first), before);
                            joined_last = Some(place);
                        }
                    }
                }
            }
            _ => groups.other(access),
        }
        before = op;
    }
}

/// The addresses that an operation uses. An empty range stands for nothing.
#[derive(Clone, Debug)]
struct Access {
    reads: [Range<usize>; SOURCES],
    writes: Range<usize>,
}

impl Access {
    /// # Safety
    /// `op` is a tensor of the ggml of `abi`, and so are its sources, which live as long.
    unsafe fn of(abi: &Abi, op: &Tensor) -> Self {
        // SAFETY: the sources are null or tensors that live as long, by the contract of this function.
        let reads = std::array::from_fn(|i| extent(abi, unsafe { op.source(i) }));
        Self { reads, writes: extent(abi, Some(op)) }
    }
}

/// What products must have in common to be computed together.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Kind {
    matrix: MatrixOp,
    /// The tensors of activations, and of picked experts.
    sources: [*const Tensor; 2],
    /// Whether ggml computes the operation at all, in releases that have this flag.
    computed: bool,
}

impl Kind {
    /// The kind of a product.
    fn of(matrix: MatrixOp, op: &Tensor) -> Self {
        let ids = if matrix == MatrixOp::MulMatId { op.src[2] } else { std::ptr::null_mut() };
        let sources = [op.src[1].cast_const(), ids.cast_const()];
        Self { matrix, sources, computed: op.flags & TENSOR_FLAG_COMPUTE != 0 }
    }
}

/// The group that the next product of a graph may join.
struct Open {
    /// The places of its first and its last product in the plan.
    first: usize,
    last: usize,
    kind: Kind,
    act: Activations,
    /// Operations since the first product that are not in the group.
    between: usize,
}

/// Finds the groups while a plan is made.
#[derive(Default)]
struct Groups {
    open: Option<Open>,
    /// What was read and written since the first product of the group, by this product and all later operations.
    reads: Vec<Range<usize>>,
    writes: Vec<Range<usize>>,
}

/// A product joins a group: the places of its first product, and of the one before in the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Joined {
    first: usize,
    before: usize,
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start.max(b.start) < a.end.min(b.end)
}

impl Groups {
    /// Ends the group: what follows may use any memory.
    fn end(&mut self) {
        self.open = None;
    }

    /// The graph goes on with an operation that is in no group.
    fn other(&mut self, access: impl FnOnce() -> Access) {
        match &mut self.open {
            Some(open) if open.between < MOST_BETWEEN => {
                open.between += 1;
                self.add(access());
            }
            _ => self.open = None,
        }
    }

    /// The graph goes on with a product that is computed here, at this place of the plan. It joins the group, or begins
    /// another one.
    fn product(&mut self, place: usize, kind: Kind, act: Activations, access: Access) -> Option<Joined> {
        // Threads that are still in the product before read the activations that all threads have made together.
        let activations_stay = |open: &Open| act.private && open.act.private || act.id == open.act.id;
        let open = self.open.take().filter(|open| open.kind == kind && activations_stay(open));
        let joined = open.filter(|_| self.is_independent(&access)).map(|open| {
            let joined = Joined { first: open.first, before: open.last };
            self.open = Some(Open { last: place, ..open });
            joined
        });
        if joined.is_none() {
            self.reads.clear();
            self.writes.clear();
            self.open = Some(Open { first: place, last: place, kind, act, between: 0 });
        }
        self.add(access);
        joined
    }

    fn is_independent(&self, access: &Access) -> bool {
        let written = |range: &Range<usize>| self.writes.iter().any(|writes| overlap(range, writes));
        let read = |range: &Range<usize>| self.reads.iter().any(|reads| overlap(range, reads));
        !written(&access.writes) && !read(&access.writes) && !access.reads.iter().any(written)
    }

    fn add(&mut self, access: Access) {
        self.reads.extend(access.reads.into_iter().filter(|range| !range.is_empty()));
        self.writes.push(access.writes);
    }
}

#[cfg(test)]
mod tests {
    // Lists of sources, each with one source.
    #![allow(clippy::single_range_in_vec_init)]

    use super::*;

    fn access(reads: &[Range<usize>], writes: Range<usize>) -> Access {
        let mut all = [const { 0..0 }; SOURCES];
        all[..reads.len()].clone_from_slice(reads);
        Access { reads: all, writes }
    }

    fn kind(activations: usize) -> Kind {
        let sources = [std::ptr::without_provenance(activations), std::ptr::null()];
        Kind { matrix: MatrixOp::MulMat, sources, computed: true }
    }

    const SHARED: Activations = Activations { id: 1, bytes: 0, private: false };
    const PRIVATE: Activations = Activations { private: true, ..SHARED };

    /// Whether a product joins the group of one that reads 0..8 and 100..108 and writes 10..20, with these operations between.
    fn joins(between: &[Access], second: Access) -> bool {
        let mut groups = Groups::default();
        assert_eq!(groups.product(0, kind(1), SHARED, access(&[0..8, 100..108], 10..20)), None);
        between.iter().for_each(|other| groups.other(|| other.clone()));
        groups.product(1, kind(1), SHARED, second) == Some(Joined { first: 0, before: 0 })
    }

    #[test]
    fn a_product_joins_unless_it_uses_memory_of_the_first_one() {
        for (second, expected) in [
            (access(&[0..8], 30..40), true),
            (access(&[19..25], 30..40), false), // reads the last byte of the result
            (access(&[20..25], 30..40), true),  // reads what follows it
            (access(&[5..6, 9..11], 30..40), false), // reads its first byte
            (access(&[50..60], 0..1), false),   // writes what is read
            (access(&[50..60], 104..105), false), // the same, of another source
            (access(&[50..60], 108..110), true), // writes what follows it
            (access(&[50..60], 12..13), false), // writes a part of the result
            (access(&[50..60], 0..usize::MAX), false), // writes nobody knows where
            (access(&[0..usize::MAX], 30..40), false), // reads nobody knows what
        ] {
            assert_eq!(joins(&[], second.clone()), expected, "{second:?}");
        }
    }

    /// It is computed before them.
    #[test]
    fn a_product_joins_unless_it_uses_memory_of_an_operation_between() {
        let second = || access(&[0..8, 200..210], 30..40);
        for (other, expected) in [
            (access(&[10..20], 10..20), true), // changes the first result in place
            (access(&[10..20], 50..60), true),
            (access(&[10..20], 39..60), false),   // writes where the second one writes
            (access(&[30..31], 50..60), false),   // reads what was there before
            (access(&[10..20], 7..8), false),     // writes over the activations
            (access(&[10..20], 209..220), false), // writes the weights
            (access(&[10..20], 0..usize::MAX), false),
        ] {
            assert_eq!(joins(std::slice::from_ref(&other), second()), expected, "{other:?}");
            let harmless = access(&[10..20], 70..80);
            assert_eq!(joins(&[harmless.clone(), other.clone(), harmless], second()), expected, "{other:?}");
        }
        let many = vec![access(&[10..20], 70..80); MOST_BETWEEN];
        assert!(joins(&many, second()));
        assert!(!joins(&[many.clone(), many].concat(), second()));
    }

    #[test]
    fn a_group_has_one_kind_and_one_copy_of_the_activations() {
        let second = |kind: Kind, first_act: Activations, act: Activations| {
            let mut groups = Groups::default();
            groups.product(3, super::tests::kind(1), first_act, access(&[0..8], 10..20));
            groups.product(4, kind, act, access(&[0..8], 20..30)).is_some()
        };
        assert!(second(kind(1), SHARED, SHARED));
        assert!(!second(kind(2), SHARED, SHARED));
        assert!(!second(Kind { matrix: MatrixOp::MulMatId, ..kind(1) }, SHARED, SHARED));
        assert!(!second(Kind { computed: false, ..kind(1) }, SHARED, SHARED));
        assert!(!second(kind(1), SHARED, Activations { id: 2, ..SHARED }));
        assert!(second(kind(1), PRIVATE, Activations { id: 2, ..PRIVATE }));
        assert!(!second(kind(1), PRIVATE, Activations { id: 2, ..SHARED }));
    }

    #[test]
    fn later_products_join_the_first_one() {
        let mut groups = Groups::default();
        let mut product = |place, at: usize| groups.product(place, kind(1), SHARED, access(&[0..8], at..at + 10));
        assert_eq!(product(5, 10), None);
        assert_eq!(product(6, 20), Some(Joined { first: 5, before: 5 }));
        assert_eq!(product(7, 30), Some(Joined { first: 5, before: 6 }));
        // Writes where the second one writes, so it begins a group, which others join.
        assert_eq!(product(8, 29), None);
        assert_eq!(product(9, 40), Some(Joined { first: 8, before: 8 }));
        groups.end();
        assert_eq!(groups.product(10, kind(1), SHARED, access(&[0..8], 60..70)), None);
    }
}
