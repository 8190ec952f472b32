use proptest::prelude::*;

use super::*;

const HEAD: &str = "zen5turbo-tune 1\ncpu AMD  EPYC 7003\nggml 0.9.4\ntier avx2\n";
const HEAD_2: &str = "zen5turbo-tune 2\ncpu AMD  EPYC 7003\nggml 0.9.4 abc avx2\ntier avx2\n";
const HEAD_3: &str = "zen5turbo-tune 3\ncpu AMD  EPYC 7003\nggml 0.9.4 abc avx2\ntier avx2\n";
const HEAD_4: &str = "zen5turbo-tune 4\ncpu AMD  EPYC 7003\nggml 0.9.4 abc avx2\ntier avx2\n";

fn good(text: &str) -> Calibration {
    let mut file = parse(text).unwrap();
    assert_eq!(file.calibrations.len(), 1);
    file.calibrations.remove(0)
}

fn measured(weight: WeightType, regime: Regime, choice: Choice, ours: u64, plain: u64) -> Measured {
    Measured { weight, regime, choice, ours, plain, repacked: None }
}

#[test]
fn a_complete_file_is_understood() {
    let text = format!(
        "{HEAD_4}\n# by hand\nwidth  256\ncopies 1.03\nmade  on a Monday\nq4_K 1 ours 103 121 99\n  Q8_0\t3-4  stock 9 8 - \n"
    );
    let parsed = good(&(text + "f16 many ours 1 2 -"));
    assert_eq!((parsed.cpu.as_str(), parsed.ggml.as_str()), ("AMD EPYC 7003", "0.9.4 abc avx2"));
    assert_eq!((parsed.isa, parsed.width), (Isa::Avx2, Some(Width::Narrow)));
    assert_eq!((parsed.copies, parsed.made.as_deref()), (Some(103), Some("on a Monday")));
    assert_eq!(
        parsed.measured,
        [
            Measured { repacked: Some(99), ..measured(WeightType::Q4K, Regime::One, Choice::Ours, 103, 121) },
            measured(WeightType::Q8_0, Regime::Four, Choice::Stock, 9, 8),
            measured(WeightType::F16, Regime::Many, Choice::Ours, 1, 2),
        ]
    );
    assert_eq!(parsed.measured.iter().map(Measured::rival).collect::<Vec<_>>(), [99, 8, 2]);
    assert!(good(HEAD_4).measured.is_empty());
}

#[test]
fn the_gain_of_copies_has_up_to_two_decimals() {
    let cases = [("1.03", 103), ("1", 100), ("1.0", 100), ("1.1", 110), ("0.97", 97), ("12.50", 1250), ("99.99", 9999)];
    for (text, hundredths) in cases {
        assert_eq!(good(&format!("{HEAD_4}copies  {text} \n")).copies, Some(hundredths), "{text}");
    }
}

#[test]
fn a_file_of_version_3_has_no_gain_of_copies() {
    let parsed = good(&format!("{HEAD_3}ahead 4096\nq4_K 1 ours 103 121 99\n"));
    assert_eq!((parsed.cut.ahead, parsed.copies, parsed.measured.len()), (Some(4096), None, 1));
}

#[test]
fn a_file_of_version_2_has_no_repacked_times() {
    let parsed = good(&format!("{HEAD_2}width 512\nq4_K 1 ours 103 121\n"));
    assert_eq!(parsed.width, Some(Width::Wide));
    assert_eq!(parsed.measured, [measured(WeightType::Q4K, Regime::One, Choice::Ours, 103, 121)]);
}

#[test]
fn a_file_of_version_1_is_understood() {
    let parsed = good(&format!("{HEAD}q4_K 1 103 121\n Q8_0\t2-16  104 100\nf16 many 102 100"));
    assert_eq!(parsed.ggml, "0.9.4");
    assert_eq!((parsed.width, &parsed.made), (None, &None));
    let few = [Regime::Two, Regime::Four, Regime::Eight, Regime::Sixteen];
    let mut expected = vec![measured(WeightType::Q4K, Regime::One, Choice::Ours, 103, 121)];
    expected.extend(few.map(|regime| measured(WeightType::Q8_0, regime, Choice::Stock, 104, 100)));
    expected.push(measured(WeightType::F16, Regime::Many, Choice::Ours, 102, 100));
    assert_eq!(parsed.measured, expected);
}

#[test]
fn in_version_1_the_original_must_be_faster_by_more_than_two_percent() {
    let choice = |ours: u64, stock: u64| good(&format!("{HEAD}q4_0 1 {ours} {stock}\n")).measured[0].choice;
    for (ours, stock) in [(100, 100), (1, 1_000_000), (1020, 1000), (u64::MAX, u64::MAX), (1, u64::MAX)] {
        assert_eq!(choice(ours, stock), Choice::Ours, "{ours} {stock}");
    }
    assert_eq!(choice(1021, 1000), Choice::Stock);
    assert_eq!(choice(u64::MAX, u64::MAX / 2), Choice::Stock);
}

#[test]
fn each_line_cpu_begins_a_calibration() {
    let text = format!(
        "{HEAD_2}q4_0 1 ours 1 2\n\ncpu B\nggml 1\ntier scalar\nq4_0 1 stock 2 1\ncpu B\nggml 2\ntier scalar\n"
    );
    let file = parse(&text).unwrap();
    let of = |c: &Calibration| (c.cpu.clone(), c.ggml.clone(), c.measured.len());
    let all: Vec<_> = file.calibrations.iter().map(of).collect();
    let expected = [("AMD EPYC 7003", "0.9.4 abc avx2", 1), ("B", "1", 1), ("B", "2", 0)];
    assert_eq!(all, expected.map(|(cpu, ggml, n)| (cpu.to_owned(), ggml.to_owned(), n)));
    let message = complaint(&format!("{text}cpu B\nggml 1\ntier scalar\n"));
    assert_eq!(message, "line 14: found `cpu B`, expected only one calibration for the same `cpu`, `ggml` and `tier`");
}

#[test]
fn line_ends_of_windows_change_nothing() {
    for text in [format!("{HEAD}# note\nq4_K 1 103 121\n"), format!("{HEAD_2}# note\nq4_K 1 ours 103 121\n")] {
        assert_eq!(parse(&text.replace('\n', "\r\n")), parse(&text));
    }
}

/// The message for a file whose text is `text`.
fn complaint(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn a_first_line_of_another_kind_is_named() {
    const EXPECTED: &str = "expected `zen5turbo-tune 1`, `zen5turbo-tune 2`, `zen5turbo-tune 3` or `zen5turbo-tune 4`";
    assert_eq!(complaint(""), format!("line 1: found an empty line, {EXPECTED}"));
    for first in ["zen5turbo-tune 5", "zen5turbo-tune", "zen5turbo-tune 10", "# zen5turbo-tune 1", "{}"] {
        assert_eq!(complaint(&format!("{first}\ncpu A\n")), format!("line 1: found `{first}`, {EXPECTED}"));
    }
}

#[test]
fn a_bad_line_is_named_with_what_was_expected() {
    const WORDS: &str = "`<type> <regime> <our ns> <original's ns>`";
    const WORDS_2: &str = "`<type> <regime> <ours|stock> <our ns> <original's ns>`";
    const WORDS_3: &str = "`<type> <regime> <ours|stock> <our ns> <plain ns> <repacked ns|->`";
    let both =
        [("cpu B", "this line only once"), ("ggml 1", "this line only once"), ("tier avx2", "this line only once")];
    let of_1 = [
        ("q4_K 1 103", WORDS),
        ("q4_K 1 103 121 # note", WORDS),
        ("q4_K 1 ours 103 121", WORDS),
        ("width 512", WORDS),
        ("q4_K", WORDS),
        ("q9_K 1 103 121", "one of the types q4_0, q4_1,"),
        ("q4_K 2 103 121", "one of the regimes 1, 2-16, many"),
        ("q4_K 1 0 121", "times in whole nanoseconds, from 1 to 18446744073709551615"),
        ("q4_K 1 103 1e3", "times in whole nanoseconds"),
        ("q4_K 1 103 1.5", "times in whole nanoseconds"),
        ("q4_K 1 -103 121", "times in whole nanoseconds"),
        ("q4_K 1 +103 121", "times in whole nanoseconds"),
        ("q4_K 1 103 18446744073709551616", "times in whole nanoseconds"),
        ("q4_K 1 103 \u{fffd}", "times in whole nanoseconds"),
        ("Q8_0 many 5 6", "only one line for q8_0 many"),
    ];
    let of_2 = [
        ("q4_K 1 103 121", WORDS_2),
        ("q4_K 2-16 ours 103 121", "one of the regimes 1, 2, 3-4, 5-8, 9-16, many"),
        ("q4_K 1 mine 103 121", "one of the choices ours, stock"),
        ("q4_K 1 ours 103 0", "times in whole nanoseconds"),
        ("Q8_0 many stock 5 6", "only one line for q8_0 many"),
        ("width 128", "`width` with one of 512, 256"),
        ("panel 4095", "`panel` with bytes from 4096 to 1048576"),
        ("panel +8192", "`panel` with bytes from 4096 to 1048576"),
        ("prefetch 1048577", "`prefetch` with bytes from 0 to 1048576"),
        ("made", "a value, or `-` when there is none"),
    ];
    let of_3 = [
        ("q4_K 1 ours 103 121", WORDS_3),
        ("q4_K 1 ours 103 121 99 1", WORDS_3),
        ("q4_K 1 ours 103 121 0", "times in whole nanoseconds"),
        ("q4_K 1 ours 103 121 --", "times in whole nanoseconds"),
        ("q4_K 1 ours 103 - 99", "times in whole nanoseconds"),
        ("q4_K 1 repacked 103 121 99", "one of the choices ours, stock"),
        ("Q8_0 many stock 5 6 -", "only one line for q8_0 many"),
        ("ahead 1048577", "`ahead` with bytes from 0 to 1048576"),
        ("copies 1.03", WORDS_3),
    ];
    let of_4 = [
        "copies",
        "copies 0",
        "copies 0.00",
        "copies 100",
        "copies 1.",
        "copies .5",
        "copies 1.034",
        "copies 1,03",
        "copies -1.03",
        "copies 1.+3",
        "copies 1.03 1.04",
        "copies 42949673.00",
    ]
    .map(|line| (line, "`copies` with a ratio from 0.01 to 99.99"));
    let twice = [("q4_K 1 ours 103 121", WORDS_3), ("Q8_0 many stock 5 6 -", "only one line for q8_0 many")];
    let first = format!("{HEAD}# first\nq8_0 many 1 2\n");
    let second = format!("{HEAD_2}# first\nq8_0 many ours 1 2\n");
    let third = format!("{HEAD_3}# first\nq8_0 many ours 1 2 -\n");
    let fourth = format!("{HEAD_4}# first\nq8_0 many ours 1 2 -\n");
    let cases = of_1.iter().chain(&both).map(|case| (&first, case));
    let cases = cases.chain(of_2.iter().map(|case| (&second, case))).chain(of_3.iter().map(|case| (&third, case)));
    let cases = cases.chain(of_4.iter().chain(&twice).map(|case| (&fourth, case)));
    for (head, (line, expected)) in cases {
        let message = complaint(&format!("{head}{line}\nq5_0 1 1 1\n"));
        assert!(message.starts_with(&format!("line 7: found `{line}`, expected {expected}")), "{message}");
    }
    for (line, expected) in &both[1..] {
        let message = complaint(&format!("{second}{line}\n"));
        assert!(message.ends_with(&format!("expected {expected}")), "{message}");
    }
}

#[test]
fn the_machine_stands_before_the_measurements_and_is_complete() {
    let before = "the lines `cpu`, `ggml` and `tier`";
    for version in [1, 2, 3, 4] {
        let head = format!("zen5turbo-tune {version}");
        let message = complaint(&format!("{head}\ncpu A\nggml 1\nq4_0 1 1 1\ntier avx2\n"));
        assert_eq!(message, format!("line 4: found `q4_0 1 1 1`, expected {before} before the first measurement"));
        for text in [head.clone(), format!("{head}\n")] {
            assert_eq!(complaint(&text), format!("line 2: found the end of the file, expected {before}"));
        }
        assert!(complaint(&format!("{head}\ncpu A\ntier avx2\n\n")).starts_with("line 5: found the end"));
        for line in ["cpu", "ggml  "] {
            let message = complaint(&format!("{head}\n{line}\n"));
            assert!(message.ends_with("expected a value, or `-` when there is none"), "{message}");
        }
        let message = complaint(&format!("{head}\ntier avx\n"));
        let tiers = "scalar, avx2, avx512vnni-256, avx512vnni";
        assert_eq!(message, format!("line 2: found `tier avx`, expected `tier` with one of {tiers}"));
        let message = complaint(&format!("{head}\ncpu A\ncpu B\n"));
        assert_eq!(message, "line 3: found `cpu B`, expected this line only once");
    }
}

#[test]
fn a_long_line_is_not_repeated_whole() {
    let message = complaint(&format!("{HEAD}{}\n", "é".repeat(5000)));
    assert!(message.starts_with("line 5: found `ééé") && message.len() < 300, "{message}");
}

#[test]
fn any_text_is_answered_without_a_panic() {
    let text = format!(
        "{HEAD_4}width 512\ncopies 1.03\nq4_K 1 ours 103 121 99\ncpu B\nggml 1\ntier avx2\nq8_0 many stock 1 2 -\n"
    );
    for end in 0..text.len() {
        let _ = parse(&text[..end]);
        for garbage in ["\0", "\r", "\u{2028}", " ", "#", "18446744073709551616"] {
            let _ = parse(&format!("{}{garbage}{}", &text[..end], &text[end..]));
        }
    }
}

#[test]
fn a_file_of_absurd_size_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tune.txt");
    std::fs::write(&path, vec![b'#'; MAX_BYTES as usize]).unwrap();
    assert_eq!(read(&path).unwrap().len() as u64, MAX_BYTES);
    std::fs::write(&path, vec![b'#'; MAX_BYTES as usize + 1]).unwrap();
    assert!(read(&path).unwrap_err().to_string().contains("larger than 256 KiB"));
    assert!(read(folder.path()).is_err() && read(Path::new("/dev/zero")).is_err());
}

fn any_calibration() -> impl Strategy<Value = Calibration> {
    let one_of = |n: usize| 0..n;
    let times = (1..=u64::MAX, 1..=u64::MAX, prop::option::of(1..=u64::MAX));
    let line = (one_of(WeightType::ALL.len()), one_of(6), any::<bool>(), times);
    let words = "[!-~]{1,9}( [!-~]{1,9}){0,3}";
    let width = prop::option::of(prop::sample::select(&Width::ALL[..]));
    let ahead = || prop::option::of(0_usize..=1 << 20);
    let blocking = (prop::option::of(4096_usize..=1 << 20), ahead(), ahead(), prop::option::of(1_usize..=512));
    let remarks = (prop::option::of(1_u32..=9999), prop::option::of(words));
    (words, words, one_of(4), width, blocking, remarks, prop::collection::vec(line, 0..40)).prop_map(
        |(cpu, ggml, isa, width, (panel, prefetch, ahead, threads), (copies, made), lines)| {
            let mut list: Vec<Measured> = Vec::new();
            for (weight, regime, ours_wins, (ours, plain, repacked)) in lines {
                let choice = if ours_wins { Choice::Ours } else { Choice::Stock };
                let new = measured(WeightType::ALL[weight], Regime::ALL[regime], choice, ours, plain);
                let _ = add(&mut list, Measured { repacked, ..new });
            }
            let isa = Isa::ALL[isa];
            let cut = Cut { panel, prefetch, ahead };
            Calibration { cpu, ggml, isa, width, cut, threads, copies, made, measured: list }
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(calibrations in prop::collection::vec(any_calibration(), 1..5)) {
        let mut file = TuneFile { calibrations: Vec::new() };
        for calibration in calibrations {
            file.put(calibration);
        }
        prop_assert_eq!(parse(&file.to_string()), Ok(file));
    }

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,200}") {
        let _ = parse(&text);
        let _ = parse(&format!("{HEAD_4}{text}"));
    }
}
