//! One matrix product on one thread, to count its instructions (`scripts/icount.sh`) or to profile it.
//!
//! usage: one_product [--path full|split] ISA TYPE M K N REPS
//!
//! ISA is a tier's name (`avx512vnni`, `avx512vnni-256`, `avx2`, `scalar`), TYPE a weight type as ggml
//! spells it. The product is `M` rows by `N` columns of `K` elements, and one repetition is all that a
//! program asks for: quantising the columns, packing the weights, multiplying. Two counts with
//! different REPS give the cost of a repetition without that of the set-up.
//! With `--path full` the kernels are those for CPUs that compute 512-bit operations at once, tiles of 32 rows by 6
//! columns among them, which need more instructions and fewer loads; the default is `split`.
//! `one_product --list` prints the types.

mod common;

use common::{Random, aligned};
use std::process::ExitCode;
use zen5turbo_kernels::formats::WeightType;
use zen5turbo_kernels::isa::{Isa, LANES};
use zen5turbo_kernels::kernel::{Blocking, Kernel, Product};
use zen5turbo_kernels::registry;
use zen5turbo_kernels::width::DataPath;

/// An activation in -1..=1.
fn activation(random: &mut Random) -> f32 {
    ((random.next() >> 8) % 2001) as f32 / 1000.0 - 1.0
}

struct Problem {
    kernel: &'static Kernel,
    blocking: Blocking,
    rows: usize,
    k: usize,
    columns: usize,
}

impl Problem {
    /// Computes the product `reps` times; the sum of the result's magnitudes.
    fn run(&self, reps: usize) -> f64 {
        let Problem { kernel, ref blocking, rows, k, columns } = *self;
        let (block, block_bytes) = kernel.weight.block();
        let stride = k / block * block_bytes;
        let mut random = Random(1);
        let mut weights = aligned(rows * stride);
        for i in 0..rows * stride {
            weights[i / 64].0[i % 64] = random.byte();
        }
        let x: Vec<f32> = (0..k * columns).map(|_| activation(&mut random)).collect();
        let mut y = vec![0f32; rows * columns];
        let tiles = kernel.tiles(k, columns);
        let mut act = aligned(kernel.act.bytes(k, columns));
        let mut scratch = aligned(kernel.scratch_bytes(k, blocking));
        let product =
            Product { weights: weights.as_ptr().cast(), stride, rows, k, act: act.as_mut_ptr().cast(), tiles };
        for _ in 0..reps {
            for t in 0..tiles.count {
                // SAFETY: `x` has `columns` columns of `k` floats, `act` the bytes for them.
                unsafe { kernel.quantize_tile(k, tiles, t, act.as_mut_ptr().cast(), |c| x[c * k..].as_ptr()) };
            }
            let y = y.as_mut_ptr();
            let panels = 0..rows.div_ceil(LANES);
            // SAFETY: `product` describes the vectors above, `y` has `columns` columns of `rows`
            // floats, `scratch` its bytes.
            unsafe {
                let scratch = scratch.as_mut_ptr().cast();
                kernel.multiply(&product, panels, 0..tiles.count, blocking, scratch, |c| y.add(c * rows));
            }
        }
        y.iter().map(|v| f64::from(v.abs())).sum()
    }
}

fn main() -> ExitCode {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let mut path = Some(DataPath::Split);
    if args.len() > 1 && args[0] == "--path" {
        path = match args[1].as_str() {
            "full" => Some(DataPath::Full),
            "split" => Some(DataPath::Split),
            _ => None,
        };
        args.drain(..2);
    }
    if args == ["--list"] {
        WeightType::ALL.iter().for_each(|t| println!("{}", t.ggml_name()));
        return ExitCode::SUCCESS;
    }
    let number = |i: usize| args.get(i).and_then(|a: &String| a.parse::<usize>().ok()).filter(|&n| n > 0);
    let isa = args.first().and_then(|a| Isa::ALL.into_iter().find(|i| i.name() == a));
    let weight = args.get(1).and_then(|a| WeightType::from_ggml_name(a));
    let (Some(path), Some(isa), Some(weight), Some(rows), Some(k), Some(columns), Some(reps), 6) =
        (path, isa, weight, number(2), number(3), number(4), number(5), args.len())
    else {
        eprintln!("usage: one_product [--path full|split] ISA TYPE M K N REPS");
        return ExitCode::from(2);
    };
    if k % weight.block().0 != 0 {
        eprintln!("K must be a multiple of {}, the block size of {}", weight.block().0, weight.ggml_name());
        return ExitCode::from(2);
    }
    let Some(kernel) = registry::kernel_on(path, isa, weight, (k, columns)) else {
        eprintln!("this CPU cannot run {}", isa.name());
        return ExitCode::from(2);
    };
    println!(
        "{} sum {:e}",
        kernel.name(),
        Problem { kernel, blocking: Blocking::of(path), rows, k, columns }.run(reps)
    );
    ExitCode::SUCCESS
}
