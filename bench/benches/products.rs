//! Matrix products, one thread: weight type x ISA x columns, named `q4_K/avx2/512`.
//!
//! Without a filter two types run, on the ISAs but `scalar`; with one, everything it matches:
//! `cargo bench -p zen5turbo-bench --bench products -- q4_K/avx2`. Criterion's own figures include the
//! quantisation of the activations. The tables around them set the same runs against the machine's
//! peaks, measured just before.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use zen5turbo_bench::harness::{Case, Size, Times, Weights, data_path};
use zen5turbo_bench::memory::Pages;
use zen5turbo_bench::peaks::Peaks;
use zen5turbo_bench::{arguments, median, report};
use zen5turbo_kernels::formats::WeightType;
use zen5turbo_kernels::isa::Isa;
use zen5turbo_kernels::kernel::Blocking;

/// Without a filter.
const DEFAULT_TYPES: [WeightType; 2] = [WeightType::Q4K, WeightType::Q8_0];
const COLUMNS: [usize; 5] = [1, 4, 16, 64, 512];
/// A square of a Llama-shaped model of 2048 features.
const SIZE: Size = Size { rows: 2048, k: 2048 };

fn main() {
    let filtered = arguments::has_filter(std::env::args().skip(1));
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(400))
        .without_plots()
        .configure_from_args();
    // In a test run (`cargo test --benches`) everything runs once and nothing is measured.
    let peaks = arguments::is_measurement(std::env::args())
        .then(|| Peaks::measure().expect("memory to measure the peaks with"));
    if let Some(peaks) = &peaks {
        print!("{}", report::machine(peaks));
    }

    let mut rows = Vec::new();
    let types = if filtered { &WeightType::ALL[..] } else { &DEFAULT_TYPES };
    for &kind in types {
        // Made by the first benchmark that the filter lets through, and shared by the others.
        let weights = RefCell::new(None);
        for isa in Isa::ALL.into_iter().filter(|isa| isa.available() && (filtered || *isa != Isa::Scalar)) {
            let mut group = criterion.benchmark_group(format!("{}/{}", kind.ggml_name(), isa.name()));
            for columns in COLUMNS {
                group.throughput(Throughput::Elements((SIZE.rows * SIZE.k * columns) as u64));
                let mut case: Option<Case> = None;
                let mut taken: Vec<Times> = Vec::new();
                group.bench_function(BenchmarkId::from_parameter(columns), |b| {
                    let case = case.get_or_insert_with(|| new_case(&weights, kind, isa, columns, peaks.is_some()));
                    b.iter_custom(|times| {
                        let each = case.run(times);
                        taken.push(each);
                        Duration::from_secs_f64((each.quantize + each.multiply) * times as f64)
                    });
                });
                if let (Some(case), Some(peaks)) = (&case, &peaks) {
                    let of = |part: fn(&Times) -> f64| median(&taken.iter().map(part).collect::<Vec<_>>());
                    let times = Times { quantize: of(|t| t.quantize), multiply: of(|t| t.multiply) };
                    rows.push(report::Row::new(case, times, peaks, false));
                }
            }
            group.finish();
        }
    }
    criterion.final_summary();
    if let (Some(peaks), false) = (&peaks, rows.is_empty()) {
        println!("\n{}", report::header());
        rows.iter().for_each(|row| println!("{}", report::line(row, peaks)));
    }
}

fn new_case(
    weights: &RefCell<Option<Rc<Weights>>>,
    kind: WeightType,
    isa: Isa,
    columns: usize,
    uncached: bool,
) -> Case {
    let copies = if uncached { None } else { Some(1) };
    let mut weights = weights.borrow_mut();
    let weights = weights.get_or_insert_with(|| {
        Rc::new(Weights::random(kind, SIZE, copies, Pages::Huge).expect("memory for the weights"))
    });
    let path = data_path();
    let case = Case::new(weights, (path, isa), columns, Blocking::of(path)).expect("memory for the product");
    case.expect("a kernel for every type on every ISA of this CPU")
}
