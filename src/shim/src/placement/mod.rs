//! NUMA nodes and CPUs: on which NUMA node weights lie, and on which CPUs the threads run that read them.
//!
//! On a machine with one NUMA node this folder reads the topology and does nothing else. With several, `ZEN5TURBO_NUMA`
//! decides:
//!
//! - *interleave* puts the huge pages of the weights in turn on all NUMA nodes.
//! - *shard* divides the rows of every matrix among the NUMA nodes ([`Shares`]). The rows of a node lie in its memory,
//!   and only its threads compute them.
//!
//! [`setup`] decides once, [`pin`] pins threads to CPUs, and [`weights`] knows which rows belong to which NUMA node.
//!
//! A page gets its NUMA node before it is first touched, from the thread that makes it: see [`on_its_node`].

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
pub use weights::{Matrices, Seen};

/// The smallest page that is placed by its own address.
pub const HUGE_PAGE: usize = 2 << 20;

/// In this many graphs, with `auto`, each thread checks whether the program has changed its affinity.
const WATCHED_GRAPHS: u32 = 8;

static SETUP: OnceLock<Setup> = OnceLock::new();
static SEEN: Seen = Seen::new();

/// Set when the kernel has refused to place memory.
static REFUSED: AtomicBool = AtomicBool::new(false);

/// Set when the program pins its threads itself, so that `auto` places nothing.
static YIELDED: AtomicBool = AtomicBool::new(false);

/// Set when two graphs have run at the same time.
static CONCURRENT: AtomicBool = AtomicBool::new(false);

static WATCHED: AtomicU32 = AtomicU32::new(0);

/// Bytes placed on each NUMA node.
static PLACED: [AtomicU64; MAX_NODES] = [const { AtomicU64::new(0) }; MAX_NODES];
/// Bytes interleaved over several NUMA nodes.
static INTERLEAVED: AtomicU64 = AtomicU64::new(0);
/// Calls that failed.
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
        // A seccomp filter may kill the program for this system call, and for all calls that would follow.
        if seccomp::is_filtered() { None } else { numa::thread_policy_is_default().ok() }
    }

    fn current_node(&self) -> Option<usize> {
        cpuset::current_node().ok()
    }
}

/// Decides, at the first call, how memory and threads of this process are placed. It reads files and allocates, so it
/// must not be called in malloc. Before the first call, every other function here does nothing.
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

/// How the threads of a graph are placed. It is the same for all of them, and does not change while the graph runs.
#[derive(Default)]
pub struct Team {
    setup: Option<&'static Setup>,
    threads: usize,
    pinned: bool,
    watched: bool,
    /// With shard: how rows are divided among NUMA nodes.
    pub shares: Option<Shares>,
}

impl Team {
    /// A team that is not placed.
    pub const fn new() -> Self {
        Self { setup: None, threads: 0, pinned: false, watched: false, shares: None }
    }

    /// The team of `threads` threads for a graph that is about to begin.
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

    /// A team with shares, whose threads are on these NUMA nodes.
    #[cfg(test)]
    pub fn on_nodes(of_threads: &[usize]) -> Self {
        let places = of_threads.iter().map(|&node| (CpuSet::default(), CpuSet::default(), Some(node)));
        let nodes = of_threads.iter().max().map_or(0, |most| most + 1);
        let setup = Setup { nodes: (0..nodes).collect(), seats: setup::Seat::all(places), ..Setup::default() };
        let shares = Shares::new(nodes, of_threads.iter().copied());
        Self { setup: Some(Box::leak(Box::new(setup))), threads: of_threads.len(), shares, ..Self::new() }
    }

    /// Whether the threads must call [`Self::enter`].
    #[inline]
    pub fn is_attentive(&self) -> bool {
        self.setup.is_some()
    }

    /// Thread `ith` calls this at its first product of a graph, to be pinned.
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

    /// The NUMA node of thread `ith`, numbered as in [`Self::shares`], and the thread's number among the threads of
    /// that node.
    #[inline]
    pub fn place(&self, ith: usize) -> (usize, usize) {
        self.setup.and_then(|s| s.seats.get(ith).and_then(|seat| Some((seat.node?, seat.rank)))).unwrap_or_default()
    }
}

/// The thread that started a graph calls this when the graph has ended.
#[inline]
pub fn leave() {
    if pin::has_begun() {
        SETUP.get().into_iter().for_each(pin::leave);
    }
}

/// Called when a graph begins while another one runs. Pinned threads of both would share CPUs.
pub fn concurrent() {
    CONCURRENT.store(true, Relaxed);
}

/// Notes how the rows of these weights are divided among NUMA nodes. Called before a graph with [`Team::shares`] runs.
pub fn weights_seen(matrices: Matrices, shares: &Shares) {
    SEEN.add(matrices, shares);
}

/// The placement that is used now; `None` for none.
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

/// The policy for a page, of 2 MiB or more, that holds a copy of the weights at the program's address `weights`. Each
/// page has its own policy.
///
/// Any thread may call this at any time. It searches the known weights under a short lock.
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
        // A page may hold rows of two NUMA nodes, or parts of two tensors. The row in its middle decides.
        Placement::Shard => seen.node_at(weights + len / 2).map_or_else(in_turn, |n| setup.nodes[n]),
    })
}

/// The policy for a large buffer that all threads read and write, such as KV cache and activations. `Default` before
/// [`init_once`] was called.
pub fn buffer_policy() -> Policy {
    match placement() {
        None => Policy::Default,
        Some((_, Placement::Local(node))) => Policy::Preferred(node),
        Some((setup, _)) => Policy::Interleave(setup.nodes.iter().copied().collect()),
    }
}

/// Whether pages are placed, so that each page must be touched under its own policy.
pub fn is_active() -> bool {
    placement().is_some()
}

/// Runs `touch`, which makes the memory of the page that will hold the weights at `weights`, under the policy of that
/// page.
///
/// The calling thread has this policy while `touch` runs, so it must be a thread of the shim. A policy of the memory
/// itself would split the mapping into many. This makes two system calls, or none. A failure is counted, and `touch`
/// runs in any case. After the kernel has refused once, no policy is set any more.
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

/// Keeps pages that were made by [`on_its_node`] on their NUMA nodes. Most distributions enable the kernel's NUMA
/// balancing, which moves pages of memory without a policy to the NUMA node that last read them. So this sets a policy,
/// once for a whole mapping, which stays in one piece. No page is moved. This makes one system call, or none.
pub fn keep(memory: usize, len: usize) {
    let policy = buffer_policy();
    if policy != Policy::Default && numa::apply(memory, len, policy).is_err() {
        FAILED.fetch_add(1, Relaxed);
    }
}

/// Sets [`buffer_policy`] for a buffer that is not touched yet. This makes one system call, or none. Failures are
/// handled as in [`on_its_node`].
pub fn place_buffer(memory: usize, len: usize) {
    let policy = buffer_policy();
    if policy != Policy::Default {
        settled(numa::apply(memory, len, policy), policy, len);
    }
}

/// Lets the page cache that the calling thread fills lie on the same NUMA nodes as the weights. The thread must be one
/// of the shim.
pub fn place_thread() {
    let policy = buffer_policy();
    if policy != Policy::Default && numa::set_thread_policy(policy).is_err() {
        FAILED.fetch_add(1, Relaxed);
    }
}

/// Whether weights in large buffers are moved to the NUMA nodes whose threads compute them. This is the case with shard
/// only; otherwise the buffers are interleaved from the start.
pub fn moves_buffers() -> bool {
    matches!(placement(), Some((_, Placement::Shard)))
}

/// Moves the pages of a range to the NUMA node whose threads compute their weights. The range has at most 2 MiB and
/// lies in a buffer of this library. This makes one system call, or none. Failures are handled as in [`on_its_node`].
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

/// Counts the result of setting a policy. Returns true when the kernel accepted it.
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

/// The placement, for the statistics.
pub struct Report {
    /// The placement that is used; `off` for none.
    pub mode: &'static str,
    /// The NUMA nodes on which weights are placed.
    pub nodes: Vec<usize>,
    /// Bytes placed on each NUMA node.
    pub placed: Vec<(usize, u64)>,
    /// Bytes that were interleaved.
    pub interleaved: u64,
    /// Calls that failed.
    pub failed: u64,
    /// How many threads can be pinned; 0 when threads are not pinned.
    pub seats: usize,
    /// How often a thread was moved.
    pub moved: u64,
}

/// The placement of this process, for the statistics.
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
