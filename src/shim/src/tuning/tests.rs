use super::*;

const MACHINE: Machine<'_> = Machine { cpu: "A CPU", ggml: "0.9.4 abc avx2", isa: Isa::Avx2 };

/// Nothing is asked for, and 512-bit operations are split.
const HERE: Circumstances = Circumstances { path: DataPath::Split, asked: false };

fn calibrated(lines: &str) -> Loaded {
    let text = format!("zen5turbo-tune 4\ncpu A CPU\nggml 0.9.4 abc avx2\ntier avx2\n{lines}");
    Loaded { path: None, contents: Contents::File(file::parse(&text).unwrap()) }
}

/// A file in a folder of this test's own; removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("zen5turbo-tune-{name}-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    fn write(&self, bytes: &[u8]) -> PathBuf {
        let path = self.0.join("tune.txt");
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn every_type_tier_and_regime_has_an_answer_before_and_after_settling() {
    for here in [HERE, Circumstances { asked: true, ..HERE }, Circumstances { path: DataPath::Full, ..HERE }] {
        let choices = Choices::defaults(here);
        for isa in Isa::ALL {
            for weight in WeightType::ALL {
                for regime in Regime::ALL {
                    assert_eq!(choices.get(isa, weight, regime), defaults::decision(isa, weight, regime, here));
                }
            }
        }
    }
    // Tests run with any environment; nothing settles the choices here.
    assert_eq!(decline(Isa::Avx2, WeightType::Q4K, 512), None);
    let portable = (!Circumstances::here().asked).then_some(Reason::Unmeasured);
    assert_eq!(decline(Isa::Scalar, WeightType::Q4K, 1), portable);
    assert_eq!(report().1, PENDING);
}

#[test]
fn a_fitting_file_overrides_the_table_where_it_has_measured() {
    let loaded = calibrated(
        "panel 32768\nahead 8192\nq4_K many stock 103 100 120\nq4_K 3-4 ours 100 103 98\nf32 3-4 ours 1 2 -\n",
    );
    let settled = combine(&loaded, &MACHINE, HERE);
    assert_eq!(settled.status, USED);
    let built_in = Blocking::of(startup::data_path());
    assert_eq!(
        settled.blocking,
        Blocking { panel_bytes: 32768, rows: GemvPrefetch { ahead: 8192, ..built_in.rows }, ..built_in }
    );
    let get = |isa, regime| settled.choices.get(isa, WeightType::Q4K, regime);
    assert_eq!(get(Isa::Avx2, Regime::Many), Decision::Stock);
    assert_eq!(get(Isa::Avx2, Regime::Four), Decision::Ours, "repacked kernels are faster: not for plain weights");
    assert_eq!(get(Isa::Avx2, Regime::Eight), Decision::Ours, "not measured: the table's");
    assert_eq!(settled.choices.get(Isa::Avx2, WeightType::F32, Regime::Four), Decision::Ours);
    assert_eq!(settled.choices.get(Isa::Avx2, WeightType::F32, Regime::Eight), Decision::Stock);
    assert_eq!(get(Isa::Avx512, Regime::Many), Decision::Ours, "another tier");
    assert_eq!(settled.choices.get(Isa::Avx2, WeightType::Q6K, Regime::Many), Decision::Ours, "another type");
}

#[test]
fn copies_pay_where_five_percent_were_measured_on_this_cpu() {
    let gain = |lines: &str, brand| gain_of_copies(&calibrated(lines).contents, brand);
    let pays = |gain: Option<u32>| gain.is_some_and(|gain| gain >= COPIES_PAY);
    for (lines, expected) in [("copies 1.05\n", true), ("copies 1.34\n", true), ("copies 1.04\n", false), ("", false)] {
        assert_eq!(pays(gain(lines, "A CPU")), expected, "{lines}");
        assert!(!pays(gain(lines, "B CPU")), "{lines}");
    }
    for contents in [Contents::None, Contents::Unusable(Reason::TuneBadFile)] {
        assert_eq!(gain_of_copies(&contents, "A CPU"), None);
    }
}

#[test]
fn a_file_of_version_1_decides_what_the_table_does_not() {
    let text = "zen5turbo-tune 1\ncpu A CPU\nggml 0.9.4\ntier scalar\nq8_0 2-16 5 6\n";
    let loaded = Loaded { path: None, contents: Contents::File(file::parse(text).unwrap()) };
    let settled = combine(&loaded, &Machine { isa: Isa::Scalar, ..MACHINE }, HERE);
    let choices = Regime::ALL.map(|regime| settled.choices.get(Isa::Scalar, WeightType::Q8_0, regime));
    use Decision::{Ours, Unmeasured};
    assert_eq!(choices, [Unmeasured, Ours, Ours, Ours, Ours, Unmeasured]);
}

#[test]
fn without_a_usable_file_the_table_holds_and_the_status_says_why() {
    let defaults = Choices::defaults(HERE);
    let missing = Loaded { path: None, contents: Contents::None };
    let bad = Loaded { path: None, contents: Contents::Unusable(Reason::TuneBadFile) };
    let good = calibrated("q4_K many stock 103 100 -\n");
    for (loaded, machine, status) in [
        (&missing, MACHINE, "no_file"),
        (&bad, MACHINE, "tune_bad_file"),
        (&good, Machine { cpu: "B CPU", ..MACHINE }, "tune_other_cpu"),
        (&good, Machine { ggml: "0.9.5", ..MACHINE }, "tune_other_ggml"),
        (&good, Machine { isa: Isa::Avx512, ..MACHINE }, "tune_other_tier"),
    ] {
        let settled = combine(loaded, &machine, HERE);
        assert_eq!(settled.status, status);
        assert_eq!(settled.choices, defaults, "{status}");
        assert_eq!(settled.blocking, Blocking::of(startup::data_path()), "{status}");
    }
}

#[test]
fn the_file_is_looked_for_where_the_configuration_says() {
    let mut config = Config { cache: Some("/home/u/.cache".into()), ..Config::default() };
    assert_eq!(place(&config), Some("/home/u/.cache/zen5turbo/tune.txt".into()));
    config.tune = Tune::File("/a/b".into());
    assert_eq!(place(&config), Some("/a/b".into()));
    config.tune = Tune::Off;
    assert_eq!(place(&config), None);
    assert_eq!(place(&Config::default()), None);
}

#[test]
fn only_a_named_file_has_to_be_there() {
    let dir = Scratch::new("absent");
    let path = dir.0.join("tune.txt");
    assert!(matches!(read(&path, false), Contents::None));
    assert!(matches!(read(&path, true), Contents::Unusable(Reason::TuneUnreadable)));
    let below = dir.write(b"").join("zen5turbo/tune.txt");
    assert!(matches!(read(&below, false), Contents::None));
}

#[test]
fn a_file_is_read_or_refused_whole() {
    let dir = Scratch::new("contents");
    let good = b"zen5turbo-tune 1\ncpu A\nggml -\ntier avx2\nq4_0 1 1 1\n";
    assert!(matches!(read(&dir.write(good), true), Contents::File(f) if f.calibrations.len() == 1));
    for bad in [&b"zen5turbo-tune 1\ncpu A\nggml -\ntier avx2\nq4_0 1 1 \xff\n"[..], b""] {
        assert!(matches!(read(&dir.write(bad), false), Contents::Unusable(Reason::TuneBadFile)));
    }
    for unreadable in [&dir.0, Path::new("/dev/zero")] {
        assert!(matches!(read(unreadable, true), Contents::Unusable(Reason::TuneUnreadable)));
    }
}
