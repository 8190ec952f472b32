//! The order of runs that are compared with each other.

/// The arms in the order of their runs in pair `pair` (from 1). Every second pair mirrors the one before it, so that a
/// drift favours nobody. Each two pairs begin with the next arm.
pub fn order(pair: u32, arms: usize) -> Vec<usize> {
    let block = (pair.max(1) - 1) / 2;
    let mut order: Vec<usize> = (0..arms).map(|i| (i + block as usize) % arms).collect();
    if pair.is_multiple_of(2) {
        order.reverse();
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_off_on_on_off_and_then_the_other_way_round() {
        let runs: Vec<usize> = (1..=4).flat_map(|pair| order(pair, 2)).collect();
        assert_eq!(runs, [0, 1, 1, 0, 1, 0, 0, 1]);
    }

    #[test]
    fn every_arm_runs_once_in_a_pair_and_a_pair_mirrors_the_one_before() {
        for arms in 1..6 {
            for pair in (1..20).step_by(2) {
                let (mut a, mut b) = (order(pair, arms), order(pair + 1, arms));
                b.reverse();
                assert_eq!(a, b);
                a.sort_unstable();
                assert_eq!(a, (0..arms).collect::<Vec<_>>());
            }
        }
    }
}
