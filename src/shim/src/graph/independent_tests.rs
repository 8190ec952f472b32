//! Checks which operations need a barrier between them, and that a graph without the others computes what a graph with
//! all barriers computes.

// Lists of sources, each with one source.
#![allow(clippy::single_range_in_vec_init)]

use super::*;

/// A tensor without sources and without memory.
fn tensor(number: i32) -> Tensor {
    // SAFETY: zeros are a valid tensor.
    let mut tensor: Tensor = unsafe { std::mem::zeroed() };
    tensor.op_params[0] = number;
    tensor
}

fn access(reads: &[Range<usize>], writes: Range<usize>, shared: Shared) -> Access {
    let mut all = [const { 0..0 }; SOURCES];
    all[..reads.len()].clone_from_slice(reads);
    Access { reads: all, writes, shared }
}

fn step(reads: &[Range<usize>], writes: Range<usize>) -> Step {
    Step::Known(access(reads, writes, Shared::Nothing))
}

fn sharing(shared: Shared, writes: Range<usize>) -> Step {
    Step::Known(access(&[], writes, shared))
}

/// Whether threads wait after each of these operations.
fn waits(steps: impl IntoIterator<Item = Step>) -> Vec<bool> {
    let steps: Vec<Step> = steps.into_iter().collect();
    let tensors: Vec<Tensor> = (0..steps.len() as i32).map(tensor).collect();
    let mut independent = Independent::new();
    independent.find(tensors.iter().zip(steps));
    tensors.iter().map(|tensor| independent.after(tensor) == After::Wait).collect()
}

#[test]
fn operations_that_share_no_memory_need_no_barrier_between_them() {
    let of_one_input = [step(&[0..8], 10..20), step(&[0..8], 20..30), step(&[0..8], 30..40)];
    assert_eq!(waits(of_one_input), [false, false, true]);
}

#[test]
fn an_operation_waits_for_what_it_reads_and_for_readers_and_writers_of_what_it_writes() {
    let first = || step(&[0..8, 100..108], 10..20);
    for (second, waited) in [
        (step(&[19..25], 30..40), true),        // reads the last byte of the result
        (step(&[20..25], 30..40), false),       // reads what follows it
        (step(&[5..6, 9..11], 30..40), true),   // reads its first byte
        (step(&[50..60], 0..1), true),          // writes what is still read
        (step(&[50..60], 104..105), true),      // the same, of another source
        (step(&[50..60], 108..110), false),     // writes what follows it
        (step(&[50..60], 12..13), true),        // writes a part of the result
        (step(&[50..60], 0..usize::MAX), true), // writes nobody knows where
        (step(&[0..usize::MAX], 30..40), true), // reads nobody knows what
        (step(&[0..0], 30..40), false),         // reads nothing
    ] {
        assert_eq!(waits([first(), second]), [waited, true]);
    }
}

#[test]
fn every_operation_since_the_last_barrier_counts() {
    let steps = [step(&[0..8], 10..20), step(&[0..8], 20..30), step(&[10..20], 40..50), step(&[40..41], 10..11)];
    // The third one reads what the first one writes. The fourth one reads what the third one writes.
    assert_eq!(waits(steps), [false, true, true, true]);
    // Behind a barrier, the operations before it do not count.
    let steps = [step(&[0..8], 10..20), step(&[10..20], 20..30), step(&[60..70], 0..8), step(&[60..70], 10..11)];
    assert_eq!(waits(steps), [true, false, true, true]);
}

#[test]
fn all_threads_wait_before_and_after_what_is_not_known_and_views_do_not_count() {
    let known = |at: usize| step(&[0..8], at..at + 5);
    assert_eq!(waits([known(10), Step::Unknown, known(20), known(30)]), [true, true, false, true]);
    assert_eq!(waits([known(10), Step::Nothing, Step::Nothing, known(20)]), [false, true, true, true]);
}

#[test]
fn memory_that_the_threads_share_is_used_for_one_thing_at_a_time() {
    use Shared::{Activations, Nothing, Sums, Work};
    for (first, second, waited) in [
        (Activations(1), Activations(1), false),
        (Activations(1), Activations(2), true),
        (Activations(1), Nothing, false),
        (Nothing, Activations(1), false),
        (Sums, Sums, true),
        (Sums, Activations(1), false),
        (Work, Work, true),
        (Work, Activations(1), false),
    ] {
        let steps = [sharing(first, 10..20), sharing(Nothing, 20..30), sharing(second, 30..40)];
        assert_eq!(waits(steps), [false, waited, true], "{first:?} {second:?}");
    }
}

/// Operations on 32 bytes: each byte that is written becomes a number made of its place and of all bytes that are read.
struct Model {
    steps: Vec<Access>,
    /// Whether the threads wait after each operation.
    waits: Vec<bool>,
}

impl Model {
    fn random(random: &mut fastrand::Rng) -> Self {
        let range = |random: &mut fastrand::Rng| {
            let start = random.usize(0..30);
            start..random.usize(start + 1..=(start + 6).min(32))
        };
        let steps: Vec<Access> = (0..random.usize(2..8))
            .map(|_| {
                let writes = range(random);
                // As ggml's operations do: a result is one of the sources, or shares no byte with them.
                let mut reads: Vec<_> = (0..2).map(|_| range(random)).filter(|r| !overlap(r, &writes)).collect();
                if random.u8(0..4) == 0 {
                    reads.push(writes.clone());
                }
                access(&reads, writes, Shared::Nothing)
            })
            .collect();
        let waits = waits(steps.iter().cloned().map(Step::Known));
        Self { steps, waits }
    }

    /// What thread `ith` of two does in an operation: its bytes of the result, one after the other.
    fn write(&self, number: usize, byte: usize, memory: &mut [u32; 32]) {
        let access = &self.steps[number];
        let in_place = access.reads.contains(&access.writes);
        let others = access.reads.iter().filter(|reads| !in_place || **reads != access.writes);
        let sum: u32 = others.flat_map(Clone::clone).fold(0, |sum, at| sum.wrapping_mul(31).wrapping_add(memory[at]));
        let own = if in_place { memory[byte] } else { 0 };
        memory[byte] = sum.wrapping_add(own).wrapping_mul(7).wrapping_add((number * 64 + byte) as u32);
    }

    /// Two threads in a random order, which wait where the plan says so.
    fn run(&self, random: &mut fastrand::Rng, memory: &mut [u32; 32]) {
        let bytes = |number: usize, ith: usize| self.steps[number].writes.clone().skip(ith).step_by(2);
        // For each thread: the operation, and its next byte there.
        let mut at = [(0, 0); 2];
        while at.iter().any(|(number, _)| *number < self.steps.len()) {
            let ith = random.usize(0..2);
            let (number, done) = at[ith];
            if number >= self.steps.len() {
                continue;
            }
            match bytes(number, ith).nth(done) {
                Some(byte) => {
                    self.write(number, byte, memory);
                    at[ith].1 += 1;
                }
                // At the barrier, until the other thread has come.
                None => {
                    let (other, other_done) = at[1 - ith];
                    let arrived = other > number || other == number && other_done == bytes(other, 1 - ith).count();
                    if !self.waits[number] || arrived {
                        at[ith] = (number + 1, 0);
                    }
                }
            }
        }
    }
}

#[test]
fn graphs_without_the_needless_barriers_compute_the_same() {
    let mut random = fastrand::Rng::with_seed(7);
    let mut needless = 0;
    for _ in 0..2000 {
        let model = Model::random(&mut random);
        needless += model.waits.iter().filter(|waits| !**waits).count();
        let mut expected = std::array::from_fn(|i| i as u32);
        for (number, step) in model.steps.iter().enumerate() {
            step.writes.clone().for_each(|byte| model.write(number, byte, &mut expected));
        }
        for _ in 0..4 {
            let mut memory = std::array::from_fn(|i| i as u32);
            model.run(&mut random, &mut memory);
            assert_eq!(memory, expected, "{:?} {:?}", model.steps, model.waits);
        }
    }
    assert!(needless > 500, "{needless}");
}

#[test]
fn barriers_are_passed_only_in_graphs_like_one_that_went_as_expected() {
    static OWN: Trust = Trust::new();
    let mut independent = Independent { trust: &OWN, ..Independent::new() };
    let mut tensors = [tensor(0), tensor(1), tensor(2)];
    let find = |independent: &mut Independent, tensors: &[Tensor]| {
        let steps = [step(&[0..8], 10..20), step(&[0..8], 20..30), step(&[10..20], 30..40)];
        independent.find(tensors.iter().zip(steps));
        let next: *const Tensor = &raw const tensors[1];
        assert_eq!(independent.after(&raw const tensors[1]), After::Wait);
        match independent.after(&raw const tensors[0]) {
            After::Pass(op) if op == next => true,
            After::Watch(op) if op == next => false,
            other => panic!("{other:?}"),
        }
    };
    for odd in [None, Some(0), Some(2)] {
        assert!(!find(&mut independent, &tensors));
        assert!(independent.expectation().compare(odd));
    }
    assert!(!find(&mut independent, &tensors));
    assert!(independent.expectation().compare(Some(1)));
    assert!(find(&mut independent, &tensors));
    assert!(independent.expectation().compare(Some(1)));
    // In another graph ggml may fuse other operations.
    tensors[2].ne[0] = 7;
    assert!(!find(&mut independent, &tensors));
    assert!(independent.expectation().compare(None), "nobody has passed a barrier");
    tensors[2].ne[0] = 0;
    assert!(find(&mut independent, &tensors));
    assert!(!independent.expectation().compare(None));
    assert!(!find(&mut independent, &tensors));
    independent.clear();
    assert_eq!(independent.after(&raw const tensors[0]), After::Wait);
}
