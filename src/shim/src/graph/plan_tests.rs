//! Checks that the threads together compute every panel of a product once.

use super::*;
use crate::graph::execute::claim_pieces::claim_pieces;

/// How often every panel is computed when `nth` threads reach a product in this order, and each of them takes `at_once`
/// pieces at a time, of a cut into `each` pieces for each thread.
fn computed(plan: &Plan, nth: usize, panels: usize, order: &[usize], [at_once, each]: [usize; 2]) -> Vec<u8> {
    let tiles = Tiles::new(1, 4);
    let of_all = Pieces::cut(0..panels, tiles, 1, plan.threads, each);
    let node = &plan.nodes[0];
    let mut threads: Vec<_> = order
        .iter()
        .map(|&ith| match plan.share(node, ith, nth, panels) {
            None => (of_all, claim_pieces(ith, nth, of_all.count, &node.next.0)),
            Some(Share { panels, rank, threads, next }) => {
                let pieces = Pieces::cut(panels, tiles, 1, threads, each);
                (pieces, claim_pieces(rank, threads, pieces.count, next))
            }
        })
        .collect();
    let mut counts = vec![0; panels];
    while !threads.is_empty() {
        threads.retain_mut(|(pieces, turns)| {
            let mut taken = 0;
            for i in turns.take(at_once) {
                pieces.get(i).1.for_each(|panel| counts[panel] += 1);
                taken += 1;
            }
            taken == at_once
        });
    }
    counts
}

#[test]
fn every_panel_is_computed_once_whoever_comes_when_and_however_few_come() {
    let teams: [&[usize]; 6] = [&[0], &[0, 1], &[0, 1, 0], &[1, 0, 0, 0, 2], &[0, 0, 1, 1, 1, 0, 1], &[1; 4]];
    for team in teams {
        for nth in 1..=team.len() {
            for panels in [1, 2, 5, 31, 200] {
                for take in [[1, 8], [3, 8], [usize::MAX, 8], [1, 1], [usize::MAX, 1]] {
                    let mut order: Vec<_> = (0..nth).collect();
                    for _ in 0..2 {
                        let mut plan = Plan::new();
                        plan.threads = team.len();
                        plan.team = Team::on_nodes(team);
                        plan.nodes.push(Node {
                            op: std::ptr::null(),
                            kind: MatrixOp::MulMat,
                            ty: 0,
                            decision: Err(Reason::OpNotSupported),
                            weights: 0..0,
                            place: None,
                            next: Padded::default(),
                            number: 0,
                        });
                        let nodes = plan.team.shares.expect("shares").nodes;
                        plan.next_of_nodes.resize_with(nodes, Padded::default);
                        let counts = computed(&plan, nth, panels, &order, take);
                        assert!(counts.iter().all(|&n| n == 1), "{team:?} {nth} {panels} {take:?}: {counts:?}");
                        order.reverse();
                    }
                }
            }
        }
    }
}
