//! Every knob is read as it says it is.

use super::*;

fn parse(vars: &[(&str, &str)]) -> Config {
    Config::from_vars(vars.iter().map(|&(n, v)| (n.into(), v.into())))
}

#[test]
fn nothing_set_is_the_default() {
    assert_eq!(parse(&[("PATH", "/bin"), ("ZEN5", "1")]), Config::default());
    for knob in KNOBS {
        assert_eq!(knob.value(&Config::default()), knob.default, "{}", knob.name);
        assert!(!knob.help.is_empty() && !knob.help.contains('\n'));
    }
}

#[test]
fn every_word_is_understood_and_said_back() {
    for (name, words) in [
        ("ZEN5TURBO", "0 1"),
        ("ZEN5TURBO_GATE", "strict passthrough off"),
        ("ZEN5TURBO_KERNELS", "auto avx512 avx2 scalar off"),
        ("ZEN5TURBO_ATTENTION", "auto off"),
        ("ZEN5TURBO_F16", "exact bf16"),
        ("ZEN5TURBO_REPACK", "auto keep off"),
        ("ZEN5TURBO_PREFETCH", "auto off pages cache"),
        ("ZEN5TURBO_NUMA", "auto interleave shard local off"),
        ("ZEN5TURBO_PIN", "auto cores off"),
        ("ZEN5TURBO_THREADS", "auto off 1 512"),
        ("ZEN5TURBO_BARRIER", "auto off"),
        ("ZEN5TURBO_HUGEPAGES", "auto thp 2m 1g off"),
        ("ZEN5TURBO_LOG", "off info debug"),
        ("ZEN5TURBO_LIVE", "on off"),
    ] {
        let knob = KNOBS.iter().find(|k| k.name == name).unwrap();
        for word in words.split(' ') {
            let config = parse(&[(name, word)]);
            assert_eq!(knob.value(&config), word);
            assert!(config.complaints.is_empty());
            assert!(knob.allowed.contains(word), "{name}: {word}");
        }
    }
    assert!(!parse(&[("ZEN5TURBO", "0")]).enabled);
}

#[test]
fn a_bad_value_is_one_line_and_the_default() {
    let config = parse(&[("ZEN5TURBO_GATE", "Strict"), ("ZEN5TURBO_KERNELS", "avx2")]);
    assert_eq!(config.gate, GateMode::Strict);
    assert_eq!(config.kernels, KernelChoice::Avx2);
    assert_eq!(
        config.complaints,
        ["ZEN5TURBO_GATE=Strict is not allowed: it must be strict, passthrough or off; \
          using the default, strict"]
    );
}

#[test]
fn a_list_of_cpus_keeps_its_order_and_names_each_once() {
    let config = parse(&[("ZEN5TURBO_PIN", "8,0-2")]);
    assert_eq!(config.pin, Pin::List(vec![8, 0, 1, 2]));
    let knob = KNOBS.iter().find(|k| k.name == "ZEN5TURBO_PIN").unwrap();
    assert_eq!(knob.value(&config), "8,0,1,2");
    for bad in ["0,0", "3-1", "first", "0-", "-1", " ", "9999"] {
        let config = parse(&[("ZEN5TURBO_PIN", bad)]);
        assert_eq!((config.pin, config.complaints.len()), (Pin::Auto, 1), "{bad}");
    }
}

#[test]
fn an_unknown_variable_is_named() {
    let config = parse(&[("ZEN5TURBO_KERNEL", "avx2"), ("ZEN5TURBOX", "1")]);
    assert_eq!(config.complaints.len(), 1);
    assert!(config.complaints[0].starts_with("ZEN5TURBO_KERNEL is not a variable"));
}

/// It is no knob: a user is not told of it.
#[test]
fn the_identity_of_the_cpu_can_be_replaced_in_tests() {
    let config = parse(&[("ZEN5TURBO_TEST_CPU", "AuthenticAMD:1A:02")]);
    assert_eq!(config.test_cpu, Identity::parse("AuthenticAMD:1A:02"));
    assert!(config.test_cpu.is_some() && config.complaints.is_empty());
    assert!(KNOBS.iter().all(|knob| knob.name != TEST_CPU));
    let config = parse(&[("ZEN5TURBO_TEST_CPU", "Zen 5")]);
    assert!(config.test_cpu.is_none() && config.complaints[0].contains("VENDOR:FAMILY:MODEL"), "{config:?}");
}

/// No knob either.
#[test]
fn a_panic_can_be_asked_for_in_tests() {
    let config = parse(&[("ZEN5TURBO_TEST_PANIC", "product")]);
    assert!(config.test_panic == Some(Fault::Product) && config.complaints.is_empty());
    assert!(KNOBS.iter().all(|knob| knob.name != TEST_PANIC));
    let config = parse(&[("ZEN5TURBO_TEST_PANIC", "yes")]);
    assert!(config.test_panic.is_none() && config.complaints[0].contains("plan, product"), "{config:?}");
}

#[test]
fn an_empty_value_is_not_set() {
    let names: Vec<_> = KNOBS.iter().map(|k| (k.name, "")).collect();
    assert_eq!(parse(&names), Config::default());
}

#[test]
fn a_relative_path_is_fixed_at_the_start() {
    let config = parse(&[("ZEN5TURBO_STATS", "out.json")]);
    assert_eq!(config.stats, Some(std::env::current_dir().unwrap().join("out.json")));
    let config = parse(&[("ZEN5TURBO_STATS", "/tmp/s.%p.json")]);
    assert_eq!(config.stats, Some("/tmp/s.%p.json".into()));
    let config = parse(&[("ZEN5TURBO_TUNE", "tune.txt")]);
    assert_eq!(config.tune, Tune::File(std::env::current_dir().unwrap().join("tune.txt")));
}

#[test]
fn the_size_of_the_cache_prefetch_can_be_chosen() {
    let knob = KNOBS.iter().find(|k| k.name == "ZEN5TURBO_PREFETCH").unwrap();
    let config = parse(&[("ZEN5TURBO_PREFETCH", "cache:65536")]);
    assert_eq!(config.prefetch.cache_bytes(), 65536);
    assert_eq!(knob.value(&config), "cache:65536");
    for bad in ["cache:", "cache:0", "cache:-1", "cache:4194305", "cache:64K", "pages:1"] {
        let config = parse(&[("ZEN5TURBO_PREFETCH", bad)]);
        assert_eq!(config.prefetch, Prefetch::Auto, "{bad}");
        assert_eq!(config.complaints.len(), 1, "{bad}");
    }
}

#[test]
fn a_threshold_is_a_word_or_a_number_of_bytes() {
    for (name, field) in
        [("ZEN5TURBO_MALLOC", (|c| c.malloc) as fn(&Config) -> Threshold), ("ZEN5TURBO_MEMCPY", |c| c.memcpy)]
    {
        let knob = KNOBS.iter().find(|k| k.name == name).unwrap();
        for (value, meaning) in [("off", Threshold::Off), ("auto", Threshold::Auto), ("65536", Threshold::Bytes(65536))]
        {
            let config = parse(&[(name, value)]);
            assert_eq!((field(&config), knob.value(&config)), (meaning, value.to_owned()));
        }
        for bad in ["65535", "1M", "-1", "99999999999999999999"] {
            assert_eq!(parse(&[(name, bad)]).complaints.len(), 1, "{bad}");
        }
    }
}

#[test]
fn the_calibration_file_can_be_named_or_switched_off() {
    let knob = KNOBS.iter().find(|k| k.name == "ZEN5TURBO_TUNE").unwrap();
    for (value, tune) in [("", Tune::Default), ("off", Tune::Off), ("/a/off", Tune::File("/a/off".into()))] {
        let config = parse(&[("ZEN5TURBO_TUNE", value)]);
        assert_eq!(config.tune, tune);
        assert_eq!(knob.value(&config), value);
    }
}

#[test]
fn the_cache_folder_is_the_one_of_the_environment() {
    let cache = |vars: &[(&str, &str)]| parse(vars).cache;
    assert_eq!(cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), Some("/x".into()));
    for xdg in ["", "relative"] {
        assert_eq!(cache(&[("XDG_CACHE_HOME", xdg), ("HOME", "/h")]), Some("/h/.cache".into()));
    }
    assert_eq!(cache(&[("HOME", "")]), None);
    assert_eq!(cache(&[]), None);
}
