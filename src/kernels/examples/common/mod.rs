//! What the examples share: numbers and memory.

/// A cache line: scratch, activations and weights are aligned to it.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub struct Line(pub [u8; 64]);

/// Zeros for `bytes` bytes.
pub fn aligned(bytes: usize) -> Vec<Line> {
    vec![Line([0; 64]); bytes.div_ceil(64)]
}

/// The generator of `bench/icount/upstream_mm.cpp`, so that both programs work on the same numbers.
pub struct Random(pub u32);

impl Random {
    /// The next 32 bits.
    pub fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.0
    }

    /// A byte of weights, keys or values. Masked, so that no scale is infinite or NaN, wherever it lies in the block.
    pub fn byte(&mut self) -> u8 {
        (self.next() >> 24) as u8 & 0x3b
    }
}
