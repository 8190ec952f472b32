//! The environment variables, as a user meets them.

use tempfile::TempDir;
use zen5turbo_tests::{
    Fixture, MILAN, Need, Outcome, Program, ZEN5, has_avx512, llama, skip, synthetic_q4_k, tiers, work_dir,
};

struct Product {
    dir: TempDir,
}

impl Product {
    fn build() -> Self {
        let dir = work_dir();
        let _ = Fixture::new("one_product").linked_with_ggml().build(&dir, "one_product");
        Self { dir }
    }

    /// Computes one product with these variables set.
    fn with(&self, knobs: &[(&str, &str)]) -> Outcome {
        let program = Program::engaged(self.dir.path().join("one_product"));
        knobs.iter().fold(program, |p, (name, value)| p.var(name, value)).run()
    }
}

#[test]
fn a_bad_value_is_one_line_that_names_it_and_the_default_is_used() {
    let product = Product::build();
    let cases: [(&str, &str, &[&str], &str, &str); 9] = [
        ("ZEN5TURBO_KERNELS", "avx3", &["auto", "avx512", "avx512-256", "avx2", "scalar", "off"], "/kernels", "auto"),
        ("ZEN5TURBO_ATTENTION", "on", &["auto", "off"], "/config/ZEN5TURBO_ATTENTION", "auto"),
        ("ZEN5TURBO_F16", "auto", &["exact", "bf16"], "/config/ZEN5TURBO_F16", "exact"),
        ("ZEN5TURBO_REPACK", "yes", &["auto", "keep", "off"], "/config/ZEN5TURBO_REPACK", "auto"),
        ("ZEN5TURBO_PREFETCH", "cache", &["auto", "off", "pages"], "/config/ZEN5TURBO_PREFETCH", "auto"),
        ("ZEN5TURBO_LOG", "loud", &["off", "info", "debug"], "/config/ZEN5TURBO_LOG", "off"),
        ("ZEN5TURBO", "maybe", &["0 or 1"], "/config/ZEN5TURBO", "1"),
        ("ZEN5TURBO_KERNELS", "AVX2", &["avx2"], "/kernels", "auto"),
        ("ZEN5TURBO_LOG", "info\nsecond line", &["off", "info", "debug"], "/config/ZEN5TURBO_LOG", "off"),
    ];
    for (name, value, allowed, pointer, default) in cases {
        let run = product.with(&[(name, value)]).success();
        let line = run.only_line();
        let shown = value.replace('\n', "?");
        for part in [name, &shown, &format!("default, {default}")].into_iter().chain(allowed.iter().copied()) {
            assert!(line.contains(part), "{part:?} is not in {line:?}");
        }
        assert_eq!(run.stats().text(pointer), default);
        assert_eq!(run.stats().taken("MUL_MAT", Some("q4_0")), 1);
    }
}

#[test]
fn a_bad_gate_is_named_and_the_strict_one_is_used() {
    let product = Product::build();
    for (cpu, status, said) in [(ZEN5, 0, 1), (MILAN, 78, 2)] {
        let run = product.with(&[("ZEN5TURBO_GATE", "open"), ("ZEN5TURBO_TEST_CPU", cpu)]).exit(status);
        let lines = run.shim_lines();
        let parts = ["ZEN5TURBO_GATE=open", "strict", "passthrough", "off", "default, strict"];
        assert!(parts.iter().all(|part| lines[0].contains(part)), "{run}");
        assert_eq!(lines.len(), said, "{run}");
    }
}

#[test]
fn an_unknown_variable_is_named() {
    let run = Product::build().with(&[("ZEN5TURBO_KERNEL", "avx2")]).success();
    let line = run.only_line();
    assert!(line.contains("ZEN5TURBO_KERNEL is not a variable") && line.contains("ZEN5TURBO_KERNELS"), "{line}");
}

#[test]
fn every_kernel_family_of_this_cpu_can_be_chosen() {
    let product = Product::build();
    for tier in tiers() {
        let run = product.with(&[("ZEN5TURBO_KERNELS", tier.knob)]).success();
        assert_eq!(run.stats().text("/tier"), tier.name);
        assert_eq!(run.stats().taken("MUL_MAT", Some("q4_0")), 1);
        assert_eq!(run.stderr, "");
    }
}

#[test]
fn the_width_of_avx512_registers_can_be_chosen() {
    if !has_avx512() {
        return;
    }
    let product = Product::build();
    for (knob, isa) in [("avx512", "avx512vnni"), ("avx512-256", "avx512vnni-256")] {
        let run = product.with(&[("ZEN5TURBO_KERNELS", knob)]).success();
        assert_eq!(run.stats().text("/isa"), isa);
        assert_eq!(run.stats().text("/tier"), "avx512vnni");
        assert_eq!(run.stats().taken("MUL_MAT", Some("q4_0")), 1);
    }
}

#[test]
fn a_kernel_family_that_this_cpu_lacks_is_named_and_the_best_one_is_used() {
    let best = tiers().remove(0).name;
    if best == "avx512vnni" {
        return skip(Need::OldCpu, "this CPU has every kernel family");
    }
    let run = Product::build().with(&[("ZEN5TURBO_KERNELS", "avx512")]).success();
    assert!(run.only_line().contains(&format!("using {best}")), "{run}");
    assert_eq!(run.stats().text("/tier"), best);
}

#[test]
fn without_kernels_all_is_left_to_ggml() {
    let run = Product::build().with(&[("ZEN5TURBO_KERNELS", "off")]).success();
    let stats = run.stats();
    assert_eq!(stats.taken("MUL_MAT", None), 0);
    assert_eq!(stats.declined("MUL_MAT", Some("q4_0"))["kernels_off"], 1, "{stats}");
    assert_eq!(run.stderr, "");
}

#[test]
fn log_lines_are_written_on_request() {
    let product = Product::build();
    let run = product.with(&[("ZEN5TURBO_LOG", "info")]).success();
    assert!(run.shim_lines().iter().any(|line| line.contains("tier")), "{run}");
    let debug = product.with(&[("ZEN5TURBO_LOG", "debug")]).success();
    assert!(debug.shim_lines().len() > run.shim_lines().len(), "{debug}");
    assert_eq!(debug.shim_lines().len(), debug.stderr.lines().count(), "every line has the prefix\n{debug}");
}

#[test]
fn statistics_that_cannot_be_written_are_one_line() {
    let run = Product::build().with(&[("ZEN5TURBO_STATS", "/nowhere/at/all.json")]).success();
    assert!(run.only_line().contains("ZEN5TURBO_STATS=/nowhere/at/all.json"), "{run}");
}

/// llama.cpp copies Q4_K weights into a layout of its own at load, unless the shim keeps it from that.
#[test]
fn weights_stay_plain_unless_repacking_is_kept() {
    let bench = |repack: &str| {
        let program = Program::engaged(llama("llama-bench")).knob("REPACK", repack);
        program.arg("-m").arg(synthetic_q4_k()).args("-p 32 -n 2 -t 2 -r 1 --no-warmup").run().success()
    };
    for repack in ["auto", "off"] {
        let run = bench(repack);
        assert!(run.stats().taken("MUL_MAT", Some("q4_K")) > 0, "{}", run.stats());
        assert!(!run.stats().declined("MUL_MAT", None).contains_key("repacked"), "{}", run.stats());
        run.stats().assert_healthy();
    }
    let run = bench("keep");
    assert!(run.stats().declined("MUL_MAT", Some("q4_K"))["repacked"] > 0, "{}", run.stats());
    run.stats().assert_healthy();
}

#[test]
fn attention_is_left_to_ggml_on_request() {
    let bench = |attention: &str| {
        let program = Program::engaged(llama("llama-bench")).knob("ATTENTION", attention);
        program.arg("-m").arg(synthetic_q4_k()).args("-p 32 -n 2 -t 2 -r 1 --no-warmup").run().success()
    };
    let run = bench("auto");
    assert!(run.stats().taken("FLASH_ATTN_EXT", Some("f16")) > 0, "{}", run.stats());
    assert!(run.stats().declined("FLASH_ATTN_EXT", None).is_empty(), "{}", run.stats());
    let run = bench("off");
    assert_eq!(run.stats().taken("FLASH_ATTN_EXT", None), 0, "{}", run.stats());
    assert!(run.stats().declined("FLASH_ATTN_EXT", Some("f16"))["attention_off"] > 0, "{}", run.stats());
    run.stats().assert_healthy();
}
