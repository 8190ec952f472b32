//! What the command line of a bench says, for what is decided before criterion reads it.

/// Options of criterion whose value is a word of its own.
const WITH_VALUE: [&str; 19] = [
    "-b",
    "-c",
    "--baseline",
    "--baseline-lenient",
    "--color",
    "--colour",
    "--confidence-level",
    "--format",
    "--load-baseline",
    "--measurement-time",
    "--noise-threshold",
    "--nresamples",
    "--output-format",
    "--plotting-backend",
    "--profile-time",
    "--sample-size",
    "--save-baseline",
    "--significance-level",
    "--warm-up-time",
];

/// Whether `args` (without the program's name) name the benchmarks to run.
pub fn has_filter(args: impl IntoIterator<Item = String>) -> bool {
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        if WITH_VALUE.contains(&arg.as_str()) {
            args.next();
        } else if !arg.starts_with('-') {
            return true;
        }
    }
    false
}

/// Whether benchmarks are to be measured, not listed or only tried: cargo passes `--bench` for that.
pub fn is_measurement(args: impl IntoIterator<Item = String>) -> bool {
    let args: Vec<String> = args.into_iter().collect();
    let has = |name: &str| args.iter().any(|arg| arg == name);
    has("--bench") && !has("--test") && !has("--list") && !has("--help")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> impl Iterator<Item = String> {
        line.split(' ').map(String::from)
    }

    #[test]
    fn a_filter_is_a_word_that_is_no_option_and_no_value_of_one() {
        assert!(has_filter(words("--bench q4_K/avx2")));
        assert!(has_filter(words("--sample-size 10 q4_K --bench")));
        assert!(!has_filter(words("--bench --sample-size 10 --save-baseline old")));
        assert!(!has_filter(words("--sample-size=10 --verbose")));
    }

    #[test]
    fn only_cargo_bench_measures() {
        assert!(is_measurement(words("--bench q4_K")));
        assert!(!is_measurement(words("q4_K")));
        assert!(!is_measurement(words("--bench --list")));
    }
}
