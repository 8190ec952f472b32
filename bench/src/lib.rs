//! What the benches and the quick table (`products`) share: memory of a known kind ([`memory`]), the
//! machine's own limits measured in the same run ([`peaks`]), one matrix product as a thing to time
//! ([`harness`]), the table that sets one against the other ([`report`]), and a first look at a bench's
//! command line ([`arguments`]).
//!
//! A figure without the machine's peak beside it cannot be compared with one from another machine,
//! or from the same machine on another day: every table here carries both.

pub mod arguments;
pub mod harness;
pub mod memory;
pub mod peaks;
pub mod report;

/// The middle of `values`, the mean of the two middle ones for an even count; 0 for none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_of_even_and_odd_counts() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
