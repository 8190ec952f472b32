//! Matrix products in every way a graph can hold them (fixtures/operations.c): all types and odd
//! shapes, views, shared and overwritten activations, changing thread counts, aborts, graphs at once.
//! The program compares every result with a reference in double precision; here they are compared
//! with stock's.

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use zen5turbo_tests::{Fixture, Outcome, Program, TYPES, Tier, need, unusual_tiers, usual_tiers, work_dir};

/// One tensor of results.
struct Record {
    name: String,
    /// What the squared error is divided by; 0 where stock's own results are to be taken.
    scale: f64,
    values: Vec<f32>,
}

fn read(path: &Path) -> Vec<Record> {
    let bytes = std::fs::read(path).expect("the program wrote its results");
    let mut rest = bytes.as_slice();
    let line = |rest: &mut &[u8]| {
        let end = rest.iter().position(|&b| b == b'\n').expect("a line");
        let text = String::from_utf8(rest[..end].to_vec()).expect("text");
        *rest = &rest[end + 1..];
        text
    };
    let mut records = Vec::new();
    while !rest.is_empty() {
        let name = line(&mut rest);
        let numbers = line(&mut rest);
        let (n, scale) = numbers.split_once(' ').expect("two numbers");
        let (values, tail) = rest.split_at(4 * n.parse::<usize>().expect("a count"));
        let values = values.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four"))).collect();
        records.push(Record { name, scale: scale.parse().expect("a number"), values });
        rest = tail;
    }
    records
}

/// How far from stock a result may be, as a normalised mean squared error. The integers are the
/// same as stock's; only the order of float additions differs.
fn limit(name: &str) -> f64 {
    if name.starts_with("backend/") {
        5e-3 // four layers: a code that is rounded the other way changes all that follow
    } else if name.starts_with("layers ") || name.contains("into the same memory") {
        1e-4 // products follow each other: a code that is rounded the other way changes all that follow
    } else if name.contains("q4_1") || name.contains("q5_1") {
        5e-5 // stock rounds the sums of the activations to F16
    } else {
        1e-6
    }
}

fn compare(stock: &[Record], ours: &[Record]) {
    assert_eq!(stock.len(), ours.len());
    let mut wrong = Vec::new();
    for (s, o) in stock.iter().zip(ours) {
        assert_eq!((&s.name, s.values.len()), (&o.name, o.values.len()));
        if !o.values.iter().all(|v| v.is_finite()) {
            wrong.push(format!("{}: not finite", o.name));
        } else if s.values.iter().all(|v| v.is_finite()) {
            let square = |v: f64| v * v;
            let error: f64 = s.values.iter().zip(&o.values).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
            let scale = if s.scale > 0.0 { s.scale } else { s.values.iter().map(|a| square(f64::from(*a))).sum() };
            // Where stock has nothing but zeros, so have we.
            if error > limit(&s.name) * scale {
                wrong.push(format!("{}: NMSE {:e}", s.name, error / scale));
            }
        } else {
            // Stock's F16 sums overflow on large activations; ours are F32.
            assert!(s.name.starts_with("extremes/"), "stock is not finite: {}", s.name);
        }
    }
    assert!(wrong.is_empty(), "{} results of {} differ from stock's:\n{}", wrong.len(), stock.len(), wrong.join("\n"));
}

/// Three threads on two cores: waiting threads must sleep, not spin.
fn writing(program: Program, output: &Path) -> Program {
    program.arg(output).var("OMP_WAIT_POLICY", "passive")
}

fn run(program: Program, output: &Path) -> Outcome {
    passed(writing(program, output).run().success())
}

fn passed(run: Outcome) -> Outcome {
    assert_eq!(run.stdout, "0 failures\n", "{run}");
    run
}

fn assert_counted(run: &Outcome) {
    let stats = run.stats();
    for ty in TYPES {
        assert!(stats.taken("MUL_MAT", Some(ty)) > 100, "{ty}\n{stats}");
        assert!(stats.declined("MUL_MAT", Some(ty)).contains_key("use_ref"), "{ty}\n{stats}");
    }
    assert!(stats.declined("MUL_MAT", Some("q4_0")).contains_key("src1_not_f32"), "{stats}");
    assert!(stats.declined("MUL_MAT", Some("q8_0")).contains_key("hadamard_hint"), "{stats}");
    for reason in ["no_graph_context", "too_many_threads", "src0_permuted", "shape_not_supported", "repacked"] {
        let quantised = TYPES.iter().any(|ty| stats.declined("MUL_MAT", Some(ty)).contains_key(reason));
        assert!(!quantised, "{reason}\n{stats}");
    }
    for op in [
        "MUL",
        "GLU",
        "UNARY",
        "RMS_NORM",
        "L2_NORM",
        "CONCAT",
        "SSM_CONV",
        "GATED_DELTA_NET",
        "SOFT_MAX",
        "ARGSORT",
        "SSM_SCAN",
        "ROPE",
    ] {
        assert!(stats.other_taken(op) > 10, "{op}\n{stats}");
    }
    stats.assert_healthy();
    assert_eq!(run.stderr, "");
}

#[test]
fn every_quantised_weight_type_of_this_ggml_is_known() {
    let dir = work_dir();
    let program = Fixture::new("types").linked_with_ggml().build(&dir, "types");
    let run = Program::new(&program).run().success();
    let all: Vec<_> = run.stdout.lines().collect();
    assert!(all.len() > 20, "{run}");
    for name in &all {
        assert!(TYPES.contains(name), "no kernel has the type {name}");
    }
    for name in TYPES {
        assert!(all.contains(&name), "this ggml has no type {name}");
    }
}

#[test]
fn every_result_is_right_and_as_stock_has_it_with_every_kernel_family() {
    let (dir, program) = built();
    results_are_right(&dir, &program, usual_tiers());
}

/// The same types and shapes with the build whose threads are ggml's own, against stock with OpenMP's. Three threads that wait at
/// ggml's own barrier on two CPUs take two minutes.
#[test]
#[ignore = "nightly"]
fn every_result_is_as_stock_has_it_without_openmp() {
    let (dir, program) = built();
    let own = need(".deps/llama.cpp-clang-o2/bin", "scripts/setup.sh builds");
    for (folder, openmp) in [(Path::new(""), true), (&own, false)] {
        let run = Program::new("/usr/bin/ldd").arg(&program).var("LD_LIBRARY_PATH", folder).run().success();
        assert_eq!(run.stdout.contains("libgomp"), openmp, "{run}");
    }
    let file = dir.path().join("stock");
    let _ = passed(writing(Program::new(&program), &file).stock(Some(&file)));
    let ours = dir.path().join("ours");
    let outcome = run(Program::engaged(&program).knob("OPS", "all").var("LD_LIBRARY_PATH", &own), &ours);
    assert_counted(&outcome);
    compare(&read(&file), &read(&ours));
}

#[test]
#[ignore = "nightly"]
fn every_result_is_right_and_as_stock_has_it_with_portable_code() {
    let (dir, program) = built();
    results_are_right(&dir, &program, unusual_tiers());
}

fn built() -> (TempDir, PathBuf) {
    let dir = work_dir();
    let program = Fixture::new("operations")
        .options("-O3 -fno-math-errno -fassociative-math -fno-signed-zeros -fno-trapping-math")
        .linked_with_ggml()
        .build(&dir, "operations");
    (dir, program)
}

/// The results of each family lie in a file of its knob's name then.
fn results_are_right(dir: &TempDir, program: &Path, tiers: Vec<Tier>) {
    let file = dir.path().join("stock");
    let _ = passed(writing(Program::new(program), &file).stock(Some(&file)));
    let stock = read(&file);
    assert!(stock.len() > 3000, "{} results", stock.len());
    // Beside each other: most of the time a thread makes tensors, or computes the reference.
    std::thread::scope(|scope| {
        for tier in tiers {
            let stock = &stock;
            scope.spawn(move || {
                let file = dir.path().join(tier.knob);
                let outcome = run(Program::engaged(program).knob("KERNELS", tier.knob).knob("OPS", "all"), &file);
                assert_eq!(outcome.stats().text("/tier"), tier.name);
                assert_counted(&outcome);
                compare(stock, &read(&file));
            });
        }
    });
}
