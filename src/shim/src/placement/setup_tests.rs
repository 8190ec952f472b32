//! Checks the decisions on invented machines.

use std::cell::Cell;
use std::fs;

use tempfile::TempDir;

use super::*;

/// A machine of sysfs files; `asked` counts questions that take a system call.
struct Fake {
    sysfs: TempDir,
    affinity: &'static str,
    allowed: &'static str,
    default: Option<bool>,
    asked: Cell<usize>,
}

impl Fake {
    fn new(nodes: &[&str], online: &str, affinity: &'static str) -> Self {
        let sysfs = TempDir::new().unwrap();
        let file = |name: &str, text: &str| {
            let path = sysfs.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        file("cpu/online", online);
        file("node/online", &format!("0-{}", nodes.len() - 1));
        for (id, cpus) in nodes.iter().enumerate() {
            file(&format!("node/node{id}/cpulist"), cpus);
        }
        Self { sysfs, affinity, allowed: "0-63", default: Some(true), asked: Cell::new(0) }
    }

    fn two_nodes() -> Self {
        Self::new(&["0-3", "4-7"], "0-7", "0-7")
    }

    fn ask<T>(&self, answer: T) -> T {
        self.asked.set(self.asked.get() + 1);
        answer
    }
}

impl Machine for Fake {
    fn topology(&self) -> Option<Topology> {
        Topology::read(self.sysfs.path())
    }

    fn affinity(&self) -> Option<CpuSet> {
        self.ask(CpuSet::parse(self.affinity))
    }

    fn allowed_nodes(&self) -> Option<NodeMask> {
        self.ask(NodeMask::parse(self.allowed))
    }

    fn policy_is_default(&self) -> Option<bool> {
        self.ask(self.default)
    }

    fn current_node(&self) -> Option<usize> {
        self.ask(Some(1))
    }
}

#[test]
fn on_one_node_nothing_is_done_or_asked() {
    let machine = Fake::new(&["0-7"], "0-7", "0-7");
    for numa in [Numa::Auto, Numa::Interleave, Numa::Shard, Numa::Local, Numa::Off] {
        for pin in [Pin::Auto, Pin::Off] {
            assert_eq!(decide(numa, &pin, &machine), Setup::default());
        }
    }
    assert_eq!(machine.asked.get(), 0);
}

#[test]
fn with_two_nodes_auto_interleaves_and_pins_nothing() {
    let setup = decide(Numa::Auto, &Pin::Auto, &Fake::two_nodes());
    assert_eq!((setup.numa, setup.yields), (Placement::Interleave, true));
    assert_eq!(setup.nodes, [0, 1]);
    assert!(setup.seats.is_empty() && setup.reasons.is_empty());
    assert!(!decide(Numa::Interleave, &Pin::Auto, &Fake::two_nodes()).yields);
}

#[test]
fn auto_leaves_alone_what_others_placed() {
    let decided = |machine: Fake| {
        let setup = decide(Numa::Auto, &Pin::Auto, &machine);
        assert_eq!(setup.numa, Placement::Off);
        setup.reasons
    };
    let policy = |default| Fake { default, ..Fake::two_nodes() };
    assert_eq!(decided(policy(Some(false))), [Reason::NumaPlacedElsewhere]);
    assert_eq!(decided(policy(None)), [Reason::NumaRefused]);
    assert_eq!(decided(Fake { affinity: "0-3", ..Fake::two_nodes() }), [Reason::NumaPlacedElsewhere]);
    assert_eq!(decided(Fake { allowed: "0", ..Fake::two_nodes() }), [Reason::NumaPlacedElsewhere]);
    // A word of the user counts more than a policy of the process.
    assert_eq!(decide(Numa::Interleave, &Pin::Auto, &policy(Some(false))).numa, Placement::Interleave);
}

#[test]
fn shard_pins_threads_in_turn_on_both_nodes() {
    let setup = decide(Numa::Shard, &Pin::Auto, &Fake::two_nodes());
    assert_eq!(setup.numa, Placement::Shard);
    let nodes: Vec<_> = setup.seats.iter().map(|seat| seat.node).collect();
    assert_eq!(nodes, [0, 1, 0, 1, 0, 1, 0, 1].map(Some));
    let cpus = |ith, threads| setup.cpus(ith, threads).map(CpuSet::to_string);
    assert_eq!(cpus(1, 8).as_deref(), Some("4"), "all cores are filled");
    assert_eq!(cpus(1, 4).as_deref(), Some("4-7"), "there is room to move");
    assert_eq!(cpus(8, 9), None);
}

#[test]
fn shard_without_pinning_becomes_interleave() {
    let setup = decide(Numa::Shard, &Pin::Off, &Fake::two_nodes());
    assert_eq!((setup.numa, setup.yields), (Placement::Interleave, false));
    assert_eq!(setup.reasons, [Reason::ShardNeedsPinning]);
}

#[test]
fn local_is_the_node_of_the_caller() {
    assert_eq!(decide(Numa::Local, &Pin::Auto, &Fake::two_nodes()).numa, Placement::Local(1));
    let elsewhere = Fake { allowed: "0", ..Fake::two_nodes() };
    let setup = decide(Numa::Local, &Pin::Auto, &elsewhere);
    assert_eq!((setup.numa, setup.reasons), (Placement::Off, vec![Reason::TopologyUnknown]));
}

#[test]
fn cores_are_those_of_the_affinity() {
    let machine = Fake::new(&["0-7"], "0-7", "2-4");
    let setup = decide(Numa::Auto, &Pin::Cores, &machine);
    let cpus: Vec<_> = (0..4).map(|i| setup.cpus(i, 2).map(CpuSet::to_string)).collect();
    assert_eq!(cpus, [Some("2".into()), Some("3".into()), Some("4".into()), None]);
    assert_eq!(setup.numa, Placement::Off);
}

#[test]
fn a_list_is_taken_in_its_order_or_not_at_all() {
    let list = |cpus: &[usize]| decide(Numa::Shard, &Pin::List(cpus.to_vec()), &Fake::two_nodes());
    let setup = list(&[5, 0, 1]);
    let nodes: Vec<_> = setup.seats.iter().map(|seat| (seat.core.to_string(), seat.node)).collect();
    assert_eq!(nodes, [("5".into(), Some(1)), ("0".into(), Some(0)), ("1".into(), Some(0))]);
    assert_eq!(setup.cpus(0, 1).map(CpuSet::to_string).as_deref(), Some("5"));
    let setup = list(&[0, 8]);
    assert!(setup.seats.is_empty());
    assert_eq!(setup.reasons, [Reason::PinCpuNotAllowed, Reason::ShardNeedsPinning]);
    assert_eq!(setup.numa, Placement::Interleave);
}

#[test]
fn a_machine_that_does_not_tell_is_left_alone() {
    let machine = Fake::two_nodes();
    fs::remove_file(machine.sysfs.path().join("cpu/online")).unwrap();
    for (numa, pin) in [(Numa::Auto, Pin::Auto), (Numa::Shard, Pin::Cores), (Numa::Off, Pin::List(vec![0]))] {
        let setup = decide(numa, &pin, &machine);
        assert_eq!((setup.numa, setup.reasons), (Placement::Off, vec![Reason::TopologyUnknown]));
        assert!(setup.seats.is_empty());
    }
}
