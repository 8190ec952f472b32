//! `attention`: keys and values of a cache that no cache of the CPU holds, layer after layer, on one thread. Bytes of keys and
//! values and multiply-adds per second: medians over the layers.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use zen5turbo_bench::harness::{data_path, parse_isa, parse_type};
use zen5turbo_bench::median;
use zen5turbo_bench::memory::{Memory, Pages};
use zen5turbo_kernels::attention::{Attention, KeyHeads, Query, Rows, Scale, Shared};
use zen5turbo_kernels::formats::WeightType;
use zen5turbo_kernels::isa::Isa;
use zen5turbo_kernels::width::DataPath;
use zen5turbo_peaks::memory::uncached_bytes;

/// Most queries of a head of keys that are computed as the shim computes few tokens: all heads of a tile of keys, then the next
/// tile. With more queries it computes head by head.
const FEW_ROWS: usize = 64;

/// Attention on one thread: bytes of keys and values and multiply-adds per second
#[derive(Parser, Debug)]
#[command(name = "attention")]
struct Args {
    /// Types of keys and values
    #[arg(long, value_name = "TYPE,TYPE", value_delimiter = ',', default_value = "f16,bf16,q8_0,q4_0")]
    types: Vec<String>,
    /// Elements of a head
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_value = "64,128,256")]
    head: Vec<usize>,
    /// Keys
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_value = "512,2048,8192")]
    keys: Vec<usize>,
    /// Query heads for each head of keys
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_value = "1,4,8")]
    sharing: Vec<usize>,
    /// Tokens
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_value = "1,64")]
    tokens: Vec<usize>,
    /// Heads of keys
    #[arg(long, value_name = "N", default_value_t = 8)]
    heads: usize,
    /// Kernel tier
    #[arg(long, value_name = "ISA", default_value = "avx512vnni")]
    isa: String,
    /// Layers instead of as many as no cache holds
    #[arg(long, value_name = "N")]
    layers: Option<usize>,
    /// Seconds for each case
    #[arg(long, value_name = "S", default_value_t = 0.3)]
    seconds: f64,
}

/// What is computed again and again.
struct Case {
    attention: Attention,
    heads: usize,
    tokens: usize,
    sharing: usize,
    keys: usize,
    len: usize,
    row: usize,
    queries: Memory,
    scratch: Memory,
    sums: Memory,
    result: Memory,
}

impl Case {
    fn new(
        path: DataPath,
        isa: Isa,
        t: WeightType,
        args: &Args,
        [len, keys, sharing, tokens]: [usize; 4],
    ) -> Result<Self> {
        let rows = sharing * tokens;
        let attention = Attention::new((path, isa), (t, len), (t, len), rows)
            .with_context(|| format!("no kernels for heads of {len} in {} on this CPU", t.ggml_name()))?;
        let mut queries = Memory::zeroed(4 * len * rows * args.heads)?;
        for i in 0..len * rows * args.heads {
            // SAFETY: as many floats, aligned to 2 MiB.
            unsafe { queries.as_mut_ptr().cast::<f32>().add(i).write((i * 7919 % 2001) as f32 / 1000.0 - 1.0) };
        }
        let scratch = Memory::zeroed(attention.heads_scratch_bytes(args.heads, rows.min(attention.most_queries())))?;
        let sums = Memory::zeroed(4 * attention.sums_len() * rows * args.heads)?;
        let (result, row) = (Memory::zeroed(4 * len * rows * args.heads)?, t.row_bytes(len));
        Ok(Case { attention, heads: args.heads, tokens, sharing, keys, len, row, queries, scratch, sums, result })
    }

    fn rows(&self) -> usize {
        self.sharing * self.tokens
    }

    /// Bytes of keys and values of a layer.
    fn bytes(&self) -> usize {
        2 * self.heads * self.keys * self.row
    }

    fn macs(&self) -> usize {
        2 * self.heads * self.rows() * self.keys * self.len
    }

    /// One layer, whose keys and then its values begin at `layer`.
    fn run(&mut self, layer: *const u8) {
        let (a, rows, len) = (&self.attention, self.rows(), self.len);
        let scale = Scale { scale: 1.0 / (len as f32).sqrt(), cap: 0.0 };
        let at = |start: *const u8| Rows { start, stride: self.heads * self.row, head: self.row };
        let all =
            KeyHeads { count: self.heads, keys: at(layer), values: at(layer.wrapping_add(self.bytes() / 2)), scale };
        let elements: *const f32 = self.queries.as_ptr().cast();
        let query = |head: usize, row: usize| Query {
            elements: elements.wrapping_add((head * rows + row) * len),
            mask: std::ptr::null(),
            slope: 1.0,
        };
        let (sums, scratch) = (self.sums.as_mut_ptr().cast::<f32>(), self.scratch.as_mut_ptr());
        // SAFETY: a layer's keys and values, and buffers as large as documented; `new` found the tier on this CPU.
        unsafe {
            a.clear(self.heads * rows, sums);
            if rows <= FEW_ROWS.min(a.most_queries()) {
                a.add_heads(&all, 0..self.keys, rows, query, sums, scratch);
            } else {
                for head in 0..self.heads {
                    let row = |rows: Rows| (rows.start.wrapping_add(head * rows.head), rows.stride);
                    let shared = Shared { keys: row(all.keys), values: row(all.values), scale };
                    for from in (0..rows).step_by(a.most_queries()) {
                        let n = a.most_queries().min(rows - from);
                        let sums = sums.add((head * rows + from) * a.sums_len());
                        a.add(&shared, 0..self.keys, n, |i| query(head, from + i), sums, scratch);
                    }
                }
            }
            for row in 0..self.heads * rows {
                let to = self.result.as_mut_ptr().cast::<f32>().add(row * len);
                a.finish(sums.add(row * a.sums_len()), 1, 0, None, to);
            }
        }
    }
}

/// Small numbers: bytes whose scales, wherever they lie in a block, are finite.
fn layer(bytes: usize) -> Vec<u8> {
    let mut layer = vec![0; bytes];
    fastrand::Rng::with_seed(1).fill(&mut layer);
    layer.iter_mut().for_each(|byte| *byte &= 0x3b);
    layer
}

fn main() -> Result<()> {
    let args = Args::parse();
    let isa = parse_isa(&args.isa)?;
    ensure!(isa.available(), "this CPU has no {}", isa.name());
    let path = data_path();
    println!(
        "{:<8} {:>5} {:>6} {:>8} {:>7} {:>10} {:>8} {:>8}",
        "type", "head", "keys", "sharing", "tokens", "us", "GB/s", "GMAC/s"
    );
    for name in &args.types {
        let t = parse_type(name)?;
        for &len in &args.head {
            for &keys in &args.keys {
                let bytes = 2 * args.heads * keys * t.row_bytes(len);
                let layers = args.layers.unwrap_or_else(|| uncached_bytes().div_ceil(bytes)).max(1);
                let cache = Memory::repeat(&layer(bytes), layers, Pages::Huge)?;
                for &tokens in &args.tokens {
                    for &sharing in &args.sharing {
                        let mut case = Case::new(path, isa, t, &args, [len, keys, sharing, tokens])?;
                        let (begin, mut times) = (Instant::now(), Vec::new());
                        for i in 0.. {
                            let start = Instant::now();
                            case.run(cache.as_ptr().wrapping_add(i % layers * bytes));
                            times.push(start.elapsed().as_secs_f64());
                            if times.len() >= 3 && begin.elapsed().as_secs_f64() > args.seconds {
                                break;
                            }
                        }
                        let time = median(&times);
                        println!(
                            "{:<8} {len:>5} {keys:>6} {sharing:>8} {tokens:>7} {:>10.1} {:>8.2} {:>8.1}",
                            t.ggml_name(),
                            1e6 * time,
                            case.bytes() as f64 / time / 1e9,
                            case.macs() as f64 / time / 1e9
                        );
                    }
                }
            }
        }
    }
    Ok(())
}
