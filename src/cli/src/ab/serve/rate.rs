//! The search for the highest rate at which a server keeps its bounds.

use anyhow::Result;

/// Rates that are tried: so many in each doubling, so that neighbours are 9 % apart.
const PER_DOUBLING: f64 = 8.0;

/// How far the search goes up from the first rate: 32 times as high.
const UP: i32 = 40;

/// How far it goes down: an eighth. The first rate is near what the server can do at most, so at an eighth of that nobody
/// waits for anybody, and a bound that does not hold there holds nowhere. Low rates take long.
const DOWN: i32 = 24;

/// The rate of a step, requests a second. The steps are the same for all arms.
pub fn of_step(step: i32) -> f64 {
    2f64.powf(f64::from(step) / PER_DOUBLING)
}

/// The step whose rate is nearest.
pub fn nearest_step(rate: f64) -> i32 {
    (PER_DOUBLING * rate.max(1e-6).log2()).round() as i32
}

/// What the search found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Highest {
    /// The bounds hold at this step, and not at the next one.
    Step(i32),
    /// They hold at the highest step that was tried: the load is too small to tell.
    Beyond(i32),
    /// They hold at no step.
    None,
}

/// The highest step at which `holds`, tried from `first` on: in growing strides until a step that holds and one that does
/// not are found, then half-way between the two. No step is tried twice.
///
/// # Errors
/// Those of `holds`.
pub fn highest(first: i32, mut holds: impl FnMut(i32) -> Result<bool>) -> Result<Highest> {
    let up = holds(first)?;
    let (mut good, mut bad) = if up { (Some(first), None) } else { (None, Some(first)) };
    let mut stride = 1;
    while good.is_none() || bad.is_none() {
        let step = match (good, bad) {
            (Some(good), _) => (good + stride).min(first + UP),
            (None, bad) => (bad.unwrap_or(first) - stride).max(first - DOWN),
        };
        match (holds(step)?, step - first) {
            (true, UP) => return Ok(Highest::Beyond(step)),
            (true, _) => good = Some(step),
            (false, distance) if distance == -DOWN => return Ok(Highest::None),
            (false, _) => bad = Some(step),
        }
        stride *= 2;
    }
    let (mut good, mut bad) = (good.unwrap_or(first), bad.unwrap_or(first));
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        if holds(middle)? { good = middle } else { bad = middle }
    }
    Ok(Highest::Step(good))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer, and the steps that were tried.
    fn search(first: i32, limit: i32) -> (Highest, Vec<i32>) {
        let mut tried = Vec::new();
        let found = highest(first, |step| {
            assert!(!tried.contains(&step), "{step} twice: {tried:?}");
            tried.push(step);
            Ok(step <= limit)
        });
        (found.unwrap(), tried)
    }

    #[test]
    fn the_highest_step_is_found_from_everywhere_with_few_tries() {
        for first in -20..20 {
            for limit in first - DOWN..first + UP {
                let (found, tried) = search(first, limit);
                assert_eq!(found, Highest::Step(limit), "from {first}");
                assert!(tried.len() <= 12, "from {first} to {limit}: {tried:?}");
            }
        }
        assert_eq!(search(8, 8).1, [8, 9], "two tries from the right step");
        assert_eq!(search(8, 7).1, [8, 7]);
    }

    #[test]
    fn a_search_that_finds_no_end_says_so() {
        assert_eq!(search(0, 1000).0, Highest::Beyond(UP));
        assert_eq!(search(0, -1000).0, Highest::None);
        assert_eq!(search(0, -DOWN).0, Highest::Step(-DOWN));
    }

    #[test]
    fn a_server_that_is_noisy_ends_the_search_at_a_step_that_held() {
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..1000 {
            let mut held = Vec::new();
            let found = highest(0, |step| {
                let holds = f64::from(step) + 6.0 * random.f64() < 10.0;
                held.extend(holds.then_some(step));
                Ok(holds)
            });
            match found.unwrap() {
                Highest::Step(step) => assert!(held.contains(&step)),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn an_error_ends_the_search() {
        assert!(highest(0, |_| anyhow::bail!("the server died")).is_err());
    }

    #[test]
    fn steps_and_rates_belong_together() {
        for step in -30..30 {
            assert_eq!(nearest_step(of_step(step)), step);
        }
        assert_eq!((of_step(0), of_step(8)), (1.0, 2.0));
        assert!(nearest_step(0.0) < -100, "a rate of nothing is a number");
    }
}
