//! Quantisation of activations, one thread: ISA x format x columns, named `avx2/256-sub32-sums/512`
//! (elements per scale, per auxiliary value, and what that is). Bytes are those of the floats read.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use zen5turbo_bench::arguments;
use zen5turbo_bench::harness::Activations;
use zen5turbo_kernels::formats::{ActFormat, Aux};
use zen5turbo_kernels::isa::Isa;
use zen5turbo_kernels::kernel::Kernel;
use zen5turbo_kernels::registry;

const K: usize = 2048;
/// Without a filter only these run.
const DEFAULT_COLUMNS: [usize; 2] = [1, 512];
const COLUMNS: [usize; 5] = [1, 4, 16, 64, 512];

fn main() {
    let filtered = arguments::has_filter(std::env::args().skip(1));
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(50))
        .measurement_time(Duration::from_millis(200))
        .without_plots()
        .configure_from_args();
    let columns = if filtered { &COLUMNS[..] } else { &DEFAULT_COLUMNS };
    for isa in Isa::ALL.into_iter().filter(|&isa| filtered || isa != Isa::Scalar) {
        for (format, kernel) in formats(isa) {
            let mut group = criterion.benchmark_group(format!("{}/{}", isa.name(), name(format)));
            for &columns in columns {
                group.throughput(Throughput::Bytes((K * columns * size_of::<f32>()) as u64));
                let mut activations: Option<Activations> = None;
                group.bench_function(BenchmarkId::from_parameter(columns), |b| {
                    let activations = activations.get_or_insert_with(|| {
                        Activations::new(kernel, K, columns).expect("memory for the activations")
                    });
                    b.iter(|| activations.quantize());
                });
            }
            group.finish();
        }
    }
    criterion.final_summary();
}

/// Every format that the kernels of `isa` take, with a kernel that does; none where the CPU has no `isa`.
fn formats(isa: Isa) -> Vec<(ActFormat, &'static Kernel)> {
    let mut formats: Vec<(ActFormat, &Kernel)> = Vec::new();
    for kernel in registry::kernels(isa).unwrap_or_default() {
        if !formats.iter().any(|(format, _)| *format == kernel.act) {
            formats.push((kernel.act, kernel));
        }
    }
    formats
}

fn name(format: ActFormat) -> String {
    let aux = match format.aux {
        Aux::None => "plain".to_owned(),
        Aux::Seed(offset) => format!("seed{offset}"),
        Aux::SeedPair(offset) => format!("seedpair{offset}"),
        Aux::Sums => "sums".to_owned(),
    };
    format!("{}-sub{}-{aux}", format.block, format.sub)
}
