//! Loops of nothing but multiply-adds, to measure the most that a CPU can do. These instructions bound a product.

use core::arch::asm;

use crate::formats::Codes;
use crate::isa::Isa;
use crate::kernel::Kernel;

/// The multiply-add instructions of a kernel, which bound its rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// `pmaddwd` + `paddd`, 128 bits: 8 multiply-adds in two instructions; any x86-64.
    Sse2,
    /// `vpmaddubsw` + `vpaddw`, 256 bits: 32 multiply-adds in two instructions. For codes whose
    /// products may be summed in 16 bits.
    Avx2Narrow,
    /// `vpmaddubsw` + `vpmaddwd` + `vpaddd`: 32 multiply-adds in three instructions. For 8-bit codes,
    /// whose products have to be widened at once.
    Avx2Wide,
    /// `vpdpbusd`, 256 bits: 32 multiply-adds in one instruction.
    Vnni256,
    /// `vpdpbusd`, 512 bits: 64 multiply-adds in one instruction.
    Vnni512,
}

impl Mix {
    /// All mixes.
    pub const ALL: [Mix; 5] = [Mix::Sse2, Mix::Avx2Narrow, Mix::Avx2Wide, Mix::Vnni256, Mix::Vnni512];

    /// The mix that bounds the inner loop of `kernel`.
    pub fn of(kernel: &Kernel) -> Mix {
        match kernel.isa {
            Isa::Scalar => Mix::Sse2,
            Isa::Avx2 if matches!(kernel.shape.codes, Codes::Signed) => Mix::Avx2Wide,
            Isa::Avx2 => Mix::Avx2Narrow,
            Isa::Vnni256 => Mix::Vnni256,
            Isa::Avx512 => Mix::Vnni512,
        }
    }

    /// The instructions, for tables.
    pub const fn name(self) -> &'static str {
        match self {
            Mix::Sse2 => "pmaddwd+paddd xmm",
            Mix::Avx2Narrow => "vpmaddubsw+vpaddw ymm",
            Mix::Avx2Wide => "vpmaddubsw+vpmaddwd+vpaddd ymm",
            Mix::Vnni256 => "vpdpbusd ymm",
            Mix::Vnni512 => "vpdpbusd zmm",
        }
    }

    /// The tier whose instructions these are.
    pub const fn isa(self) -> Isa {
        match self {
            Mix::Sse2 => Isa::Scalar,
            Mix::Avx2Narrow | Mix::Avx2Wide => Isa::Avx2,
            Mix::Vnni256 => Isa::Vnni256,
            Mix::Vnni512 => Isa::Avx512,
        }
    }

    /// Multiply-adds of one round of [`Mix::run`].
    pub const fn per_round(self) -> u64 {
        match self {
            Mix::Sse2 => 8 * 8,
            Mix::Avx2Narrow | Mix::Avx2Wide => 8 * 32,
            Mix::Vnni256 => 14 * 32,
            Mix::Vnni512 => 14 * 64,
        }
    }

    /// Executes `n` rounds, at least one.
    ///
    /// # Panics
    /// When the CPU does not have the instructions: see [`Isa::available`].
    pub fn run(self, n: u64) {
        assert!(self.isa().available(), "{} on a CPU without it", self.name());
        let n = n.max(1);
        match self {
            Mix::Sse2 => sse2(n),
            // SAFETY: the tier is available, so the CPU has the features of this function.
            Mix::Avx2Narrow => unsafe { avx2_narrow(n) },
            // SAFETY: the tier is available, so the CPU has the features of this function.
            Mix::Avx2Wide => unsafe { avx2_wide(n) },
            // SAFETY: the tier is available, so the CPU has the features of this function.
            Mix::Vnni256 => unsafe { vnni256(n) },
            // SAFETY: the tier is available, so the CPU has the features of this function.
            Mix::Vnni512 => unsafe { vnni512(n) },
        }
    }
}

/// A loop of `n` rounds of `$step` for every accumulator (`\\acc`). The inputs are registers 30 and 31
/// (below AVX-512: 14 and 15), whatever they hold: integer arithmetic takes the same time for all values.
macro_rules! rounds {
    ($n:ident, $accumulators:literal, $($step:literal),*) => {
        // SAFETY: registers only, all declared lost; the function's features cover the instructions.
        unsafe {
            asm!(
                "2:",
                concat!(".irp acc, ", $accumulators),
                $($step,)*
                ".endr",
                "dec rcx",
                "jnz 2b",
                inout("rcx") $n => _,
                clobber_abi("C"),
                options(nomem, nostack),
            )
        }
    };
}

fn sse2(n: u64) {
    rounds!(n, "0, 1, 2, 3, 4, 5, 6, 7", "movdqa xmm8, xmm14", "pmaddwd xmm8, xmm15", "paddd xmm\\acc, xmm8");
}

#[target_feature(enable = "avx2")]
fn avx2_narrow(n: u64) {
    rounds!(n, "0, 1, 2, 3, 4, 5, 6, 7", "vpmaddubsw ymm8, ymm14, ymm15", "vpaddw ymm\\acc, ymm\\acc, ymm8");
}

#[target_feature(enable = "avx2")]
fn avx2_wide(n: u64) {
    rounds!(
        n,
        "0, 1, 2, 3, 4, 5, 6, 7",
        "vpmaddubsw ymm8, ymm14, ymm15",
        "vpmaddwd ymm8, ymm8, ymm13",
        "vpaddd ymm\\acc, ymm\\acc, ymm8"
    );
}

#[target_feature(enable = "avx512f,avx512vl,avx512vnni")]
fn vnni256(n: u64) {
    rounds!(n, "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13", "vpdpbusd ymm\\acc, ymm30, ymm31");
}

#[target_feature(enable = "avx512f,avx512vnni")]
fn vnni512(n: u64) {
    rounds!(n, "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13", "vpdpbusd zmm\\acc, zmm30, zmm31");
}
