//! ggml's own test of its operations, under the shim. Its reference runs use `use_ref`, which the
//! original must compute.
//!
//! The best kernel family of this CPU computes all matrix products, and all operations that are small. Another one computes them
//! without those of thousands of rows: how rows are shared out is the same for all families.

use std::time::Duration;

use zen5turbo_tests::{Outcome, Program, TYPES, Tier, llama, tiers, unusual_tiers, usual_tiers};

/// How many matrix products the suite of this llama.cpp has.
const PRODUCTS: u64 = 1917;

/// Two operations at a time, each of which the program computes with half the CPUs.
fn suite(op: &str, kernels: &str, only: Option<&str>) -> Outcome {
    let program = Program::engaged(llama("test-backend-ops")).knob("KERNELS", kernels).knob("OPS", "all");
    let program = program.args("test -b CPU -j 2 -o").arg(op);
    let program = only.into_iter().fold(program, |p, pattern| p.arg("-p").arg(pattern));
    program.limit(Duration::from_secs(900)).run().success()
}

fn assert_every_type_was_taken(run: &Outcome, tier: &str) {
    let stats = run.stats();
    assert_eq!(stats.text("/tier"), tier);
    for ty in TYPES {
        let (taken, declined) = (stats.taken("MUL_MAT", Some(ty)), stats.declined("MUL_MAT", Some(ty)));
        assert!(taken > 0, "{ty} was not taken over\n{stats}");
        // What the table of this tier leaves to ggml is declined for that reason in both runs.
        assert_eq!(declined.get("use_ref"), Some(&taken), "{ty}: every product is computed once with use_ref\n{stats}");
    }
    stats.assert_healthy();
}

#[test]
fn all_matrix_products_pass_and_every_supported_type_is_taken() {
    let run = suite("MUL_MAT", "auto", None);
    assert!(run.operations_passed() >= PRODUCTS, "{run}");
    assert_every_type_was_taken(&run, tiers()[0].name);
}

/// The types that are taken.
const TAKEN: &str = "type_a=(q[1-8]_|iq|tq|mxfp4|nvfp4)";

#[test]
fn matrix_products_of_the_supported_types_pass_with_every_kernel_family() {
    products_pass(usual_tiers().into_iter().skip(1), &format!("{TAKEN}.*,m=(..?.?|1000|1023|105.),"), 600);
}

#[test]
#[ignore = "nightly"]
fn all_matrix_products_of_the_supported_types_pass_with_every_kernel_family_and_portable_code() {
    products_pass(tiers().into_iter().skip(1), TAKEN, 700);
}

fn products_pass(tiers: impl IntoIterator<Item = Tier>, only: &str, least: u64) {
    for tier in tiers {
        let run = suite("MUL_MAT", tier.knob, Some(only));
        assert!(run.operations_passed() >= least, "{run}");
        assert_every_type_was_taken(&run, tier.name);
    }
}

#[test]
fn products_with_experts_pass_with_every_kernel_family() {
    products_with_experts_pass(usual_tiers());
}

#[test]
#[ignore = "nightly"]
fn products_with_experts_pass_with_portable_code() {
    products_with_experts_pass(unusual_tiers());
}

/// The larger ones take minutes; shapes of all kinds are in `operations`.
fn products_with_experts_pass(tiers: impl IntoIterator<Item = Tier>) {
    for tier in tiers {
        let run = suite("MUL_MAT_ID", tier.knob, Some("type_a=(q[1-8]_|iq|tq|mxfp4|nvfp4|f16),.*m=512,"));
        assert!(run.operations_passed() >= 100, "{run}");
        run.stats().assert_healthy();
    }
}

/// Types of the KV cache that the program knows.
const CACHE_TYPES: [&str; 9] = ["f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl"];

#[test]
fn attention_passes_with_every_kernel_family() {
    attention_passes(usual_tiers());
}

#[test]
#[ignore = "nightly"]
fn attention_passes_with_portable_code() {
    attention_passes(unusual_tiers());
}

/// Heads of usual and unusual lengths, masks, sinks, slopes, caps, views; one and several tokens. Those with more keys
/// take minutes.
fn attention_passes(tiers: impl IntoIterator<Item = Tier>) {
    for tier in tiers {
        // portable code takes seconds for one of the long ones, and has no quantised values
        let (lengths, types, least) = if tier.name == "scalar" {
            ("64|72", &CACHE_TYPES[..3], 100)
        } else {
            ("64|72|128|192|576", &CACHE_TYPES[..], 400)
        };
        let run = suite("FLASH_ATTN_EXT", tier.knob, Some(&format!("hsk=({lengths}),.*kv=113,")));
        assert!(run.operations_passed() >= least, "{run}");
        let stats = run.stats();
        for ty in types {
            let (taken, declined) =
                (stats.taken("FLASH_ATTN_EXT", Some(ty)), stats.declined("FLASH_ATTN_EXT", Some(ty)));
            assert!(taken > 0, "{ty} was not taken over\n{stats}");
            assert_eq!(declined.get("use_ref"), Some(&taken), "{ty}: each is computed once with use_ref\n{stats}");
        }
        stats.assert_healthy();
    }
}

/// The operations that are no products, as the program names them, and as the statistics do.
const OTHERS: [(&str, &str); 27] = [
    ("ADD", "ADD"),
    ("SUB", "SUB"),
    ("MUL", "MUL"),
    ("DIV", "DIV"),
    ("GEGLU", "GLU"),
    ("SWIGLU", "GLU"),
    ("SWIGLU_OAI", "GLU"),
    ("GEGLU_QUICK", "GLU"),
    ("SWIGLU_CLAMP", "GLU"),
    ("SILU", "UNARY"),
    ("GELU", "UNARY"),
    ("GELU_QUICK", "UNARY"),
    ("SIGMOID", "UNARY"),
    ("TANH", "UNARY"),
    ("RMS_NORM", "RMS_NORM"),
    // ggml fuses these two and computes them by another function than the rest.
    ("RMS_NORM_MUL_ADD", "RMS_NORM"),
    ("RMS_NORM_MUL_ROPE", "RMS_NORM"),
    ("L2_NORM", "L2_NORM"),
    ("CONCAT", "CONCAT"),
    ("SSM_CONV", "SSM_CONV"),
    ("GATED_DELTA_NET", "GATED_DELTA_NET"),
    ("GEGLU_ERF", "GLU"),
    ("GELU_ERF", "UNARY"),
    ("SOFT_MAX", "SOFT_MAX"),
    ("ARGSORT", "ARGSORT"),
    ("SSM_SCAN", "SSM_SCAN"),
    ("ROPE", "ROPE"),
];

/// The program's names for the operations that are no products.
fn others() -> String {
    OTHERS.map(|(name, _)| name).join(",")
}

/// All operations but matrix products, fused or not, attention and rotation, which are many or large.
/// (The program knows regular expressions without groups, separated by commas; one must match.)
const QUICK: &str = "^[^MFLR],^M[^U],^MUL$,^MUL_[^M],^F[^L],^FL[^A],^L[^I],^R[^O],^RO[^P]";

#[test]
fn every_quick_operation_passes() {
    let run = suite(QUICK, "auto", Some(USUAL_SIZES));
    assert!(run.operations_passed() > 5000, "{run}");
    assert_eq!(run.shim_lines(), [""; 0]);
    assert_others_were_taken(&run);
}

#[test]
#[ignore = "nightly"]
fn every_operation_passes() {
    let program = Program::engaged(llama("test-backend-ops")).args("test -b CPU -j 2");
    let run = program.limit(Duration::from_secs(3600)).run().success();
    assert!(run.operations_passed() > 10000, "{run}");
    assert_eq!(run.shim_lines(), [""; 0]);
    run.stats().assert_healthy();
}

/// Without tensors of millions of elements.
const USUAL_SIZES: &str = "^(?!.*(65536|262144))";

#[test]
fn operations_that_are_no_products_pass_with_every_kernel_family() {
    others_pass(usual_tiers().into_iter().skip(1), Some(USUAL_SIZES));
}

#[test]
#[ignore = "nightly"]
fn all_operations_that_are_no_products_pass_with_every_kernel_family_and_portable_code() {
    others_pass(tiers().into_iter().skip(1), None);
}

fn others_pass(tiers: impl IntoIterator<Item = Tier>, only: Option<&str>) {
    for tier in tiers {
        let run = suite(&others(), tier.knob, only);
        assert!(run.operations_passed() >= OTHER_OPERATIONS, "{run}");
        assert_others_were_taken(&run);
    }
}

fn assert_others_were_taken(run: &Outcome) {
    let stats = run.stats();
    for (_, op) in OTHERS {
        assert!(stats.other_taken(op) > 0, "{op} was not taken over\n{stats}");
        assert!(stats.other_declined(op, "use_ref") >= stats.other_taken(op), "{op}\n{stats}");
    }
    stats.assert_healthy();
}

/// How many of them the suite of this llama.cpp has, at least.
const OTHER_OPERATIONS: u64 = 1000;

#[test]
fn a_norm_that_ggml_has_fused_with_its_weights_is_taken() {
    let run = suite("RMS_NORM_MUL_ADD", "auto", None);
    let stats = run.stats();
    // Where ggml has not fused them, it asks for the product as well.
    let single = stats.other_declined("MUL", "stock_is_faster");
    assert!(stats.other_taken("RMS_NORM") >= single + 10, "{stats}");
    stats.assert_healthy();
}

#[test]
fn a_setting_chooses_the_operations_that_are_no_products() {
    let with = |value: &str| {
        let program = Program::engaged(llama("test-backend-ops")).knob("OPS", value);
        program.args("test -b CPU -o RMS_NORM,SILU").limit(Duration::from_secs(300)).run().success()
    };
    let taken = |value: &str| ["RMS_NORM", "UNARY"].map(|op| with(value).stats().other_taken(op) > 0);
    assert_eq!(
        [taken("auto"), taken("off"), taken("rms_norm"), taken("unary,mul")],
        [[true, true], [false, false], [true, false], [false, true]]
    );
}
