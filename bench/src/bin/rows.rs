//! `rows`: ggml's own functions for single rows and the kernels that take their place, in turns, everything in
//! L1 and L2; medians over the turns.

use std::ffi::{c_int, c_void};
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use libloading::Library;
use zen5turbo_bench::median;
use zen5turbo_ggml::functions::{function, ggml_cpu_init};
use zen5turbo_ggml::rows::{Dequantize, Dot, Quantize};
use zen5turbo_host::Cpu;
use zen5turbo_kernels::act::blocks::{Blocks, quantizer};
use zen5turbo_kernels::dequantize::dequantizer;
use zen5turbo_kernels::dot::{LEAST, dot};
use zen5turbo_kernels::formats::WeightType;
use zen5turbo_kernels::isa::Isa;

/// Single rows: ggml's own functions against the kernels
#[derive(Parser, Debug)]
#[command(name = "rows")]
struct Args {
    /// Folder with libggml-base.so and libggml-cpu.so
    #[arg(default_value = ".deps/llama.cpp/bin")]
    libraries: PathBuf,
    /// Elements of a row
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_value = "256,2048,8192")]
    elements: Vec<usize>,
    /// Turns of each function
    #[arg(long, value_name = "N", default_value_t = 25)]
    turns: usize,
}

/// Opens a library of ggml.
fn open(path: &Path) -> Result<Library> {
    // SAFETY: the user has named the library, and its initialisers are ggml's.
    let library = unsafe { Library::new(path) };
    library.with_context(|| format!("{} cannot be opened; expected a shared library of ggml", path.display()))
}

/// A function of the library by its name.
///
/// # Safety
/// `F` is the function's type.
unsafe fn named<F: Copy>(library: &Library, name: &str) -> Result<F> {
    // SAFETY: the symbol is taken as an address, which it is whatever its type; nothing is read there.
    let symbol = unsafe { library.get::<*mut c_void>(name) };
    let symbol = symbol.with_context(|| format!("{name} is not exported; expected a ggml from July 2024 on"))?;
    // SAFETY: `F` is the function's type, by the contract of this function.
    Ok(unsafe { function(*symbol) })
}

/// Times both in turns and prints a line.
fn compare(args: &Args, isa: Isa, name: &str, n: usize, mut own: impl FnMut(), mut ours: impl FnMut()) {
    let calls = (1_000_000 / n).max(4);
    let time = |f: &mut dyn FnMut()| {
        let start = Instant::now();
        (0..calls).for_each(|_| f());
        start.elapsed().as_secs_f64() * 1e9 / calls as f64
    };
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for _ in 0..args.turns {
        a.push(time(&mut own));
        b.push(time(&mut ours));
    }
    let (a, b) = (median(&a), median(&b));
    println!("{name},{},{n},{a:.1},{b:.1},{:.2}", isa.name(), a / b);
}

fn main() -> Result<()> {
    let args = Args::parse();
    let base = open(&args.libraries.join("libggml-base.so"))?;
    let cpu = open(&args.libraries.join("libggml-cpu.so"))?;
    // SAFETY: the library is ggml's, and so is its function of this name, which has no preconditions.
    unsafe { named::<ggml_cpu_init>(&cpu, ggml_cpu_init.name())?() };
    println!("# {}, one thread, medians of {} turns", Cpu::detect().describe(), args.turns);
    println!("function,isa,elements,own_ns,ours_ns,own_over_ours");
    for isa in Isa::ALL.into_iter().filter(|&isa| isa != Isa::Vnni256) {
        for n in args.elements.iter().map(|n| n.next_multiple_of(256)) {
            for blocks in Blocks::ALL {
                quantisation(&args, &cpu, isa, blocks, n)?;
            }
            for weight in WeightType::ALL {
                dequantisation(&args, &base, isa, weight, n)?;
                product(&args, &base, &cpu, isa, weight, n)?;
            }
        }
    }
    Ok(())
}

/// Floats in -1..1 without a pattern.
fn floats(n: usize) -> Vec<f32> {
    (0..n as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0).collect()
}

fn quantisation(args: &Args, cpu: &Library, isa: Isa, blocks: Blocks, n: usize) -> Result<()> {
    let Some(ours) = quantizer(isa, blocks) else { return Ok(()) };
    let name = format!("quantize_row_{}", blocks.ggml_name());
    let (x, mut a) = (floats(n), vec![0u8; n / blocks.block().0 * blocks.block().1]);
    let mut b = a.clone();
    // SAFETY: ggml's functions of these names have the signature of `Quantize`; the buffers hold `n` elements.
    unsafe {
        let own: Quantize = named(cpu, &name)?;
        let own = || own(x.as_ptr(), a.as_mut_ptr(), n as i64);
        compare(args, isa, &name, n, own, || ours(x.as_ptr(), b.as_mut_ptr(), n));
    }
    ensure!(a == b, "{name}: other bytes than ggml's");
    Ok(())
}

/// A row of ggml's own making.
fn row(base: &Library, weight: WeightType, n: usize) -> Result<Vec<u8>> {
    let mut row = vec![0u8; weight.row_bytes(n)];
    // SAFETY: ggml's functions of these names have the signature of `Quantize`; the buffers hold `n` elements.
    unsafe {
        let quantize: Quantize = named(base, &format!("quantize_row_{}_ref", weight.ggml_name()))?;
        quantize(floats(n).as_ptr(), row.as_mut_ptr(), n as i64);
    }
    Ok(row)
}

fn dequantisation(args: &Args, base: &Library, isa: Isa, weight: WeightType, n: usize) -> Result<()> {
    let Some(ours) = dequantizer(isa, weight) else { return Ok(()) };
    let name = format!("dequantize_row_{}", weight.ggml_name());
    let (row, mut a) = (row(base, weight, n)?, vec![0f32; n]);
    let mut b = a.clone();
    // SAFETY: ggml's functions of these names have the signature of `Dequantize`; the buffers hold `n` elements.
    unsafe {
        let own: Dequantize = named(base, &name)?;
        let own = || own(row.as_ptr(), a.as_mut_ptr(), n as i64);
        compare(args, isa, &name, n, own, || ours(row.as_ptr(), b.as_mut_ptr(), n));
    }
    ensure!(a == b, "{name}: other floats than ggml's");
    Ok(())
}

fn product(args: &Args, base: &Library, cpu: &Library, isa: Isa, weight: WeightType, n: usize) -> Result<()> {
    let Some(ours) = dot(isa, weight).filter(|_| n >= LEAST) else { return Ok(()) };
    let name = format!("ggml_vec_dot_{}_q8_0", weight.ggml_name());
    let (x, y) = (row(base, weight, n)?, row(base, WeightType::Q8_0, n)?);
    let (mut a, mut b) = (0f32, 0f32);
    // SAFETY: ggml's functions of these names have the signature of `Dot`; both rows hold `n` elements.
    unsafe {
        let own: Dot = named(cpu, &name)?;
        let own = || own(n as c_int, &raw mut a, 0, x.as_ptr(), 0, y.as_ptr(), 0, 1);
        compare(args, isa, &name, n, own, || b = black_box(ours(n, x.as_ptr(), y.as_ptr())));
    }
    ensure!((a - b).abs() <= 1e-3 * a.abs().max(1.0), "{name}: {b}, but ggml gives {a}");
    Ok(())
}
