//! `products`: a fast table for tuning. All cases of a weight type take turns, so that a drift of the
//! clock or a neighbour's load falls on all of them; each value is the median over the turns (or the
//! best, when asked for).

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use zen5turbo_bench::harness::{Case, Size, Times, Unknown, Weights, data_path, parse_isa, parse_type};
use zen5turbo_bench::memory::Pages;
use zen5turbo_bench::peaks::Peaks;
use zen5turbo_bench::{median, report};
use zen5turbo_kernels::formats::WeightType;
use zen5turbo_kernels::isa::Isa;
use zen5turbo_kernels::kernel::{Blocking, Kernel};
use zen5turbo_kernels::registry::{f16_as_bf16, in_one_order, kernel_on, keys_in_one_order};
use zen5turbo_kernels::width::DataPath;
use zen5turbo_peaks::memory::uncached_bytes;

/// Matrix products of one thread against this machine's peaks
#[derive(Parser, Debug)]
#[command(name = "products")]
struct Args {
    /// Weight types, ggml's names [default: all]
    #[arg(long, value_name = "T,T", value_delimiter = ',', value_parser = weight)]
    types: Vec<WeightType>,
    /// scalar, avx2, avx512vnni-256, avx512vnni [default: all that this CPU has, but scalar]
    #[arg(long, value_name = "I,I", value_delimiter = ',', value_parser = isa)]
    isa: Vec<Isa>,
    /// Kernels for CPUs that compute 512-bit operations at once (full) or in halves (split) [default: measured]
    #[arg(long, value_name = "PATH", value_parser = path)]
    path: Option<DataPath>,
    /// F16 weights rounded to BF16, as with ZEN5TURBO_F16=bf16
    #[arg(long)]
    f16_as_bf16: bool,
    /// Which kernels: fastest, one (those that add in one order), keys (the same for few columns); several take turns
    #[arg(long, value_name = "O,O", value_delimiter = ',', value_parser = order, default_value = "fastest")]
    order: Vec<Choose>,
    /// Columns of activations
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_value = "1,4,16,64,512")]
    columns: Vec<usize>,
    /// Rows of the weight matrix
    #[arg(long, value_name = "N", default_value_t = 2048)]
    rows: usize,
    /// Elements of a row
    #[arg(long, value_name = "N", default_value_t = 2048)]
    k: usize,
    /// Bytes of a packed panel [default: the kernels' own]
    #[arg(long, value_name = "N")]
    panel_bytes: Option<usize>,
    /// Bytes to prefetch ahead [default: the kernels' own]
    #[arg(long, value_name = "N")]
    prefetch_bytes: Option<usize>,
    /// Bytes that one column by rows fetches ahead, on full data paths [default: the kernels' own]
    #[arg(long, value_name = "N")]
    ahead_bytes: Option<u32>,
    /// Copies of the weights, read in turn; 1 keeps them in a cache [default: more than any cache holds]
    #[arg(long, value_name = "N")]
    copies: Option<usize>,
    /// What the weights lie in: small (4 KiB), huge (2 MiB) or file
    #[arg(long, value_name = "KIND", value_parser = pages, default_value = "huge")]
    pages: Pages,
    /// Weights from a mapping of a file, as llama.cpp has them: --pages file
    #[arg(long)]
    private_file: bool,
    /// Turns per case
    #[arg(long, value_name = "N", default_value_t = 9)]
    turns: usize,
    /// Shortest time of a turn, milliseconds
    #[arg(long, value_name = "MS", default_value_t = 4.0)]
    turn_ms: f64,
    /// The fastest turn instead of the median: for tuning on a machine that others use; no claim
    #[arg(long)]
    best: bool,
    /// Write the table to this file as well
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
}

/// Chooses the kernel of a product.
type Choose = fn(DataPath, Isa, WeightType, (usize, usize)) -> Option<&'static Kernel>;

fn order(name: &str) -> Result<Choose, String> {
    match name {
        "fastest" => Ok(kernel_on),
        "one" => Ok(in_one_order),
        "keys" => Ok(keys_in_one_order),
        _ => Err("expected fastest, one or keys".into()),
    }
}

fn weight(name: &str) -> Result<WeightType, Unknown> {
    parse_type(name)
}

fn isa(name: &str) -> Result<Isa, Unknown> {
    parse_isa(name)
}

fn path(name: &str) -> Result<DataPath, String> {
    match name {
        "full" => Ok(DataPath::Full),
        "split" => Ok(DataPath::Split),
        _ => Err("expected full or split".into()),
    }
}

fn pages(name: &str) -> Result<Pages, String> {
    let found = Pages::ALL.into_iter().find(|p| p.name() == name);
    found.ok_or_else(|| format!("expected one of: {}", Pages::ALL.map(Pages::name).join(", ")))
}

fn main() -> Result<()> {
    let mut args = Args::parse();
    if args.private_file {
        args.pages = Pages::File;
    }
    if args.types.is_empty() {
        args.types = WeightType::ALL.to_vec();
    }
    if args.isa.is_empty() {
        args.isa = Isa::ALL.into_iter().filter(|&isa| isa != Isa::Scalar && isa.available()).collect();
    }
    for isa in &args.isa {
        ensure!(isa.available(), "this CPU cannot run {}; expected another --isa", isa.name());
    }
    ensure!(
        args.rows > 0 && args.turns > 0 && args.columns.iter().all(|&n| n > 0),
        "--rows, --turns and --columns must not be 0"
    );
    for kind in &args.types {
        let block = kind.block().0;
        ensure!(
            args.k > 0 && args.k.is_multiple_of(block),
            "--k {} does not fit {}, whose blocks have {block} elements; expected a multiple",
            args.k,
            kind.ggml_name()
        );
    }
    let path = args.path.unwrap_or_else(data_path);
    let mut blocking = Blocking::of(path);
    blocking.panel_bytes = args.panel_bytes.unwrap_or(blocking.panel_bytes);
    blocking.prefetch_bytes = args.prefetch_bytes.unwrap_or(blocking.prefetch_bytes);
    blocking.rows.ahead = args.ahead_bytes.unwrap_or(blocking.rows.ahead);

    let mut csv = match &args.csv {
        Some(path) => {
            let mut file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
            writeln!(file, "{}", report::CSV_HEADER)?;
            Some(file)
        }
        None => None,
    };
    let peaks = Peaks::measure().context("measuring the machine's peaks")?;
    print!("{}", report::machine(&peaks));
    println!(
        "{} x {} weights in {} pages, panel {} B, prefetch {} B, {} of {} turns of one thread",
        args.rows,
        args.k,
        args.pages.name(),
        blocking.panel_bytes,
        blocking.prefetch_bytes,
        if args.best { "best" } else { "medians" },
        args.turns
    );
    println!("{}", report::header());
    for &kind in &args.types {
        for (row, case) in measure(&args, kind, path, &blocking, &peaks)? {
            println!("{}", report::line(&row, &peaks));
            if let Some(file) = &mut csv {
                writeln!(file, "{}", report::csv(&row, &case, &peaks))?;
            }
        }
    }
    Ok(())
}

/// All cases of one type, in the order of the table.
fn measure(
    args: &Args,
    kind: WeightType,
    path: DataPath,
    blocking: &Blocking,
    peaks: &Peaks,
) -> Result<Vec<(report::Row, Case)>> {
    let size = Size { rows: args.rows, k: args.k };
    let weights = Rc::new(Weights::random(kind, size, args.copies, args.pages).context("allocating the weights")?);
    let cached = weights.bytes() * weights.copies() < uncached_bytes();
    let mut cases = Vec::new();
    for &isa in &args.isa {
        for (columns, choose) in args.columns.iter().flat_map(|&n| args.order.iter().map(move |choose| (n, choose))) {
            let rounding = args.f16_as_bf16 && kind == WeightType::F16;
            let rounding = rounding.then(|| f16_as_bf16(path, isa, columns)).flatten();
            let Some(kernel) = rounding.or_else(|| choose(path, isa, kind, (args.k, columns))) else { continue };
            let case = Case::of(&weights, kernel, columns, *blocking).context("allocating a product")?;
            cases.push((case, 1, Vec::new()));
        }
    }
    for (case, times, _) in &mut cases {
        case.run(1); // touches everything
        let once = case.run(1);
        *times = (args.turn_ms / 1e3 / (once.multiply + once.quantize)).ceil().clamp(1.0, 1e6) as u64;
    }
    for _ in 0..args.turns {
        for (case, times, taken) in &mut cases {
            taken.push(case.run(*times));
        }
    }
    let rows = cases.into_iter().map(|(case, _, taken)| {
        let of = |part: fn(&Times) -> f64| {
            let values: Vec<f64> = taken.iter().map(part).collect();
            if args.best { values.into_iter().fold(f64::INFINITY, f64::min) } else { median(&values) }
        };
        let times = Times { quantize: of(|t| t.quantize), multiply: of(|t| t.multiply) };
        (report::Row::new(&case, times, peaks, cached), case)
    });
    Ok(rows.collect())
}
