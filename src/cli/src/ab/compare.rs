//! Arms against the better of stock: what `ab` may say of llama-bench and of llama-server.

use super::arm::Role;
use crate::statistics::{Better, Comparison, Verdict, better_of};

/// What the arms showed in one quantity.
#[derive(Debug)]
pub struct Compared {
    /// The better of stock, an arm.
    pub reference: usize,
    /// Stock again over stock.
    pub noise: Option<Comparison>,
    /// Each arm over the reference; `None` for those that are not compared.
    pub arms: Vec<Option<Comparison>>,
}

/// Compares the arms, which have these roles. `values` are those of each arm, in the order of the pairs. `None` when no arm
/// of stock has values.
pub fn compare(roles: &[Role], values: &[Vec<f64>], better: Better, confidence: f64) -> Option<Compared> {
    let again = roles.iter().enumerate().find_map(|(arm, role)| match role {
        Role::Again(of) => Some((arm, *of)),
        _ => None,
    });
    let noise =
        again.and_then(|(again, of)| Comparison::of_pairs(&values[again], &values[of], None, better, confidence));
    let stock: Vec<usize> = (0..roles.len()).filter(|&arm| roles[arm] == Role::Stock).collect();
    let lists: Vec<&[f64]> = stock.iter().map(|&arm| values[arm].as_slice()).collect();
    let reference = stock[better_of(&lists, better)?];
    let band = noise.as_ref().and_then(|noise| noise.interval.as_ref());
    let over = |arm: usize| Comparison::of_pairs(&values[arm], &values[reference], band, better, confidence);
    let arms = (0..roles.len()).map(|arm| if roles[arm] == Role::Compared { over(arm) } else { None }).collect();
    Some(Compared { reference, noise, arms })
}

/// What may be said of a comparison, in words; `better` and `worse` say the difference, if there is one.
pub fn words(verdict: Verdict, better: &'static str, worse: &'static str) -> &'static str {
    match verdict {
        Verdict::NoDifference => "no difference that these runs support",
        Verdict::WithinNoise => "no difference that these runs support (stock against itself varies as much)",
        Verdict::TooFewPairs => "too few pairs to say",
        Verdict::Better => better,
        Verdict::Worse => worse,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arms_are_compared_with_the_better_of_stock_and_stock_with_itself() {
        let roles = [Role::Stock, Role::Stock, Role::Compared, Role::Again(1)];
        let around = |middle: f64| (0..6).map(|i| middle + f64::from(i) * 0.01).collect::<Vec<_>>();
        let values = [around(10.0), around(12.0), around(8.0), around(12.0)];
        let lower = compare(&roles, &values, Better::Lower, 0.95).unwrap();
        assert_eq!(lower.reference, 0);
        assert_eq!(lower.arms.iter().map(Option::is_some).collect::<Vec<_>>(), [false, false, true, false]);
        assert_eq!(lower.arms[2].as_ref().unwrap().verdict, Verdict::Better);
        assert!((lower.noise.unwrap().median - 1.0).abs() < 1e-9);
        let higher = compare(&roles, &values, Better::Higher, 0.95).unwrap();
        assert_eq!(higher.reference, 1);
        assert_eq!(higher.arms[2].as_ref().unwrap().verdict, Verdict::Worse);
        assert!(compare(&roles, &[vec![], vec![], vec![], vec![]], Better::Lower, 0.95).is_none());
    }
}
