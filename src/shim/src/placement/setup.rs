//! Decides once how memory and threads of this process are placed on NUMA nodes and CPUs.

use zen5turbo_host::cpuset::CpuSet;
use zen5turbo_host::numa::NodeMask;
use zen5turbo_host::topology::Topology;

use crate::config::{Numa, Pin};
use crate::reason::Reason;

/// The CPUs to which a thread can be pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// The CPUs of one core, or one CPU of the user's list.
    pub core: CpuSet,
    /// The allowed CPUs that share its last-level cache.
    pub domain: CpuSet,
    /// The position of its NUMA node in [`Setup::nodes`]; `None` if no weights are placed there.
    pub node: Option<usize>,
    /// The number of seats before this one on the same NUMA node: the thread's number among the threads of the node.
    pub rank: usize,
}

impl Seat {
    /// Seats with these values of core, domain and node, in this order.
    pub fn all(places: impl Iterator<Item = (CpuSet, CpuSet, Option<usize>)>) -> Vec<Self> {
        let mut seats: Vec<Self> = Vec::new();
        for (core, domain, node) in places {
            let rank = seats.iter().filter(|other| other.node == node).count();
            seats.push(Seat { core, domain, node, rank });
        }
        seats
    }
}

/// The decision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Setup {
    /// The placement of weights.
    pub numa: Placement,
    /// Whether `auto` has chosen it. Then nothing is placed if the program pins its threads.
    pub yields: bool,
    /// The NUMA nodes on which weights are placed.
    pub nodes: Vec<usize>,
    /// Thread `i` is pinned to seat `i`; empty when threads are not pinned.
    pub seats: Vec<Seat>,
    /// Whether each thread always has its own core. If not, it has one only when the threads fill all cores.
    pub cores_only: bool,
    /// The CPUs that the process may use.
    pub affinity: CpuSet,
    /// The reasons why something that is possible, or that the user asks for, is not done.
    pub reasons: Vec<Reason>,
}

/// Where weights are placed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// Where the kernel puts them.
    #[default]
    Off,
    /// In turn on all NUMA nodes.
    Interleave,
    /// On the NUMA node whose threads compute them.
    Shard,
    /// On this NUMA node.
    Local(usize),
}

/// Questions to the machine. Each is asked only when its answer is needed.
pub trait Machine {
    fn topology(&self) -> Option<Topology>;
    fn affinity(&self) -> Option<CpuSet>;
    fn allowed_nodes(&self) -> Option<NodeMask>;
    /// Whether no memory policy is set; `None` when the kernel does not say.
    fn policy_is_default(&self) -> Option<bool>;
    fn current_node(&self) -> Option<usize>;
}

/// Decides from the settings `ZEN5TURBO_NUMA` and `ZEN5TURBO_PIN`, and from the machine.
pub fn decide(numa: Numa, pin: &Pin, machine: &impl Machine) -> Setup {
    let pin_asked = matches!(pin, Pin::Cores | Pin::List(_));
    let mut setup = Setup::default();
    if numa == Numa::Off && !pin_asked {
        return setup;
    }
    let Some(topology) = machine.topology() else {
        setup.reasons.push(Reason::TopologyUnknown);
        return setup;
    };
    if topology.nodes.len() < 2 && !pin_asked {
        return setup;
    }
    let Some(affinity) = machine.affinity() else {
        setup.reasons.push(Reason::TopologyUnknown);
        return setup;
    };
    setup.affinity = affinity;
    if topology.nodes.len() > 1 && numa != Numa::Off {
        place(&mut setup, numa, &topology, machine);
    }
    let wanted = pin_asked || (setup.numa == Placement::Shard && *pin == Pin::Auto);
    if wanted {
        seat(&mut setup, pin, &topology);
    }
    if setup.numa == Placement::Shard && setup.seats.is_empty() {
        setup.numa = Placement::Interleave;
        setup.reasons.push(Reason::ShardNeedsPinning);
    }
    setup
}

/// Decides on which NUMA nodes weights are placed, on a machine with several.
fn place(setup: &mut Setup, numa: Numa, topology: &Topology, machine: &impl Machine) {
    let Some(allowed) = machine.allowed_nodes() else {
        setup.reasons.push(Reason::TopologyUnknown);
        return;
    };
    let nodes = topology.working_nodes(&setup.affinity, allowed);
    if numa == Numa::Local {
        match machine.current_node() {
            Some(node) if nodes.contains(&node) => (setup.numa, setup.nodes) = (Placement::Local(node), vec![node]),
            _ => setup.reasons.push(Reason::TopologyUnknown),
        }
        return;
    }
    if nodes.len() < 2 {
        setup.reasons.push(Reason::NumaPlacedElsewhere);
        return;
    }
    if numa == Numa::Auto {
        match machine.policy_is_default() {
            Some(true) => setup.yields = true,
            other => {
                let reason = if other.is_some() { Reason::NumaPlacedElsewhere } else { Reason::NumaRefused };
                setup.reasons.push(reason);
                return;
            }
        }
    }
    setup.numa = if numa == Numa::Shard { Placement::Shard } else { Placement::Interleave };
    setup.nodes = nodes;
}

/// Decides to which CPUs threads are pinned.
fn seat(setup: &mut Setup, pin: &Pin, topology: &Topology) {
    let position = |nodes: &[usize], id: usize| nodes.iter().position(|&n| n == id);
    if let Pin::List(cpus) = pin {
        if !cpus.iter().all(|&cpu| setup.affinity.contains(cpu)) {
            setup.reasons.push(Reason::PinCpuNotAllowed);
            return;
        }
        setup.cores_only = true;
        let node =
            |cpu| topology.nodes.iter().find(|n| n.cpus.contains(cpu)).and_then(|n| position(&setup.nodes, n.id));
        let one = |cpu: usize| std::iter::once(cpu).collect::<CpuSet>();
        setup.seats = Seat::all(cpus.iter().map(|&cpu| (one(cpu), one(cpu), node(cpu))));
        return;
    }
    setup.cores_only = *pin == Pin::Cores;
    let all: Vec<_> = topology.nodes.iter().map(|n| n.id).collect();
    // With shard, threads run only on NUMA nodes that can hold rows.
    let nodes = if setup.numa == Placement::Shard { &setup.nodes } else { &all };
    let cores = topology.spread_cores(&setup.affinity, nodes);
    setup.seats = Seat::all(cores.iter().map(|c| (c.cpus, c.domain, position(&setup.nodes, c.node))));
}

impl Setup {
    /// The CPUs for thread `ith` of `threads`.
    ///
    /// A thread has its own core if the user asks for it, and if the threads fill all cores; another process would find
    /// no free core elsewhere then. With fewer threads, a thread may move among the CPUs of its last-level cache.
    /// Otherwise two processes that begin with the same cores would wait for each other while other cores are idle.
    pub fn cpus(&self, ith: usize, threads: usize) -> Option<&CpuSet> {
        let seat = self.seats.get(ith)?;
        Some(if self.cores_only || threads >= self.seats.len() { &seat.core } else { &seat.domain })
    }

    /// The name in the statistics.
    pub fn name(&self) -> &'static str {
        match self.numa {
            Placement::Off => "off",
            Placement::Interleave => "interleave",
            Placement::Shard => "shard",
            Placement::Local(_) => "local",
        }
    }
}

#[cfg(test)]
#[path = "setup_tests.rs"]
mod tests;
