//! Memory nodes and CPUs: where weights lie, and where the threads run that read them.
//!
//! On a machine with one node nothing is done and, beyond reading the topology, nothing is asked. With
//! several, `ZEN5TURBO_NUMA` decides: *interleave* puts the huge pages of the weights in turn on all nodes;
//! *shard* puts the rows that a node's threads compute on that node, and has them computed there: the
//! plan of a graph divides every matrix by [`Shares`], and a thread takes pieces of its own node's share
//! only. [`setup`] decides once; [`pin`] keeps threads in their place; [`weights`] knows which rows lie where.
//!
//! Pages are placed before they are first touched, by whoever makes them: see [`on_its_node`].

mod pin;
mod setup;
mod shares;
mod weights;

use std::ops::Range;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use zen5turbo_host::cpuset::{self, CpuSet};
use zen5turbo_host::memory::map::SMALL_PAGE;
use zen5turbo_host::numa::{self, MAX_NODES, NodeMask, Policy};
use zen5turbo_host::seccomp;
use zen5turbo_host::topology::{SYSFS, Topology};

use crate::config::config;
use crate::log::log;
use crate::reason::Reason;
use crate::stats;
use setup::{Machine, Placement, Setup, decide};
pub use shares::Shares;
pub use weights::Matrices;
use weights::Seen;

/// The smallest page that is placed by its own address.
const HUGE_PAGE: usize = 2 << 20;

/// Graphs in which threads are looked at for an affinity of the program's own, where it decides.
const WATCHED_GRAPHS: u32 = 8;

static SETUP: OnceLock<Setup> = OnceLock::new();
static SEEN: Seen = Seen::new();

/// The kernel refuses to place memory.
static REFUSED: AtomicBool = AtomicBool::new(false);

/// The program places its threads, and `auto` gives way.
static YIELDED: AtomicBool = AtomicBool::new(false);

/// Two graphs ran at the same time.
static CONCURRENT: AtomicBool = AtomicBool::new(false);

static WATCHED: AtomicU32 = AtomicU32::new(0);

/// Bytes placed by preference on a node, bytes interleaved, and calls that failed.
static PLACED: [AtomicU64; MAX_NODES] = [const { AtomicU64::new(0) }; MAX_NODES];
static INTERLEAVED: AtomicU64 = AtomicU64::new(0);
static FAILED: AtomicU64 = AtomicU64::new(0);

/// The machine that this process runs on.
struct Here;

impl Machine for Here {
    fn topology(&self) -> Option<Topology> {
        Topology::read(Path::new(SYSFS))
    }

    fn affinity(&self) -> Option<CpuSet> {
        cpuset::affinity().ok()
    }

    fn allowed_nodes(&self) -> Option<NodeMask> {
        numa::allowed_nodes()
    }

    fn policy_is_default(&self) -> Option<bool> {
        // A filter may kill at the question, and at all that would follow.
        if seccomp::is_filtered() { None } else { numa::thread_policy_is_default().ok() }
    }

    fn current_node(&self) -> Option<usize> {
        cpuset::current_node().ok()
    }
}

/// Decides, at the first call, what is done in this process. Reads files and allocates: to be called
/// where that is allowed, so not in malloc. Every other function here does nothing before.
pub fn init_once() {
    SETUP.get_or_init(|| {
        let setup = decide(config().numa, &config().pin, &Here);
        setup.reasons.iter().for_each(|&reason| stats::event_once(reason));
        if setup.reasons.contains(&Reason::PinCpuNotAllowed) {
            let (value, may) = (crate::config::show_pin(&config().pin), setup.affinity);
            crate::log::line(format_args!(
                "ZEN5TURBO_PIN={value} names a CPU that this process may not use: it may use {may}; threads are not pinned"
            ));
        }
        log!(info, "NUMA: {}, nodes {:?}, places for {} threads", setup.name(), setup.nodes, setup.seats.len());
        setup
    });
}

/// What a graph's threads do about their places, the same for all of them and frozen while it runs.
#[derive(Default)]
pub struct Team {
    setup: Option<&'static Setup>,
    threads: usize,
    pinned: bool,
    watched: bool,
    /// With shard: how rows are divided over nodes.
    pub shares: Option<Shares>,
}

impl Team {
    /// Nothing is done.
    pub const fn new() -> Self {
        Self { setup: None, threads: 0, pinned: false, watched: false, shares: None }
    }

    /// What `threads` threads do in a graph that is about to begin.
    pub fn of(threads: usize) -> Self {
        init_once();
        let Some(setup) = SETUP.get().filter(|s| s.yields || !s.seats.is_empty()) else { return Self::new() };
        let mut team = Self { setup: Some(setup), threads, ..Self::new() };
        team.watched = setup.yields && WATCHED.load(Relaxed) < WATCHED_GRAPHS;
        if team.watched {
            WATCHED.fetch_add(1, Relaxed);
        }
        if setup.seats.is_empty() {
            return team;
        }
        if CONCURRENT.load(Relaxed) {
            pin::end(Reason::PinConcurrentGraphs);
        } else if threads > setup.seats.len() {
            stats::event_once(Reason::PinTooManyThreads);
        } else {
            team.pinned = pin::is_allowed();
        }
        if team.pinned && setup.numa == Placement::Shard {
            let nodes = setup.seats[..threads].iter().map(|seat| seat.node.unwrap_or(usize::MAX));
            team.shares = Shares::new(setup.nodes.len(), nodes);
        }
        team
    }

    /// Threads that are pinned to these nodes, with shards.
    #[cfg(test)]
    pub fn on_nodes(of_threads: &[usize]) -> Self {
        let places = of_threads.iter().map(|&node| (CpuSet::default(), CpuSet::default(), Some(node)));
        let nodes = of_threads.iter().max().map_or(0, |most| most + 1);
        let setup = Setup { nodes: (0..nodes).collect(), seats: setup::Seat::all(places), ..Setup::default() };
        let shares = Shares::new(nodes, of_threads.iter().copied());
        Self { setup: Some(Box::leak(Box::new(setup))), threads: of_threads.len(), shares, ..Self::new() }
    }

    /// Whether the threads have to call [`Self::enter`].
    #[inline]
    pub fn is_attentive(&self) -> bool {
        self.setup.is_some()
    }

    /// To be called by thread `ith` at its first product of a graph.
    #[cold]
    pub fn enter(&self, ith: usize) {
        let Some(setup) = self.setup else { return };
        if self.watched && pin::is_moved_by_program(setup) && !YIELDED.swap(true, Relaxed) {
            stats::event_once(Reason::NumaPlacedElsewhere);
        }
        if self.pinned || pin::has_begun() {
            pin::enter(setup, setup.cpus(ith, self.threads).filter(|_| self.pinned));
        }
    }

    /// The node of thread `ith`, numbered as in [`Self::shares`], and its number among that node's threads.
    #[inline]
    pub fn place(&self, ith: usize) -> (usize, usize) {
        self.setup.and_then(|s| s.seats.get(ith).and_then(|seat| Some((seat.node?, seat.rank)))).unwrap_or_default()
    }
}

/// To be called when a graph has ended, by the thread that started it.
#[inline]
pub fn leave() {
    if pin::has_begun() {
        SETUP.get().into_iter().for_each(pin::leave);
    }
}

/// To be called when a graph begins while another one runs: their threads would share CPUs.
pub fn concurrent() {
    CONCURRENT.store(true, Relaxed);
}

/// Tells which threads compute these matrices, which are weights. To be called before a graph with
/// [`Team::shares`] runs.
pub fn weights_seen(matrices: Matrices, shares: &Shares) {
    SEEN.add(matrices, shares);
}

/// The policy in force.
fn placement() -> Option<(&'static Setup, Placement)> {
    let setup = SETUP.get()?;
    if REFUSED.load(Relaxed) || YIELDED.load(Relaxed) {
        return None;
    }
    match setup.numa {
        Placement::Off => None,
        Placement::Shard if !pin::is_allowed() => Some((setup, Placement::Interleave)),
        other => Some((setup, other)),
    }
}

/// The policy for a page, 2 MiB or larger, that holds the weights which the program has at `weights`. Each page is asked for by itself.
///
/// Any thread may call this at any time; it takes a search in the weights seen, under a short lock.
fn policy_for(weights: usize, page: &Range<usize>) -> Policy {
    match placement() {
        None => Policy::Default,
        Some((setup, placement)) => policy_of(setup, placement, &SEEN, weights, page),
    }
}

fn policy_of(setup: &Setup, placement: Placement, seen: &Seen, weights: usize, page: &Range<usize>) -> Policy {
    let len = page.len();
    let in_turn = || setup.nodes[page.start / len.max(HUGE_PAGE) % setup.nodes.len()];
    Policy::Preferred(match placement {
        Placement::Off => return Policy::Default,
        Placement::Local(node) => node,
        Placement::Interleave => in_turn(),
        // A page that holds rows of two nodes, or the ends of two tensors, goes by its middle.
        Placement::Shard => seen.node_at(weights + len / 2).map_or_else(in_turn, |n| setup.nodes[n]),
    })
}

/// The policy for a large buffer that is not weights: KV cache, activations, anything that all threads
/// read and write. Default before [`init_once`] was called.
pub fn buffer_policy() -> Policy {
    match placement() {
        None => Policy::Default,
        Some((_, Placement::Local(node))) => Policy::Preferred(node),
        Some((setup, _)) => Policy::Interleave(setup.nodes.iter().copied().collect()),
    }
}

/// Whether pages are placed at all, so that each has to be touched by itself.
pub fn is_active() -> bool {
    placement().is_some()
}

/// Runs `touch`, which makes the memory of the page that will hold the weights at `weights`, under the policy
/// of that page. The policy is the calling thread's for that time, which must be one of the
/// shim's own: a policy of the memory would cut a mapping that is to be moved into pieces. Two system
/// calls, or none. A failure is counted and `touch` runs all the same; once the kernel refuses, nothing is
/// tried any more.
pub fn on_its_node<T>(weights: usize, page: &Range<usize>, touch: impl FnOnce() -> T) -> T {
    let policy = policy_for(weights, page);
    if policy == Policy::Default {
        return touch();
    }
    let placed = settled(numa::set_thread_policy(policy), policy, page.len());
    let result = touch();
    if placed {
        // The policy that every process starts with; nothing else touches new memory in this thread.
        let _ = numa::set_thread_policy(Policy::Default);
    }
    result
}

/// Keeps pages that were made by [`on_its_node`] where they are: the kernel's NUMA balancing, which most
/// distributions have on, moves pages of memory without a policy of its own to where they were read
/// last. To be called once for a whole mapping, which stays in one piece; nothing is moved. One system call, or
/// none.
pub fn keep(memory: usize, len: usize) {
    let policy = buffer_policy();
    if policy != Policy::Default && numa::apply(memory, len, policy).is_err() {
        FAILED.fetch_add(1, Relaxed);
    }
}

/// Sets the policy of a buffer of [`buffer_policy`] that is not touched yet. One system call, or none;
/// failures as with [`on_its_node`].
pub fn place_buffer(memory: usize, len: usize) {
    let policy = buffer_policy();
    if policy != Policy::Default {
        settled(numa::apply(memory, len, policy), policy, len);
    }
}

/// Has the page cache that the calling thread fills lie on all nodes in turn, where weights do. The thread is one of the shim's own.
pub fn place_thread() {
    let policy = buffer_policy();
    if policy != Policy::Default && numa::set_thread_policy(policy).is_err() {
        FAILED.fetch_add(1, Relaxed);
    }
}

/// Whether weights in large buffers are moved to the nodes whose threads compute them: with shard. Interleaved buffers lie as they should.
pub fn moves_buffers() -> bool {
    matches!(placement(), Some((_, Placement::Shard)))
}

/// Moves the pages of weights in a range, of at most 2 MiB and of a buffer of ours, to the node that computes them. One system call, or
/// none; failures as with [`on_its_node`].
pub fn move_to_its_node(range: Range<usize>) {
    let policy = policy_for(range.start, &range);
    let (start, end) = (range.start.next_multiple_of(SMALL_PAGE), range.end & !(SMALL_PAGE - 1));
    if policy != Policy::Default && start < end {
        settled(numa::move_to(start, end - start, policy), policy, end - start);
    }
}

/// Whether buffers are placed on NUMA nodes.
pub fn places_buffers() -> bool {
    buffer_policy() != Policy::Default
}

/// Counts what became of a policy; true when the kernel took it.
fn settled(result: std::io::Result<()>, policy: Policy, len: usize) -> bool {
    match (&result, policy) {
        (Ok(()), Policy::Preferred(node)) => drop(PLACED[node].fetch_add(len as u64, Relaxed)),
        (Ok(()), _) => drop(INTERLEAVED.fetch_add(len as u64, Relaxed)),
        (Err(e), _) => {
            FAILED.fetch_add(1, Relaxed);
            if matches!(e.raw_os_error(), Some(libc::EPERM | libc::ENOSYS)) {
                REFUSED.store(true, Relaxed);
                stats::event_once(Reason::NumaRefused);
            }
        }
    }
    result.is_ok()
}

/// What the statistics say.
pub struct Report {
    /// The placement that was decided, `off` when none was.
    pub mode: &'static str,
    /// Where weights are placed.
    pub nodes: Vec<usize>,
    /// Bytes placed on each node, those that were interleaved, and calls that failed.
    pub placed: Vec<(usize, u64)>,
    pub interleaved: u64,
    pub failed: u64,
    /// Threads that there are places for, 0 when threads are not pinned, and how often one was moved.
    pub seats: usize,
    pub moved: u64,
}

/// The state of this process.
pub fn report() -> Report {
    let setup = SETUP.get();
    let in_force = placement();
    let nodes = setup.map(|s| s.nodes.clone()).unwrap_or_default();
    Report {
        mode: match in_force {
            None => "off",
            Some((_, Placement::Interleave)) => "interleave",
            Some((setup, _)) => setup.name(),
        },
        placed: nodes.iter().map(|&n| (n, PLACED[n].load(Relaxed))).collect(),
        nodes,
        interleaved: INTERLEAVED.load(Relaxed),
        failed: FAILED.load(Relaxed),
        seats: setup.filter(|_| pin::is_allowed()).map_or(0, |s| s.seats.len()),
        moved: pin::moved(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup(nodes: &[usize]) -> Setup {
        Setup { nodes: nodes.to_vec(), ..Setup::default() }
    }

    #[test]
    fn interleaved_pages_take_turns_whatever_their_size() {
        let setup = setup(&[0, 2, 3]);
        for len in [HUGE_PAGE, 1 << 30] {
            let of = |page: usize| {
                policy_of(&setup, Placement::Interleave, &Seen::new(), 0, &(page * len..(page + 1) * len))
            };
            let nodes: Vec<_> = (0..6).map(of).collect();
            assert_eq!(nodes, [0, 2, 3, 0, 2, 3].map(Policy::Preferred));
        }
    }

    #[test]
    fn sharded_pages_lie_where_most_of_their_rows_are_computed() {
        let setup = setup(&[0, 1]);
        let seen = Seen::new();
        let shares = Shares::new(2, [0, 1].into_iter()).unwrap();
        // 10 MiB of rows from the middle of a page on: 5 MiB for each node, from 1 and from 6 MiB on.
        let rows = Matrices { start: HUGE_PAGE / 2, rows: 10 << 10, row_bytes: 1 << 10, count: 1, stride: 0 };
        seen.add(rows, &shares);
        let of = |page: usize| {
            let range = page * HUGE_PAGE..(page + 1) * HUGE_PAGE;
            policy_of(&setup, Placement::Shard, &seen, range.start, &range)
        };
        let nodes: Vec<_> = (0..6).map(of).collect();
        assert_eq!(nodes, [0, 0, 0, 1, 1, 1].map(Policy::Preferred), "of page 5 less than half is known");
        assert_eq!([6, 7].map(of), [0, 1].map(Policy::Preferred), "what nobody computes takes turns");
    }

    #[test]
    fn local_and_off() {
        let of = |placement| policy_of(&setup(&[1]), placement, &Seen::new(), 0, &(0..HUGE_PAGE));
        assert_eq!(of(Placement::Local(1)), Policy::Preferred(1));
        assert_eq!(of(Placement::Off), Policy::Default);
    }

    #[test]
    fn a_test_program_has_decided_nothing() {
        assert_eq!(policy_for(0, &(0..HUGE_PAGE)), Policy::Default);
        assert_eq!(buffer_policy(), Policy::Default);
        assert!(!Team::new().is_attentive());
    }
}
