//! Where the queries, keys, values and results of an attention lie.

use zen5turbo_kernels::attention::{KeyHeads, Query, Rows, Scale, Shared};

use crate::ggml::abi::Tensor;

/// The addresses and sizes of queries, keys, values and results.
pub struct Heads {
    query: Strided,
    key: Strided,
    value: Strided,
    /// Its start is null when there is no mask.
    mask: Strided,
    mask_ne: [usize; 2],
    /// A score for every query head; null for none.
    sinks: *const f32,
    result: *mut f32,
    /// Elements of a result.
    value_len: usize,
    pub tokens: usize,
    /// The number of query heads.
    heads: usize,
    /// How many query heads share a head of keys and values.
    sharing: usize,
    /// The number of independent batches.
    pub batches: usize,
    /// How many batches share keys and values.
    pub batches_sharing: usize,
    pub keys: usize,
}

/// The memory of a tensor, with the bytes of a step in each dimension.
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

/// One query: token, query head and batch.
pub struct Place {
    token: usize,
    head: usize,
    batch: usize,
}

impl Heads {
    /// The heads of an attention whose shapes were checked.
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

    /// The number of heads of keys.
    pub fn key_heads(&self) -> usize {
        self.heads / self.sharing
    }

    /// The number of groups of queries that share keys. A group is a head of keys in one batch.
    pub fn groups(&self) -> usize {
        self.key_heads() * self.batches
    }

    /// The number of queries of a group.
    pub fn rows(&self) -> usize {
        self.tokens * self.sharing
    }

    /// Query `row` of a group. The heads of one token follow each other, because they see the same keys.
    #[inline]
    pub fn place(&self, group: usize, row: usize) -> Place {
        let key_heads = self.key_heads();
        Place {
            token: row / self.sharing,
            head: group % key_heads * self.sharing + row % self.sharing,
            batch: group / key_heads,
        }
    }

    /// The factor of the mask for every query head; empty when all factors are 1.
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
    /// The tensor of the sinks still exists.
    pub unsafe fn sink(&self, p: &Place) -> Option<f32> {
        // SAFETY: there is one sink for every query head, as `decide` has checked.
        (!self.sinks.is_null()).then(|| unsafe { self.sinks.add(p.head).read() })
    }
}

/// The factor of the mask of a head (ALiBi, <https://arxiv.org/abs/2108.12409>), computed as in ggml. `exp` is the
/// exponential function. The C library's is not used, because this library would then need libm.
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
