//! Instruction sets: the vector operations that packing and micro-kernels are written in, and the
//! tokens that prove the CPU has them.
//!
//! Everything is expressed over *sixteen 32-bit lanes*, one lane per weight row ("rows in lanes"):
//! one `zmm` register, a pair of `ymm`, or a plain array. Code above this folder never names a
//! register width.

pub mod avx2;
pub mod avx512;
pub mod scalar;
pub mod vnni256;

use core::sync::atomic::{AtomicU8, Ordering};

/// Rows of a weight panel, and lanes of every vector here.
pub const LANES: usize = 16;

/// The kernel tiers, best last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Portable code, for CPUs without AVX2 and for comparison.
    Scalar,
    /// AVX2, FMA and F16C; 16-bit products (`vpmaddubsw`).
    Avx2,
    /// AVX-512 VNNI in 256-bit registers, for CPUs on which they are faster than 512-bit ones.
    Vnni256,
    /// AVX-512 VNNI in 512-bit registers.
    Avx512,
}

impl Isa {
    /// All tiers, best last.
    pub const ALL: [Isa; 4] = [Isa::Scalar, Isa::Avx2, Isa::Vnni256, Isa::Avx512];

    /// The name used in statistics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Vnni256 => "avx512vnni-256",
            Isa::Avx512 => "avx512vnni",
        }
    }

    /// Whether this CPU (and its operating system) can run the tier.
    pub fn available(self) -> bool {
        features() & 1 << self as u8 != 0
    }
}

/// How a CPU computes 512-bit operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataPath {
    /// At once.
    Full,
    /// In two halves. Also the path of CPUs without 512-bit operations.
    Split,
}

/// Whether this CPU has AVX512_BF16 beside the features of [`Isa::Avx512`].
pub(crate) fn has_bf16() -> bool {
    features() & BF16 != 0
}

/// Bits of [`features`] beside one for each [`Isa`].
const BF16: u8 = 1 << 6;
const KNOWN: u8 = 1 << 7;

/// What this CPU can run. The features are tested by the first call only: every product asks.
fn features() -> u8 {
    static FOUND: AtomicU8 = AtomicU8::new(0);
    match FOUND.load(Ordering::Relaxed) {
        0 => {
            let found = detect();
            FOUND.store(found, Ordering::Relaxed);
            found
        }
        found => found,
    }
}

#[cold]
fn detect() -> u8 {
    let bit = |isa: Isa, token: bool| u8::from(token) << isa as u8;
    let bf16 = if avx512::Bf16::new().is_some() { BF16 } else { 0 };
    KNOWN
        | bit(Isa::Scalar, true)
        | bit(Isa::Avx2, avx2::Avx2::new().is_some())
        | bit(Isa::Vnni256, vnni256::Vnni256::new().is_some())
        | bit(Isa::Avx512, avx512::Avx512::new().is_some())
        | bf16
}

/// Where sixteen rows are: every row is one addressing mode away from one of four pointers, so that
/// no instruction is spent on addresses.
#[derive(Clone, Copy)]
pub struct Quads {
    /// Rows 0, 4, 8 and 12.
    pub quad: [*const u8; 4],
    /// Bytes from row to row.
    pub stride: usize,
    /// Three times that.
    pub stride3: usize,
}

impl Quads {
    /// The rows from `p` on. The compiler must not see how the pointers depend on each other: it
    /// would keep sixteen of them, most of them on the stack.
    #[inline(always)]
    pub fn new(p: *const u8, stride: usize) -> Self {
        let mut quad = [0, 4, 8, 12].map(|r| p.wrapping_add(r * stride));
        let (mut s1, mut s3) = (stride, 3 * stride);
        let [a, b, c, d] = &mut quad;
        // SAFETY: no instruction, so nothing is read through the pointers; the values stay as they are.
        #[allow(clippy::pointers_in_nomem_asm_block)]
        unsafe {
            core::arch::asm!(
                "/* {0} {1} {2} {3} {4} {5} */", inout(reg) *a, inout(reg) *b, inout(reg) *c, inout(reg) *d,
                inout(reg) s1, inout(reg) s3, options(pure, nomem, nostack, preserves_flags)
            );
        }
        Quads { quad, stride: s1, stride3: s3 }
    }

    /// Row `4 * q + i`, `at` bytes on.
    #[inline(always)]
    pub fn row(&self, q: usize, i: usize, at: usize) -> *const u8 {
        let step = match i {
            0 => 0,
            1 => self.stride,
            2 => 2 * self.stride,
            _ => self.stride3,
        };
        self.quad[q].wrapping_add(step).wrapping_add(at)
    }
}

/// Sixteen 32-bit lanes and the operations that packing needs.
///
/// # Safety
/// Every method must be inlined into a function that enables the implementor's target features, on
/// a CPU that has them: holding the ISA's token (`Avx2::new()` and so on) proves the second part.
/// Pointers must be valid for the bytes named; no alignment is needed unless said.
#[allow(clippy::missing_safety_doc)] // one set of conditions for all methods, above
pub unsafe trait Lanes: Copy + 'static {
    /// Sixteen 32-bit integers, also used as 64 bytes or 32 16-bit integers.
    type I: Copy;
    /// Sixteen `f32`.
    type F: Copy;

    /// Whether the micro-kernels of this ISA accumulate in 16-bit lanes (`vpmaddubsw`). Then weight codes
    /// of the 8-bit types stay signed, integer scales are pairs of `i16`, and the seeds of the
    /// accumulators are pairs of `i16`. Otherwise codes are unsigned and scales are `f32`.
    const ACC16: bool;

    /// Registers that sixteen lanes take.
    const REGISTERS: usize;

    /// Whether these are 512-bit registers with AVX-512 F, BW, DQ and VL.
    const WIDE: bool = false;

    /// 64 bytes at `p`.
    unsafe fn load(p: *const u8) -> Self::I;
    /// Stores 64 bytes at `p`.
    unsafe fn store(p: *mut u8, v: Self::I);
    /// Sixteen floats at `p`.
    unsafe fn loadf(p: *const u8) -> Self::F;
    /// Stores sixteen floats at `p`.
    unsafe fn storef(p: *mut u8, v: Self::F);
    /// The first `n` (1 to 16) floats at `p`, the other lanes zero; nothing else is read.
    unsafe fn loadf_n(p: *const f32, n: usize) -> Self::F;
    /// Stores the first `n` (1 to 16) lanes at `p`; nothing else is written.
    unsafe fn storef_n(p: *mut f32, v: Self::F, n: usize);
    /// One 32-bit value at `p` in every lane.
    unsafe fn bcast(p: *const u8) -> Self::I;
    /// One float at `p` in every lane.
    unsafe fn bcastf(p: *const u8) -> Self::F;
    /// `x` in every lane.
    unsafe fn splat(x: i32) -> Self::I;
    /// `x` in every lane.
    unsafe fn splatf(x: f32) -> Self::F;

    /// Bitwise and.
    unsafe fn and(a: Self::I, b: Self::I) -> Self::I;
    /// Bitwise or.
    unsafe fn or(a: Self::I, b: Self::I) -> Self::I;
    /// Bitwise exclusive or.
    unsafe fn xor(a: Self::I, b: Self::I) -> Self::I;
    /// 32-bit addition.
    unsafe fn add(a: Self::I, b: Self::I) -> Self::I;
    /// 32-bit subtraction.
    unsafe fn sub(a: Self::I, b: Self::I) -> Self::I;
    /// `count`, one more in lanes where `a` is above `b`, both signed.
    unsafe fn count_above(count: Self::I, a: Self::I, b: Self::I) -> Self::I;
    /// 32-bit shift left by `n`, a constant at every call once inlined.
    unsafe fn shl(a: Self::I, n: u32) -> Self::I;
    /// 32-bit logical shift right.
    unsafe fn shr(a: Self::I, n: u32) -> Self::I;
    /// 32-bit arithmetic shift right.
    unsafe fn sar(a: Self::I, n: u32) -> Self::I;
    /// Each byte of `idx` (0 to 15) replaced by that entry of `table`.
    unsafe fn lut16(table: &[i8; 16], idx: Self::I) -> Self::I;
    /// Bit `4*G + j` of each lane becomes bit 4 of byte `j`; all other bits are zero.
    unsafe fn spread_bits<const G: usize>(x: Self::I) -> Self::I;

    /// The 32-bit words of `table` at the indices in the lanes. All of them must be in the table.
    unsafe fn gather(table: *const u32, index: Self::I) -> Self::I;
    /// Addition of bytes.
    unsafe fn add_bytes(a: Self::I, b: Self::I) -> Self::I;
    /// Each unsigned byte times three, divided by 256.
    unsafe fn thirds(a: Self::I) -> Self::I;

    /// Magnitudes of signed bytes, as unsigned bytes.
    unsafe fn abs_bytes(a: Self::I) -> Self::I;
    /// The low halves of products of 16-bit words.
    unsafe fn mul_words(a: Self::I, b: Self::I) -> Self::I;
    /// Byte `j` of each lane becomes the byte of that lane whose number (0 to 3) is byte `j` of `WHICH`, or zero where that
    /// is 0x80.
    unsafe fn pick_bytes<const WHICH: u32>(a: Self::I) -> Self::I;

    /// Signed integers to floats.
    unsafe fn cvt(a: Self::I) -> Self::F;
    /// The low halves of the lanes, read as IEEE half precision.
    unsafe fn half_lo(a: Self::I) -> Self::F;
    /// Product.
    unsafe fn mulf(a: Self::F, b: Self::F) -> Self::F;
    /// `i`, but the compiler must assume that it depends on `v`. So loads from addresses made of it come after the
    /// computation of `v`. Otherwise the compiler moves loads of an unrolled loop to its start, until registers
    /// run out.
    #[inline(always)]
    unsafe fn after(i: isize, _v: Self::F) -> isize {
        i
    }
    /// The last `n` lanes, zero in the others.
    unsafe fn last(a: Self::F, n: usize) -> Self::F;
    /// The sum of all lanes.
    unsafe fn sum(a: Self::F) -> f32;
    /// Stores the sums of four vectors at `p`, each by the additions of [`Self::sum`].
    #[inline(always)]
    unsafe fn store_sums(p: *mut f32, v: [Self::F; 4]) {
        for (i, v) in v.into_iter().enumerate() {
            p.add(i).write_unaligned(Self::sum(v));
        }
    }
    /// `a * b + c`, rounded once.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `c - a * b`, rounded once.
    unsafe fn fnma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;

    /// Sixteen consecutive halves at `p`, as floats.
    unsafe fn widen_halves(p: *const u8) -> Self::F;
    /// Sixteen consecutive 16-bit words at `p`, each in the upper half of its lane: `bf16` as floats.
    unsafe fn widen_bf16(p: *const u8) -> Self::F;

    /// Sixteen bytes from each of sixteen rows, `at` bytes on, transposed: lane `r` of result `i` is
    /// the `i`-th 32-bit word of row `r`.
    unsafe fn load_words4(rows: &Quads, at: usize) -> [Self::I; 4];
    /// One 32-bit word from each of sixteen rows.
    unsafe fn load_words1(rows: &Quads, at: usize) -> Self::I;
    /// One 16-bit word from each of sixteen rows, zero-extended.
    unsafe fn load_halves(rows: &Quads, at: usize) -> Self::I;
}

/// More operations, for exponentials.
///
/// # Safety
/// As [`Lanes`].
#[allow(clippy::missing_safety_doc)]
pub unsafe trait Real: Lanes {
    /// The larger one; `b` where either is NaN.
    unsafe fn maxf(a: Self::F, b: Self::F) -> Self::F;
    /// The largest lane; lanes that are NaN may be left out.
    unsafe fn largest(a: Self::F) -> f32;
    /// Sum.
    unsafe fn addf(a: Self::F, b: Self::F) -> Self::F;
    /// Quotient.
    unsafe fn divf(a: Self::F, b: Self::F) -> Self::F;
    /// The nearest whole number.
    unsafe fn roundf(a: Self::F) -> Self::F;
    /// `a` times two to the power of `n`, a whole number from -1000 to 127 (or NaN, which gives NaN); zero where that
    /// is below the normal numbers.
    unsafe fn scale2(a: Self::F, n: Self::F) -> Self::F;
    /// The same for `n` from -250 to 250, with denormals and infinities; `a` is a normal number, and NaN where `n` is.
    unsafe fn scale2_wide(a: Self::F, n: Self::F) -> Self::F;
    /// The smaller one; `b` where either is NaN.
    unsafe fn minf(a: Self::F, b: Self::F) -> Self::F;
    /// Difference.
    unsafe fn subf(a: Self::F, b: Self::F) -> Self::F;
    /// `a` where `x` is above zero, else (also where it is NaN) `b`.
    unsafe fn pick(x: Self::F, a: Self::F, b: Self::F) -> Self::F;
}

/// The dot product of `bf16` pairs, of CPUs with AVX512_BF16.
///
/// # Safety
/// As [`Lanes`]; the CPU has AVX512_BF16, see [`avx512::Bf16`].
#[allow(clippy::missing_safety_doc)]
pub unsafe trait DotBf16: Lanes {
    /// Adds, per lane, the two products of `bf16` `w` and `a`, the high ones first. Each addition
    /// rounds to nearest even; denormals count as zero, in operands and results. All operands are
    /// registers: Bochs (in bochscpu 0.4.0), on which machines without AVX-512 test, reads a vector operand at an 8-bit
    /// displacement from the wrong address (the displacement of `vdpbf16ps zmm, zmm, [p + 64]` is encoded
    /// as 1 and not multiplied by 64).
    unsafe fn dot_bf16(acc: Self::F, w: Self::I, a: Self::I) -> Self::F;
    /// The same with the pair at `a` in every lane, an operand from memory.
    unsafe fn dot_bf16_pair(acc: Self::F, w: Self::I, a: *const u8) -> Self::F;
    /// Pairs of `low` and `high`, rounded to nearest even; denormals become zero.
    unsafe fn to_bf16_pairs(low: Self::F, high: Self::F) -> Self::I;
    /// The last `n` of the 32 16-bit words, zero in the others.
    unsafe fn last_words(a: Self::I, n: usize) -> Self::I;
}

/// The dot products of ISAs with 32-bit accumulation (`vpdpbusd`, `vpdpwssd`).
///
/// # Safety
/// As [`Lanes`].
#[allow(clippy::missing_safety_doc)]
pub unsafe trait Dot: Lanes {
    /// Adds, per lane, the four products of unsigned bytes `w` and signed bytes `a`. Exact.
    unsafe fn dot4(acc: Self::I, w: Self::I, a: Self::I) -> Self::I;
    /// Adds, per lane, the two products of signed 16-bit `w` and `a`. Exact.
    unsafe fn dot2(acc: Self::I, w: Self::I, a: Self::I) -> Self::I;
}
