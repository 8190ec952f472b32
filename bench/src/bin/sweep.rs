//! `sweep`: row lengths at which a product reads its weights slower than at the lengths around it. A kernel that is fast
//! at 2048 and 4096 elements may fall to a third in between, where its loops end otherwise or the hardware's prefetcher
//! loses the track.

use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use zen5turbo_bench::harness::{Case, Size, Weights, data_path, parse_isa, parse_type};
use zen5turbo_bench::median;
use zen5turbo_bench::memory::Pages;
use zen5turbo_kernels::formats::WeightType;
use zen5turbo_kernels::isa::Isa;
use zen5turbo_kernels::kernel::Blocking;

/// Goes through all row lengths and prints those that read slower than their neighbours
#[derive(Parser, Debug)]
#[command(name = "sweep")]
struct Args {
    /// Weight types, ggml's names [default: all]
    #[arg(long, value_name = "T,T", value_delimiter = ',', value_parser = parse_type)]
    types: Vec<WeightType>,
    /// The tier [default: the best of this CPU]
    #[arg(long, value_name = "ISA", value_parser = parse_isa)]
    isa: Option<Isa>,
    /// Columns of activations
    #[arg(long, value_name = "N", default_value_t = 1)]
    columns: usize,
    /// Shortest row, in elements
    #[arg(long, value_name = "N", default_value_t = 256)]
    from: usize,
    /// Longest row, in elements
    #[arg(long, value_name = "N", default_value_t = 16384)]
    to: usize,
    /// Elements from one length to the next [default: a block, 32 for types without blocks]
    #[arg(long, value_name = "N")]
    step: Option<usize>,
    /// Print every length, not only the slow ones
    #[arg(long)]
    all: bool,
    /// A length is slow below this share of its neighbours' median
    #[arg(long, value_name = "SHARE", default_value_t = 0.9)]
    least: f64,
}

/// Weights of one product: so many that its start does not matter.
const BYTES: usize = 4 << 20;
/// Lengths on either side that a length is compared with.
const NEIGHBOURS: usize = 4;
/// Passes over all lengths; what looks slow is measured so often again, in turns with its neighbours.
const PASSES: usize = 3;
const AGAIN: usize = 9;

fn main() -> Result<()> {
    let mut args = Args::parse();
    if args.types.is_empty() {
        args.types = WeightType::ALL.to_vec();
    }
    let best = Isa::ALL.into_iter().rev().find(|isa| isa.available()).unwrap_or(Isa::Scalar);
    let isa = args.isa.unwrap_or(best);
    ensure!(isa.available(), "this CPU cannot run {}; expected another --isa", isa.name());
    ensure!(args.columns > 0 && args.from > 0 && args.step != Some(0), "--columns, --from and --step must not be 0");
    println!("{} column(s), {}, weights from memory in huge pages", args.columns, isa.name());
    let mut holes = 0;
    for &kind in &args.types {
        holes += sweep(&args, isa, kind)?;
    }
    println!("{holes} length(s) below {} of their neighbours", args.least);
    Ok(())
}

/// Returns the number of slow lengths.
fn sweep(args: &Args, isa: Isa, kind: WeightType) -> Result<usize> {
    let block = kind.block().0.max(32);
    let step = args.step.unwrap_or(block).next_multiple_of(block);
    let lengths: Vec<usize> = (args.from.next_multiple_of(block)..=args.to).step_by(step).collect();
    ensure!(!lengths.is_empty(), "--from and --to leave no row length for {}", kind.ggml_name());
    let weights =
        Weights::random(kind, Size { rows: 256, k: 4096 }, None, Pages::Huge).context("allocating weights")?;
    let path = data_path();
    let rate = |k: usize| -> Result<f64> {
        let weights = Rc::new(weights.reshaped(k, BYTES));
        let case =
            Case::new(&weights, (path, isa), args.columns, Blocking::of(path)).context("allocating a product")?;
        let mut case = case.with_context(|| format!("no kernel of {} for {}", isa.name(), kind.ggml_name()))?;
        case.run(2); // touches everything
        Ok(weights.bytes() as f64 / case.run(6).multiply / 1e9)
    };
    let mut taken = vec![Vec::new(); lengths.len()];
    for _ in 0..PASSES {
        for (taken, &k) in taken.iter_mut().zip(&lengths) {
            taken.push(rate(k)?);
        }
    }
    let slow = |taken: &[Vec<f64>], i: usize| {
        let around = i.saturating_sub(NEIGHBOURS)..(i + NEIGHBOURS + 1).min(taken.len());
        let others: Vec<f64> = around.clone().filter(|&j| j != i).map(|j| median(&taken[j])).collect();
        let (own, others) = (median(&taken[i]), median(&others));
        (others > 0.0 && own < args.least * others).then_some((own, others, around))
    };
    let suspects: Vec<_> = (0..lengths.len()).filter_map(|i| Some((i, slow(&taken, i)?.2))).collect();
    let mut again = vec![false; lengths.len()];
    suspects.iter().for_each(|(_, around)| around.clone().for_each(|j| again[j] = true));
    for (taken, _) in taken.iter_mut().zip(&again).filter(|(_, again)| **again) {
        taken.clear();
    }
    for _ in 0..AGAIN {
        for i in (0..lengths.len()).filter(|&i| again[i]) {
            taken[i].push(rate(lengths[i])?);
        }
    }
    if args.all {
        for (k, taken) in lengths.iter().zip(&taken) {
            println!("{:<8} k = {k:<6} {:6.2} GB/s", kind.ggml_name(), median(taken));
        }
    }
    let mut holes = 0;
    for (i, _) in suspects {
        if let Some((own, others, _)) = slow(&taken, i) {
            println!("{:<8} k = {:<6} {own:6.2} GB/s, neighbours {others:6.2}", kind.ggml_name(), lengths[i]);
            holes += 1;
        }
    }
    let all: Vec<f64> = taken.iter().map(|taken| median(taken)).collect();
    let (least, most) = all.iter().fold((f64::MAX, 0.0_f64), |(a, b), &x| (a.min(x), b.max(x)));
    println!("{:<8} {} lengths: {least:.2} to {most:.2} GB/s, {holes} slow", kind.ggml_name(), lengths.len());
    Ok(holes)
}
