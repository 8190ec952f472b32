//! One matrix product as a thing to time: weights, activations, results and scratch of a kernel.

use std::fmt;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use zen5turbo_kernels::formats::WeightType;
use zen5turbo_kernels::isa::{Isa, LANES};
use zen5turbo_kernels::kernel::{Blocking, Kernel, Product, Tiles};
use zen5turbo_kernels::registry;
use zen5turbo_kernels::width::{self, DataPath, Width};
use zen5turbo_peaks::memory::uncached_bytes;

use crate::memory::{Memory, Pages};

/// Rows and columns of one weight matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Rows.
    pub rows: usize,
    /// Elements of a row.
    pub k: usize,
}

/// Copies of one random weight matrix, read in turn.
#[derive(Debug)]
pub struct Weights {
    kind: WeightType,
    size: Size,
    pages: Pages,
    copies: usize,
    memory: Rc<Memory>,
}

impl Weights {
    /// Random codes, scales of ordinary size (a denormal or infinite one would be timed as such).
    /// Without `copies`, as many as no cache holds. `size.k` must be a multiple of the type's block.
    pub fn random(kind: WeightType, size: Size, copies: Option<usize>, pages: Pages) -> io::Result<Weights> {
        let (block, block_bytes) = kind.block();
        assert!(size.k.is_multiple_of(block), "k = {} is no multiple of the block of {block}", size.k);
        let one = random_blocks(kind, size.rows * (size.k / block));
        debug_assert_eq!(one.len(), size.rows * size.k / block * block_bytes);
        let copies = copies.unwrap_or_else(|| uncached_bytes().div_ceil(one.len())).max(1);
        let memory = Rc::new(Memory::repeat(&one, copies, pages)?);
        Ok(Weights { kind, size, pages, copies, memory })
    }

    /// The same memory taken for matrices of about `bytes` with rows of `k` elements, a multiple of the type's block.
    pub fn reshaped(&self, k: usize, bytes: usize) -> Weights {
        let row = self.kind.row_bytes(k);
        let rows = (bytes.min(self.memory.len()) / row).max(1).next_multiple_of(LANES).min(self.memory.len() / row);
        let (size, copies) = (Size { rows, k }, self.memory.len() / (rows * row));
        Weights { size, copies, memory: Rc::clone(&self.memory), ..*self }
    }

    /// Bytes of one copy.
    pub fn bytes(&self) -> usize {
        self.kind.row_bytes(self.size.k) * self.size.rows
    }

    /// Rows and columns of one copy.
    pub fn size(&self) -> Size {
        self.size
    }

    /// The pages it lies in.
    pub fn pages(&self) -> Pages {
        self.pages
    }

    /// Number of copies.
    pub fn copies(&self) -> usize {
        self.copies
    }
}

/// Where the blocks of a type hold half-precision scales (ggml-common.h). A type that is not listed gets
/// bytes that are ordinary numbers however they are read.
fn half_scales(kind: WeightType) -> Option<&'static [usize]> {
    Some(match kind.ggml_name() {
        "q4_0" | "q5_0" | "q8_0" | "iq4_nl" | "iq4_xs" => &[0],
        "iq2_xxs" | "iq2_xs" | "iq2_s" | "iq3_xxs" | "iq3_s" => &[0],
        "q4_1" | "q5_1" | "q4_K" | "q5_K" => &[0, 2],
        "q2_K" => &[80, 82],
        "q3_K" => &[108],
        "q6_K" => &[208],
        "iq1_s" | "q1_0" | "q2_0" => &[0],
        "tq1_0" => &[52],
        "tq2_0" => &[64],
        "iq1_m" | "nvfp4" | "mxfp4" => &[],
        _ => return None,
    })
}

fn random_blocks(kind: WeightType, blocks: usize) -> Vec<u8> {
    let bytes = kind.block().1;
    let mut out = vec![0; blocks * bytes];
    // The same in every run.
    fastrand::Rng::with_seed(1).fill(&mut out);
    for block in out.chunks_exact_mut(bytes) {
        match half_scales(kind) {
            // 2^-8 to 2^-7
            Some(scales) => scales.iter().for_each(|&at| block[at + 1] = 0x1c | block[at + 1] & 3),
            // f32, f16 or bf16: the byte with sign and exponent is 20h to 3Bh
            None => block.iter_mut().for_each(|b| *b = *b & 0x1b | 0x20),
        }
        if kind.ggml_name() == "mxfp4" {
            block[0] = 120 + (block[0] & 3); // E8M0: 2^(x - 128)
        }
        if kind.ggml_name() == "nvfp4" {
            block[..4].iter_mut().for_each(|d| *d &= 0x47); // UE4M3: up to 2^2
        }
        if kind.ggml_name() == "iq1_m" {
            block[55] = 0x10 | block[55] & 15; // the sign, the exponent's upper bits
            block[53] = 0xc0 | block[53] & 0x3f;
        }
    }
    out
}

/// Quantised activations of one kernel, with the columns they come from.
#[derive(Debug)]
pub struct Activations {
    kernel: &'static Kernel,
    k: usize,
    tiles: Tiles,
    columns: Memory,
    quantised: Memory,
}

impl Activations {
    /// `columns` columns of `k` elements in -1..1.
    pub fn new(kernel: &'static Kernel, k: usize, columns: usize) -> io::Result<Activations> {
        let mut floats = Memory::zeroed(k * columns * size_of::<f32>())?;
        for i in 0..k * columns {
            // SAFETY: `k * columns` floats, aligned to 2 MiB.
            unsafe { floats.as_mut_ptr().cast::<f32>().add(i).write((i * 7919 % 2001) as f32 / 1000.0 - 1.0) };
        }
        let quantised = Memory::zeroed(kernel.act.bytes(k, columns))?;
        Ok(Activations { kernel, k, tiles: kernel.tiles(k, columns), columns: floats, quantised })
    }

    /// Quantises all columns.
    pub fn quantize(&mut self) {
        let (columns, k) = (self.columns.as_ptr().cast::<f32>(), self.k);
        for t in 0..self.tiles.count {
            // SAFETY: `columns` holds `k` floats for each column, `quantised` the bytes for all of
            // them; whoever holds a kernel got it from the registry, which asked the CPU.
            unsafe {
                self.kernel.quantize_tile(k, self.tiles, t, self.quantised.as_mut_ptr(), |c| columns.add(c * k));
            }
        }
    }

    /// Bytes read by one call of [`Self::quantize`].
    pub fn bytes(&self) -> usize {
        self.columns.len()
    }
}

/// How this CPU computes 512-bit operations.
pub fn data_path() -> DataPath {
    width::measure().map_or(DataPath::Split, Width::data_path)
}

/// A product of one kernel, ready to run.
#[derive(Debug)]
pub struct Case {
    kernel: &'static Kernel,
    weights: Rc<Weights>,
    turn: usize,
    activations: Activations,
    results: Memory,
    scratch: Memory,
    blocking: Blocking,
}

/// What one run of a [`Case`] took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// Quantising the activations, seconds.
    pub quantize: f64,
    /// The product, seconds.
    pub multiply: f64,
}

impl Case {
    /// The product of `weights` and `columns` columns on `isa`, with the kernel for CPUs that compute 512-bit operations
    /// as `path` says; `None` where this CPU or the registry has no such kernel.
    pub fn new(
        weights: &Rc<Weights>,
        (path, isa): (DataPath, Isa),
        columns: usize,
        blocking: Blocking,
    ) -> io::Result<Option<Case>> {
        let kernel = registry::kernel_on(path, isa, weights.kind, (weights.size.k, columns));
        kernel.map(|kernel| Case::of(weights, kernel, columns, blocking)).transpose()
    }

    /// The same with a kernel for the type of the weights.
    pub fn of(weights: &Rc<Weights>, kernel: &'static Kernel, columns: usize, blocking: Blocking) -> io::Result<Case> {
        assert_eq!(kernel.weight, weights.kind);
        let Size { rows, k } = weights.size;
        Ok(Case {
            kernel,
            weights: Rc::clone(weights),
            turn: 0,
            activations: Activations::new(kernel, k, columns)?,
            results: Memory::zeroed(rows * columns * size_of::<f32>())?,
            scratch: Memory::zeroed(kernel.scratch_bytes(k, &blocking))?,
            blocking,
        })
    }

    /// The kernel.
    pub fn kernel(&self) -> &'static Kernel {
        self.kernel
    }

    /// Columns of activations.
    pub fn columns(&self) -> usize {
        self.activations.tiles.columns
    }

    /// The weights.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Multiply-adds of one run.
    pub fn macs(&self) -> usize {
        self.weights.size.rows * self.weights.size.k * self.columns()
    }

    /// Quantises the activations.
    pub fn quantize(&mut self) {
        self.activations.quantize();
    }

    /// Multiplies by the next copy of the weights. The activations must have been quantised once.
    pub fn multiply(&mut self) {
        let Size { rows, k } = self.weights.size;
        let stride = self.weights.bytes() / rows;
        let results = self.results.as_mut_ptr().cast::<f32>();
        self.turn = (self.turn + 1) % self.weights.copies;
        // SAFETY: the turn is below the number of copies. Weights, columns, results and scratch are
        // separate mappings of the sizes that `multiply` names, and scratch is this case's own.
        unsafe {
            let product = Product {
                weights: self.weights.memory.as_ptr().add(self.turn * self.weights.bytes()),
                stride,
                rows,
                k,
                act: self.activations.quantised.as_ptr(),
                tiles: self.activations.tiles,
            };
            self.kernel.multiply(
                &product,
                0..rows.div_ceil(LANES),
                0..product.tiles.count,
                &self.blocking,
                self.scratch.as_mut_ptr(),
                |c| results.add(c * rows),
            );
        }
    }

    /// Runs `times` products, each with its quantisation, and returns what one took on average.
    pub fn run(&mut self, times: u64) -> Times {
        let mut sum = (Duration::ZERO, Duration::ZERO);
        for _ in 0..times {
            let start = Instant::now();
            self.quantize();
            let middle = Instant::now();
            self.multiply();
            sum = (sum.0 + (middle - start), sum.1 + middle.elapsed());
        }
        Times { quantize: sum.0.as_secs_f64() / times as f64, multiply: sum.1.as_secs_f64() / times as f64 }
    }
}

/// Weight types by their ggml names, in any case; an error names those there are.
pub fn parse_type(name: &str) -> Result<WeightType, Unknown> {
    WeightType::ALL.into_iter().find(|t| t.ggml_name().eq_ignore_ascii_case(name)).ok_or_else(|| Unknown {
        what: "weight type",
        found: name.to_owned(),
        known: WeightType::ALL.map(|t| t.ggml_name()).join(", "),
    })
}

/// A tier by its name; an error names those there are.
pub fn parse_isa(name: &str) -> Result<Isa, Unknown> {
    Isa::ALL.into_iter().find(|isa| isa.name().eq_ignore_ascii_case(name)).ok_or_else(|| Unknown {
        what: "ISA",
        found: name.to_owned(),
        known: Isa::ALL.map(Isa::name).join(", "),
    })
}

/// A name that nothing goes by.
#[derive(Clone, Debug)]
pub struct Unknown {
    what: &'static str,
    found: String,
    known: String,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no {} {:?}; expected one of: {}", self.what, self.found, self.known)
    }
}

impl std::error::Error for Unknown {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_of_this_machine_gives_finite_results_on_random_weights() {
        let size = Size { rows: 40, k: 512 };
        for kind in WeightType::ALL {
            for pages in [Pages::Small, Pages::File] {
                let weights = Rc::new(Weights::random(kind, size, Some(2), pages).unwrap());
                for isa in Isa::ALL {
                    for path in [DataPath::Full, DataPath::Split] {
                        let case = Case::new(&weights, (path, isa), 9, Blocking::default()).unwrap();
                        let Some(mut case) = case else { continue };
                        case.run(3);
                        // SAFETY: rows * columns floats, written by the run.
                        let results =
                            unsafe { std::slice::from_raw_parts(case.results.as_ptr().cast::<f32>(), 40 * 9) };
                        assert!(results.iter().all(|x| x.is_normal()), "{}", case.kernel.name());
                    }
                }
            }
        }
    }

    #[test]
    fn names_are_found_in_any_case_and_errors_list_them() {
        assert_eq!(parse_type("Q4_k").unwrap().ggml_name(), "q4_K");
        assert_eq!(parse_isa("AVX2").unwrap(), Isa::Avx2);
        let error = parse_isa("avx3").unwrap_err().to_string();
        assert!(error.contains("\"avx3\"") && error.contains("avx512vnni-256"), "{error}");
    }
}
