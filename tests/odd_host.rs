//! No pointer of the host is believed: a fake ggml returns null, strings that are none and impossible numbers from every
//! function that the shim calls, and hands over such graphs. The program ends well, with the result that it has without
//! the shim, and the reason is counted.

use std::path::Path;

use zen5turbo_tests::{Outcome, Program, Stats, fake_ggml};

/// What is no string.
const NO_TEXT: &[&str] = &["null", "low", "empty", "long", "bytes", "control"];
/// What is no pointer.
const NO_ADDRESS: &[&str] = &["null", "low", "odd"];

/// Who computes the products, and what is counted: an event of the process, or the reason for which they were declined.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    /// The shim.
    Taken(Option<&'static str>),
    /// The fake ggml, as without the shim.
    Left(Option<&'static str>),
}
use Then::{Left, Taken};

fn count(stats: &Stats, reason: &str) -> u64 {
    stats.events(reason) + stats.declined("MUL_MAT", None).get(reason).copied().unwrap_or(0)
}

/// Runs both ways; what differs from `then` is a line of `failures`. Returns what the program printed under the shim.
fn try_odd(program: &Path, mode: &str, odd: &str, then: Then, failures: &mut Vec<String>) -> String {
    let start = |program: Program| program.args(mode).var("FAKE_ODD", odd);
    let run: Outcome = start(Program::engaged(program)).knob("LOG", "debug").run();
    if !run.ended_well() {
        failures.push(format!("{odd}: {run}"));
        return String::new();
    }
    let last = |run: &Outcome| run.stdout.lines().last().unwrap_or_default().to_owned();
    let (expected, reason) = match then {
        Taken(reason) => ("extra calls 0, computed 0, result 32 64 96".to_owned(), reason),
        Left(reason) => (last(&start(Program::new(program)).run().success()), reason),
    };
    if last(&run) != expected {
        failures.push(format!("{odd}: expected {expected}\n{run}"));
    } else if let Some(reason) = reason.filter(|reason| count(run.stats(), reason) == 0) {
        failures.push(format!("{odd}: {reason} was not counted\n{}", run.stats()));
    } else if count(run.stats(), "internal_error") > 0 {
        failures.push(format!("{odd}: a defect\n{run}"));
    }
    run.stdout
}

fn assert_none(failures: &[String]) {
    assert!(failures.is_empty(), "{} of the cases failed\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn no_answer_of_ggml_is_believed() {
    let odd = Some("ggml_answer_odd");
    let mismatch = Left(Some("abi_mismatch"));
    let cases: &[(&str, &[&str], Then)] = &[
        ("ggml_version", NO_TEXT, Taken(Some("ggml_version_unknown"))),
        ("ggml_commit", NO_TEXT, Taken(None)),
        ("ggml_cpu_has_avx2", &["0", "-1"], Taken(None)),
        ("ggml_nbytes", &["0", "-1"], Taken(None)),
        ("ggml_op_name", NO_TEXT, Left(odd)),
        ("ggml_op_name", &["other"], Left(None)),
        ("ggml_type_name", NO_TEXT, mismatch),
        ("q8_0", NO_TEXT, Left(odd)),
        ("q8_0", &["other"], Left(Some("type_not_supported"))),
        ("ggml_type_size", &["0", "1", "35", "-1"], Left(odd)),
        ("ggml_blck_size", &["0", "1", "64", "-32"], Left(odd)),
        ("ggml_tensor_overhead", &["0", "-1"], mismatch),
        ("ggml_get_data", NO_ADDRESS, mismatch),
        ("ggml_get_name", NO_TEXT, mismatch),
        ("ggml_graph_n_nodes", &["-1", "0x80000000", "2", "0x7fffffff"], Left(Some("graph_odd"))),
        ("ggml_graph_n_nodes", &["0"], Left(Some("no_graph_context"))),
        ("ggml_graph_node", NO_ADDRESS, Left(Some("graph_odd"))),
    ];
    let (_dir, program) = fake_ggml("", "");
    let mut failures = Vec::new();
    for (what, values, then) in cases {
        for value in *values {
            let _ = try_odd(&program, "", &format!("{what}:{value}"), *then, &mut failures);
        }
    }
    assert_none(&failures);
}

#[test]
fn no_graph_and_no_tensor_is_believed() {
    let odd = Left(Some("graph_odd"));
    let shape = Left(Some("shape_not_supported"));
    let cases: &[(&str, &[&str], Then)] = &[
        ("graph", NO_ADDRESS, odd),
        ("plan", NO_ADDRESS, odd),
        ("plan.n_threads", &["0", "-1", "1000000", "0x7fffffff"], odd),
        ("plan.work_data", &["null"], Left(Some("no_graph_context"))),
        ("plan.work_data", &["low"], odd),
        ("params", NO_ADDRESS, odd),
        ("op", NO_ADDRESS, odd),
        ("params.ith", &["-1", "1", "1000000"], odd),
        ("params.nth", &["0", "-1"], odd),
        ("params.nth", &["2", "0x7fffffff"], Left(Some("too_many_threads"))),
        ("params.threadpool", NO_ADDRESS, Taken(None)),
        ("params.wdata", NO_ADDRESS, Left(Some("no_graph_context"))),
        ("c.op", &["-1", "256", "0x7fffffff"], Left(Some("ggml_answer_odd"))),
        ("c.src[0]", NO_ADDRESS, Left(Some("source_missing"))),
        ("c.src[1]", NO_ADDRESS, Left(Some("source_missing"))),
        ("a.type", &["-1", "255", "256", "0x7fffffff"], Left(Some("type_not_supported"))),
        ("b.type", &["-1", "1000"], Left(Some("src1_not_f32"))),
        ("c.type", &["-1", "1000"], Left(Some("dst_not_f32"))),
        ("a.ne[0]", &["0", "-32", "33"], shape),
        ("a.ne[0]", &["0x4000000000000000"], Left(Some("src0_permuted"))),
        ("a.ne[1]", &["0", "-1", "0x4000000000000000"], shape),
        ("a.ne[2]", &["0", "-1", "0x4000000000000000"], shape),
        ("b.ne[0]", &["0", "-1", "0x4000000000000000"], shape),
        ("b.ne[1]", &["0", "-1", "0x4000000000000000"], shape),
        ("c.ne[1]", &["0", "-1", "0x4000000000000000"], shape),
        ("a.nb[1]", &["-34", "0x4000000000000000"], shape),
        ("a.nb[1]", &["0"], Left(Some("src0_permuted"))),
        ("a.nb[2]", &["-1", "0"], Taken(None)),
        ("a.data", &["null", "low"], shape),
        ("b.data", NO_ADDRESS, shape),
        ("c.data", NO_ADDRESS, shape),
        ("a.view_src", NO_ADDRESS, Taken(None)),
        ("a.name", &["full"], Taken(None)),
    ];
    let (_dir, program) = fake_ggml("", "");
    let mut failures = Vec::new();
    for (what, values, then) in cases {
        for value in *values {
            let _ = try_odd(&program, "", &format!("{what}:{value}"), *then, &mut failures);
        }
    }
    assert_none(&failures);
}

/// What llama.cpp asks for before it loads a model: buffer types, a BLAS backend, large buffers.
#[test]
fn no_buffer_type_and_no_device_is_believed() {
    const ALL: &str = "types AMX CPU_REPACK";
    const PLAIN: &str = "types AMX";
    const NONE: &str = "types";
    let counted = Some("ggml_answer_odd");
    let cases: &[(&str, &[&str], &str, Option<&'static str>)] = &[
        ("nothing", &["odd"], PLAIN, None),
        ("ggml_backend_reg_get_proc_address", &["null"], NONE, None),
        ("ggml_backend_reg_get_proc_address", &["low"], NONE, counted),
        ("extra_bufts", &["null"], NONE, None),
        ("extra_bufts", &["low", "odd"], NONE, counted),
        ("endless", &["list"], "types AMX AMX AMX", counted),
        ("ggml_backend_buft_name", NO_TEXT, ALL, counted),
        ("ggml_backend_cpu_buffer_type", NO_ADDRESS, PLAIN, counted),
        ("ggml_backend_buft_alloc_buffer", NO_ADDRESS, PLAIN, counted),
        ("ggml_backend_buffer_get_base", &["null", "low"], PLAIN, counted),
        ("ggml_backend_reg_by_name", &["low", "odd"], ALL, counted),
        ("ggml_backend_reg_dev_count", &["0", "-1"], ALL, Some("repack_kept_for_blas")),
        ("ggml_backend_reg_dev_get", NO_ADDRESS, ALL, Some("repack_kept_for_blas")),
    ];
    let (_dir, program) = fake_ggml("", "");
    let mut failures = Vec::new();
    for (what, values, types, counted) in cases {
        for value in *values {
            let odd = format!("{what}:{value}");
            let stdout = try_odd(&program, "host", &odd, Taken(*counted), &mut failures);
            let buffer = if *what == "ggml_backend_buft_alloc_buffer" { "none" } else { "filled" };
            if !stdout.is_empty() && stdout.lines().next() != Some(&format!("{types}, buffer {buffer}")) {
                failures.push(format!("{odd}: {stdout}"));
            }
        }
    }
    assert_none(&failures);
}
