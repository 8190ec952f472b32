//! Every knob is read as it says it is.

use super::*;

fn parse(vars: &[(&str, &str)]) -> Config {
    Config::from_vars(vars.iter().map(|&(n, v)| (n.into(), v.into())))
}

#[test]
fn nothing_set_is_the_default() {
    assert_eq!(parse(&[("PATH", "/bin"), ("ZEN5", "1")]), Config::default());
    for knob in KNOBS.iter().chain(TEST_KNOBS) {
        let default = knob.default();
        assert!(default.is_empty() || knob.allows(default.as_ref()), "{}={default}", knob.name);
        assert!(!knob.help.is_empty() && !knob.help.contains('\n') && !knob.help.ends_with('.'), "{}", knob.name);
        assert!(knob.details.is_empty() || knob.details.ends_with('.'), "{}", knob.name);
    }
}

#[test]
fn every_word_is_understood_and_said_back() {
    for knob in KNOBS.iter().chain(TEST_KNOBS) {
        for Word { word, help } in knob.words {
            let config = parse(&[(knob.name, word)]);
            assert_eq!(knob.value(&config), *word);
            assert!(config.complaints.is_empty() && !help.is_empty(), "{}: {word}", knob.name);
        }
        assert!(!knob.words.is_empty() || knob.other.is_some(), "{} accepts nothing", knob.name);
    }
    assert!(!parse(&[("ZEN5TURBO", "0")]).enabled);
    let words = "auto, avx512, avx512-256, avx2, scalar, exact or off";
    assert_eq!(find("ZEN5TURBO_KERNELS".as_ref()).unwrap().allowed(), words);
}

#[test]
fn exact_kernels_leave_the_number_of_threads_alone_unless_it_is_set() {
    assert_eq!(parse(&[("ZEN5TURBO_KERNELS", "exact")]).threads, Threads::Off);
    let both = [("ZEN5TURBO_KERNELS", "exact"), ("ZEN5TURBO_THREADS", "3")];
    assert_eq!(parse(&both).threads, Threads::AtMost(3));
}

/// The command makes an option of a name; docs/settings.md and the help of the command go by groups.
#[test]
fn a_name_is_there_once_and_groups_are_together() {
    let all: Vec<&Knob> = KNOBS.iter().chain(TEST_KNOBS).collect();
    for (i, knob) in all.iter().enumerate() {
        assert!(is_ours(knob.name.as_ref()) && all[..i].iter().all(|other| other.name != knob.name), "{}", knob.name);
        let before = all[..i].iter().rposition(|other| other.group == knob.group);
        assert!(before.is_none_or(|before| before + 1 == i), "{} is apart from its group", knob.name);
    }
}

#[test]
fn a_bad_value_is_one_line_and_the_default() {
    let config = parse(&[("ZEN5TURBO_GATE", "Strict"), ("ZEN5TURBO_KERNELS", "avx2")]);
    assert_eq!(config.gate, GateMode::Strict);
    assert_eq!(config.kernels, KernelChoice::Avx2);
    assert_eq!(config.complaints.len(), 1);
    let complaint = &config.complaints[0];
    assert_eq!(
        complaint.to_string(),
        "ZEN5TURBO_GATE=Strict is not allowed: it must be strict, passthrough or off; using the default, strict"
    );
    assert_eq!(
        (complaint.name.as_str(), complaint.expected.as_str()),
        ("ZEN5TURBO_GATE", "strict, passthrough or off")
    );
}

#[test]
fn a_list_of_cpus_keeps_its_order_and_names_each_once() {
    let config = parse(&[("ZEN5TURBO_PIN", "8,0-2")]);
    assert_eq!(config.pin, Pin::List(vec![8, 0, 1, 2]));
    let knob = find("ZEN5TURBO_PIN".as_ref()).unwrap();
    assert_eq!(knob.value(&config), "8,0,1,2");
    for bad in ["0,0", "3-1", "first", "0-", "-1", " ", "9999"] {
        let config = parse(&[("ZEN5TURBO_PIN", bad)]);
        assert_eq!((config.pin, config.complaints.len()), (Pin::Auto, 1), "{bad}");
    }
}

#[test]
fn a_list_of_operations_names_those_that_are_known() {
    use zen5turbo_kernels::ops::Operation;

    let config = parse(&[("ZEN5TURBO_OPS", "mul,gated_delta_net")]);
    assert!(config.ops.have(Operation::Mul) && config.ops.have(Operation::GatedDeltaNet));
    assert!(!config.ops.have(Operation::Add));
    let knob = find("ZEN5TURBO_OPS".as_ref()).unwrap();
    assert_eq!(knob.value(&config), "mul,gated_delta_net");
    for bad in ["MUL", "mul,", "mul, add", "mul_mat", ","] {
        let config = parse(&[("ZEN5TURBO_OPS", bad)]);
        assert_eq!((config.ops, config.complaints.len()), (Ops::Auto, 1), "{bad}");
    }
    for operation in Operation::ALL {
        let name = operation.name().to_ascii_lowercase();
        assert!(knob.details.contains(&name), "{name} is not in the details");
        assert!(parse(&[("ZEN5TURBO_OPS", &name)]).ops.have(operation));
    }
}

#[test]
fn an_unknown_variable_is_named() {
    let config = parse(&[("ZEN5TURBO_KERNEL", "avx2"), ("ZEN5TURBOX", "1")]);
    assert_eq!(config.complaints.len(), 1);
    assert!(config.complaints[0].to_string().starts_with("ZEN5TURBO_KERNEL is not a variable"));
    assert!(parse(&[("ZEN5TURBO_DEPS", "/deps")]).complaints.is_empty());
}

/// It is no knob: a user is not told of it.
#[test]
fn the_identity_of_the_cpu_can_be_replaced_in_tests() {
    let config = parse(&[("ZEN5TURBO_TEST_CPU", "AuthenticAMD:1A:02")]);
    assert_eq!(config.test_cpu, Identity::parse("AuthenticAMD:1A:02"));
    assert!(config.test_cpu.is_some() && config.complaints.is_empty());
    assert!(KNOBS.iter().all(|knob| knob.name != TEST_CPU));
    let config = parse(&[("ZEN5TURBO_TEST_CPU", "Zen 5")]);
    assert!(config.test_cpu.is_none(), "{config:?}");
    let line = config.complaints[0].to_string();
    assert!(line.contains("VENDOR:FAMILY:MODEL") && line.ends_with("; it is ignored"), "{line}");
}

/// No knob either.
#[test]
fn a_panic_can_be_asked_for_in_tests() {
    let config = parse(&[("ZEN5TURBO_TEST_PANIC", "product")]);
    assert!(config.test_panic == Some(Fault::Product) && config.complaints.is_empty());
    assert!(KNOBS.iter().all(|knob| knob.name != TEST_PANIC));
    let config = parse(&[("ZEN5TURBO_TEST_PANIC", "yes")]);
    assert!(config.test_panic.is_none(), "{config:?}");
    assert!(config.complaints[0].expected.contains("plan, product"), "{config:?}");
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

/// It prefetched weights into caches, which gained nothing (docs/experiments.md).
#[test]
fn a_value_that_is_gone_is_a_bad_value() {
    for gone in ["cache", "cache:65536"] {
        let config = parse(&[("ZEN5TURBO_PREFETCH", gone)]);
        assert_eq!((config.prefetch, config.complaints.len()), (Prefetch::Auto, 1), "{gone}");
        assert_eq!(config.complaints[0].expected, "auto, off or pages");
    }
}

#[test]
fn a_threshold_is_a_word_or_a_number_of_bytes() {
    for (name, field) in
        [("ZEN5TURBO_MALLOC", (|c| c.malloc) as fn(&Config) -> Threshold), ("ZEN5TURBO_MEMCPY", |c| c.memcpy)]
    {
        let knob = find(name.as_ref()).unwrap();
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
    let knob = find("ZEN5TURBO_TUNE".as_ref()).unwrap();
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
