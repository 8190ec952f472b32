//! `rows`: ggml's own functions for single rows and the kernels that take their place, in turns, everything in
//! the nearest caches; medians over the turns.

use std::ffi::{CString, c_int, c_void};
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Parser;
use zen5turbo_bench::median;
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

type Dequantize = unsafe extern "C" fn(*const u8, *mut f32, i64);
type Quantize = unsafe extern "C" fn(*const f32, *mut u8, i64);
type Dot = unsafe extern "C" fn(c_int, *mut f32, usize, *const u8, usize, *const u8, usize, c_int);

/// An opened library of ggml.
struct Library(*mut c_void);

impl Library {
    fn open(path: &Path) -> Result<Self> {
        let name = CString::new(path.as_os_str().as_encoded_bytes())?;
        // SAFETY: a C string. The library's initialisers are ggml's.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) };
        ensure!(!handle.is_null(), "{} cannot be opened; expected a shared library of ggml", path.display());
        Ok(Library(handle))
    }

    /// # Safety
    /// `F` is the function's type.
    unsafe fn function<F: Copy>(&self, name: &str) -> Result<F> {
        let symbol = CString::new(name)?;
        // SAFETY: an open library and a C string.
        let address = unsafe { libc::dlsym(self.0, symbol.as_ptr()) };
        ensure!(!address.is_null(), "{name} is not exported; expected a ggml from July 2024 on");
        // SAFETY: by contract.
        Ok(unsafe { std::mem::transmute_copy(&address) })
    }
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
    let base = Library::open(&args.libraries.join("libggml-base.so"))?;
    let cpu = Library::open(&args.libraries.join("libggml-cpu.so"))?;
    // SAFETY: `void ggml_cpu_init(void)`.
    unsafe { cpu.function::<unsafe extern "C" fn()>("ggml_cpu_init")?() };
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
    // SAFETY: the signature; the buffers hold `n` elements.
    unsafe {
        let own: Quantize = cpu.function(&name)?;
        let own = || own(x.as_ptr(), a.as_mut_ptr(), n as i64);
        compare(args, isa, &name, n, own, || ours(x.as_ptr(), b.as_mut_ptr(), n));
    }
    ensure!(a == b, "{name}: other bytes than ggml's");
    Ok(())
}

/// A row of ggml's own making.
fn row(base: &Library, weight: WeightType, n: usize) -> Result<Vec<u8>> {
    let mut row = vec![0u8; weight.row_bytes(n)];
    // SAFETY: the signature; the buffers hold `n` elements.
    unsafe {
        let quantize: Quantize = base.function(&format!("quantize_row_{}_ref", weight.ggml_name()))?;
        quantize(floats(n).as_ptr(), row.as_mut_ptr(), n as i64);
    }
    Ok(row)
}

fn dequantisation(args: &Args, base: &Library, isa: Isa, weight: WeightType, n: usize) -> Result<()> {
    let Some(ours) = dequantizer(isa, weight) else { return Ok(()) };
    let name = format!("dequantize_row_{}", weight.ggml_name());
    let (row, mut a) = (row(base, weight, n)?, vec![0f32; n]);
    let mut b = a.clone();
    // SAFETY: the signature; the buffers hold `n` elements.
    unsafe {
        let own: Dequantize = base.function(&name)?;
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
    // SAFETY: the signature; the buffers hold `n` elements.
    unsafe {
        let own: Dot = cpu.function(&name)?;
        let own = || own(n as c_int, &raw mut a, 0, x.as_ptr(), 0, y.as_ptr(), 0, 1);
        compare(args, isa, &name, n, own, || b = black_box(ours(n, x.as_ptr(), y.as_ptr())));
    }
    ensure!((a - b).abs() <= 1e-3 * a.abs().max(1.0), "{name}: {b}, but ggml gives {a}");
    Ok(())
}
