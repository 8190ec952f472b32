//! Where the queries, keys, values and results of an attention lie.

use zen5turbo_kernels::attention::{KeyHeads, Query, Rows, Scale, Shared};

use crate::ggml::abi::Tensor;

/// Where queries, keys, values and results lie.
pub struct Heads {
    query: Strided,
    key: Strided,
    value: Strided,
    /// Without one: null.
    mask: Strided,
    mask_ne: [usize; 2],
    /// A score for every query head; null for none.
    sinks: *const f32,
    result: *mut f32,
    /// Elements of a result.
    value_len: usize,
    pub tokens: usize,
    /// Query heads, those that share keys and values, and independent batches.
    heads: usize,
    sharing: usize,
    pub batches: usize,
    /// Batches that share keys and values.
    pub batches_sharing: usize,
    pub keys: usize,
}

/// Memory with steps of so many bytes.
pub struct Strided {
    start: *const u8,
    nb: [usize; 4],
}

impl Strided {
    fn of(t: &Tensor) -> Self {
        Strided { start: t.data.cast_const().cast(), nb: t.nb }
    }

    #[inline]
    fn at(&self, i1: usize, i2: usize, i3: usize) -> *const u8 {
        self.start.wrapping_add(i1 * self.nb[1] + i2 * self.nb[2] + i3 * self.nb[3])
    }
}

/// One of the query heads that share keys and values, of one token, by its number in the group.
pub struct Place {
    token: usize,
    head: usize,
    batch: usize,
}

impl Heads {
    /// Those of an attention whose shapes are known to fit.
    pub fn new(op: &Tensor, [q, k, v]: [&Tensor; 3], mask: Option<&Tensor>, sinks: Option<&Tensor>) -> Self {
        let n = |x: i64| x as usize;
        Heads {
            query: Strided::of(q),
            key: Strided::of(k),
            value: Strided::of(v),
            mask: mask.map_or(Strided { start: std::ptr::null(), nb: [0; 4] }, Strided::of),
            mask_ne: mask.map_or([1, 1], |m| [n(m.ne[2]), n(m.ne[3])]),
            sinks: sinks.map_or(std::ptr::null(), |s| s.data.cast_const().cast()),
            result: op.data.cast(),
            value_len: n(v.ne[0]),
            tokens: n(q.ne[1]),
            heads: n(q.ne[2]),
            sharing: n(q.ne[2] / k.ne[2]),
            batches: n(q.ne[3]),
            batches_sharing: n(q.ne[3] / k.ne[3]),
            keys: n(k.ne[1]),
        }
    }

    /// Heads of keys.
    pub fn key_heads(&self) -> usize {
        self.heads / self.sharing
    }

    /// Groups of queries that share keys: heads of keys in all batches.
    pub fn groups(&self) -> usize {
        self.key_heads() * self.batches
    }

    /// Queries of a group.
    pub fn rows(&self) -> usize {
        self.tokens * self.sharing
    }

    /// Query `row` of a group. Heads of one token follow each other: they see the same keys.
    #[inline]
    pub fn place(&self, group: usize, row: usize) -> Place {
        let key_heads = self.key_heads();
        Place {
            token: row / self.sharing,
            head: group % key_heads * self.sharing + row % self.sharing,
            batch: group / key_heads,
        }
    }

    /// What every query head's mask is multiplied by; none where that is 1.
    pub fn slopes(&self, max_bias: f32, exp: impl Fn(f32) -> f32) -> Vec<f32> {
        let heads = if max_bias > 0.0 { self.heads } else { 0 };
        (0..heads).map(|head| slope(head, self.heads, max_bias, &exp)).collect()
    }

    pub fn query(&self, p: &Place, slopes: &[f32]) -> Query {
        Query {
            elements: self.query.at(p.token, p.head, p.batch).cast(),
            mask: self.mask(p),
            slope: slopes.get(p.head).copied().unwrap_or(1.0),
        }
    }

    fn mask(&self, p: &Place) -> *const u8 {
        if self.mask.start.is_null() {
            return std::ptr::null();
        }
        self.mask.at(p.token, p.head % self.mask_ne[0], p.batch % self.mask_ne[1])
    }

    /// All masks of a batch.
    pub fn masks(&self, batch: usize) -> impl Iterator<Item = *const u8> {
        let heads = self.mask_ne[0].min(self.heads);
        (0..self.tokens * heads).map(move |i| self.mask(&Place { token: i / heads, head: i % heads, batch }))
    }

    /// Keys and values of all heads of a batch.
    pub fn all(&self, batch: usize, scale: Scale) -> KeyHeads {
        let batch = batch / self.batches_sharing;
        let rows = |rows: &Strided| Rows { start: rows.at(0, 0, batch), stride: rows.nb[1], head: rows.nb[2] };
        KeyHeads { count: self.key_heads(), keys: rows(&self.key), values: rows(&self.value), scale }
    }

    pub fn shared(&self, group: usize, scale: Scale) -> Shared {
        let (head, batch) = (group % self.key_heads(), group / self.key_heads() / self.batches_sharing);
        Shared {
            keys: (self.key.at(0, head, batch), self.key.nb[1]),
            values: (self.value.at(0, head, batch), self.value.nb[1]),
            scale,
        }
    }

    pub fn result(&self, p: &Place) -> *mut f32 {
        self.result.wrapping_add(((p.batch * self.tokens + p.token) * self.heads + p.head) * self.value_len)
    }

    /// # Safety
    /// The sinks are those of ggml's tensor.
    pub unsafe fn sink(&self, p: &Place) -> Option<f32> {
        // SAFETY: one for every head, as `decide` checked.
        (!self.sinks.is_null()).then(|| unsafe { self.sinks.add(p.head).read() })
    }
}

/// What a head's mask is multiplied by (ALiBi, <https://arxiv.org/abs/2108.12409>), as ggml has it; `exp` is the
/// exponential, which the C library's is not taken for: that would be one more library to load.
fn slope(head: usize, heads: usize, max_bias: f32, exp: impl Fn(f32) -> f32) -> f32 {
    let log2 = 1usize << heads.ilog2();
    let (exponent, steps) = if head < log2 { (max_bias, head + 1) } else { (max_bias / 2.0, 2 * (head - log2) + 1) };
    exp(-std::f32::consts::LN_2 * exponent * steps as f32 / log2 as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_powers_of_two_that_halve_from_head_to_head_of_eight() {
        let slopes: Vec<f32> = (0..12).map(|head| slope(head, 12, 8.0, f32::exp)).collect();
        let expected = [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015_625, 0.007_812_5, 0.003_906_25];
        // those beyond lie between, from the square root of the first on
        let between = [0.5f32.sqrt(), 0.125f32.sqrt(), 0.03125f32.sqrt(), 0.007_812_5f32.sqrt()];
        for (got, expected) in slopes.iter().zip(expected.iter().chain(&between)) {
            assert!((got / expected - 1.0).abs() < 1e-6, "{slopes:?}");
        }
    }
}
