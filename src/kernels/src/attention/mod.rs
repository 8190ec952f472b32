//! Attention, as in ggml's `FLASH_ATTN_EXT`: of queries that share keys and values, the mean of the values, weighted by the
//! exponential of the scaled product of query and key. A tile of keys at a time, so that scores never leave the caches;
//! what was summed is rescaled when a larger score comes (<https://arxiv.org/abs/2112.05682>).
//!
//! Products of queries and keys are those of activations and weights: keys are the rows of a matrix, of any weight type, and
//! the kernels are those of [`crate::registry`]. Sums are `f32`; ggml sums values of F16 in F16.

mod blocks;
mod functions;
mod heads;
mod online_softmax;
mod seen;
mod values;

pub use heads::{KeyHeads, Rows};
pub use online_softmax::{RunningMax, Scale};
pub use seen::seen;

use crate::dequantize::{DequantizeFn, dequantizer};
use crate::formats::{ActFormat, Rounding, Values, WeightType};
use crate::isa::{DataPath, Isa, LANES};
use crate::kernel::{Blocking, Kernel, Product, Tiles};
use crate::registry;
use core::mem::MaybeUninit;
use functions::{Functions, Sums, WidenFn, functions};
use heads::TilePrefetch;
use seen::{filled, mask};
use values::Weighted;

/// Most queries that are computed together.
pub const MOST_QUERIES: usize = 64;

/// Keys of a tile for many queries: the values, as floats, stay in the level-1 cache.
const KEYS_OF_MANY: usize = 64;

/// Keys of a tile for few queries, which read keys and values once.
const KEYS_OF_FEW: usize = 128;

/// Fewest queries for which values are widened to floats once for all.
const WIDEN_FROM: usize = 16;

/// Floats from the scores of a query to those of the next one.
const SCORES: usize = KEYS_OF_FEW;

/// How rows of values become floats.
#[derive(Clone, Copy, Debug)]
enum Widen {
    /// F16 or BF16.
    Words(WidenFn),
    /// Floats, whose rows are filled up to whole vectors.
    Floats,
    /// Blocks of a quantised type.
    Blocks(DequantizeFn),
}

/// Attention with keys and values of some types and lengths.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Computes the products with keys.
    pub kernel: &'static Kernel,
    /// The format of the queries.
    act: ActFormat,
    functions: &'static Functions,
    value_type: WeightType,
    /// The functions that add values as they lie in memory; `None` where values are widened first.
    direct: Option<&'static Sums>,
    widen: Widen,
    /// Elements of keys and queries, and of values and results.
    key_len: usize,
    value_len: usize,
    /// Most queries at a time.
    queries: usize,
    /// Whether the bits of a result depend on its query and on the keys that it sees alone.
    one_order: bool,
    layout: Layout,
}

/// Keys and values, and the queries that share them.
#[derive(Clone, Copy, Debug)]
pub struct Shared {
    /// The first key, and bytes from key to key.
    pub keys: (*const u8, usize),
    /// The same for values.
    pub values: (*const u8, usize),
    /// How products become scores.
    pub scale: Scale,
}

/// One query.
#[derive(Clone, Copy, Debug)]
pub struct Query {
    /// Its elements.
    pub elements: *const f32,
    /// Halves that are added to its scores, one for every key, times `slope`; or null.
    pub mask: *const u8,
    /// Factor of the mask.
    pub slope: f32,
}

/// Parts of a thread's scratch, behind the queries: offsets in bytes.
#[derive(Clone, Copy, Debug)]
struct Layout {
    panel: usize,
    scores: usize,
    values: usize,
    bytes: usize,
}

impl Attention {
    /// For up to `queries` queries that share keys and values. `None` where there is no kernel for a type on this CPU, or a
    /// length is no multiple of its blocks.
    pub fn new(
        cpu: (DataPath, Isa),
        key: (WeightType, usize),
        value: (WeightType, usize),
        queries: usize,
    ) -> Option<Self> {
        Self::with(registry::kernel_on, false, cpu, key, value, queries)
    }

    /// How keys are cut: not at all if their sums are to have one order.
    const fn blocking(&self) -> Blocking {
        if self.one_order { Blocking::MEASURED.in_one_piece() } else { Blocking::MEASURED }
    }

    /// The same, with results that have the same bits whatever other queries are computed beside, wherever the keys lie, and
    /// however many that are not seen lie between them: the keys that a query sees count in their order. All keys must be
    /// added by one call of [`Self::add`], or by several in their order to the same sums.
    pub fn in_one_order(
        cpu: (DataPath, Isa),
        key: (WeightType, usize),
        value: (WeightType, usize),
        queries: usize,
    ) -> Option<Self> {
        Self::with(registry::keys_in_one_order, true, cpu, key, value, queries)
    }

    fn with(
        choose: impl Fn(DataPath, Isa, WeightType, (usize, usize)) -> Option<&'static Kernel>,
        one_order: bool,
        (path, isa): (DataPath, Isa),
        (key_type, key_len): (WeightType, usize),
        (value_type, value_len): (WeightType, usize),
        queries: usize,
    ) -> Option<Self> {
        let whole = |t: WeightType, n: usize| n > 0 && n.is_multiple_of(t.block().0);
        if queries == 0 || !whole(key_type, key_len) || !whole(value_type, value_len) {
            return None;
        }
        let queries = queries.min(MOST_QUERIES);
        let kernel = choose(path, isa, key_type, (key_len, queries))?;
        let functions = functions(isa)?;
        let (widen, direct) = match value_type {
            WeightType::F16 => (Widen::Words(functions.widen_halves), Some(&functions.halves)),
            WeightType::Bf16 => (Widen::Words(functions.widen_bf16), Some(&functions.bf16)),
            WeightType::F32 => (Widen::Floats, Some(&functions.floats)),
            _ => (Widen::Blocks(dequantizer(isa, value_type)?), (functions.blocks)(value_type)),
        };
        let direct = direct.filter(|_| value_len.is_multiple_of(LANES));
        // With F16 keys ggml rounds queries too, of few tokens only. Rounding gains nothing here.
        let act = match kernel.act.values {
            Values::F32(Rounding::F16) => ActFormat { values: Values::F32(Rounding::None), ..kernel.act },
            _ => kernel.act,
        };
        let empty = Layout { panel: 0, scores: 0, values: 0, bytes: 0 };
        let attention = Attention {
            kernel,
            act,
            functions,
            value_type,
            direct,
            widen,
            key_len,
            value_len,
            queries,
            one_order,
            layout: empty,
        };
        Some(Attention { layout: attention.layout(), ..attention })
    }

    /// The format of the queries.
    pub const fn act(&self) -> ActFormat {
        self.act
    }

    /// `e` to the power of `x`, as for weights.
    pub fn exp(&self, x: f32) -> f32 {
        // SAFETY: the functions are those of a tier that this CPU has.
        unsafe { (self.functions.exp)(x) }
    }

    /// Most queries that [`Self::add`] takes.
    pub const fn most_queries(&self) -> usize {
        self.queries
    }

    /// Floats of a query's sums: its [`RunningMax`] behind them.
    pub const fn sums_len(&self) -> usize {
        self.padded() + LANES
    }

    /// Elements of a value, filled up to whole vectors.
    const fn padded(&self) -> usize {
        self.value_len.next_multiple_of(LANES)
    }

    fn layout(&self) -> Layout {
        let line = |bytes: usize| bytes.next_multiple_of(64);
        let panel = line(self.act.bytes(self.key_len, self.queries));
        let scores = panel + line(self.kernel.scratch_bytes(self.key_len, &self.blocking()));
        let values = scores + 4 * SCORES * self.queries;
        // few queries may have larger tiles of values
        let rows = |queries| if self.widens(queries) { self.keys_of_tile(queries) } else { 0 };
        Layout { panel, scores, values, bytes: values + 4 * self.padded() * rows(self.queries).max(rows(1)) }
    }

    /// Bytes of scratch that [`Self::add`] needs for each thread.
    pub const fn scratch_bytes(&self) -> usize {
        self.layout.bytes
    }

    /// Keys that [`Self::add`] computes at a time for so many queries.
    pub const fn keys_of_tile(&self, queries: usize) -> usize {
        if queries < WIDEN_FROM { KEYS_OF_FEW } else { KEYS_OF_MANY }
    }

    /// Whether values are widened to floats before they are used.
    fn widens(&self, queries: usize) -> bool {
        self.direct.is_none() || (self.value_type != WeightType::F32 && queries >= WIDEN_FROM)
    }

    /// Clears the sums of `n` queries, which lie [`Self::sums_len`] floats apart.
    ///
    /// # Safety
    /// `sums` is writable for as many.
    pub unsafe fn clear(&self, n: usize, sums: *mut f32) {
        for q in 0..n {
            let sums = sums.add(q * self.sums_len());
            sums.write_bytes(0, self.padded());
            self.running(sums).write(RunningMax::NOTHING);
        }
    }

    fn running(&self, sums: *mut f32) -> *mut RunningMax {
        sums.wrapping_add(self.padded()).cast()
    }

    /// Adds the keys of the range to the sums of `n` queries, at least one and at most [`Self::most_queries`]. Returns the
    /// number of products of a query and a key: keys that no query sees are left out.
    ///
    /// # Safety
    /// The keys, values, queries and masks are readable; `sums`, aligned to 4 bytes, is what [`Self::clear`] made, `scratch`
    /// writable for [`Self::scratch_bytes`], aligned to 64 bytes, and this thread's own.
    pub unsafe fn add(
        &self,
        shared: &Shared,
        keys: core::ops::Range<usize>,
        n: usize,
        query: impl Fn(usize) -> Query,
        sums: *mut f32,
        scratch: *mut u8,
    ) -> usize {
        // once, and not for every tile of keys: to find a query takes divisions
        let mut all = [const { MaybeUninit::<Query>::uninit() }; MOST_QUERIES];
        for (q, slot) in all[..n].iter_mut().enumerate() {
            slot.write(query(q));
        }
        let queries = core::slice::from_raw_parts(all.as_ptr().cast::<Query>(), n);
        self.quantize(queries, scratch);
        let step = self.keys_of_tile(n);
        let mut products = 0;
        let mut from = keys.start;
        while from < keys.end {
            let to = (from + step).min(keys.end);
            products +=
                n * self.add_tile(shared, from..to, queries, scratch, sums, scratch, &mut TilePrefetch::nothing());
            from = to;
        }
        products
    }

    /// Queries in the form that products take, at `act`.
    unsafe fn quantize(&self, queries: &[Query], act: *mut u8) {
        let tiles = self.kernel.tiles(self.key_len, queries.len());
        for t in 0..tiles.count {
            self.kernel.quantize_tile_as(self.act, self.key_len, tiles, t, act, |q| queries[q].elements);
        }
    }

    /// [`Self::add`] for one tile of keys and queries that are quantised at `act`. The result is the number of keys from the
    /// first to the last one that is seen.
    #[allow(clippy::too_many_arguments)]
    unsafe fn add_tile(
        &self,
        shared: &Shared,
        keys: core::ops::Range<usize>,
        queries: &[Query],
        act: *const u8,
        sums: *mut f32,
        scratch: *mut u8,
        prefetch: &mut TilePrefetch,
    ) -> usize {
        let (layout, n) = (self.layout, queries.len());
        let scores: *mut f32 = scratch.add(layout.scores).cast();
        let Some(seen) = seen(keys, queries.iter().map(|query| query.mask)) else { return 0 };
        let keys = seen.len();
        self.products(
            shared,
            seen.clone(),
            self.kernel.tiles(self.key_len, n),
            act,
            scratch.add(layout.panel),
            scores,
            prefetch,
        );
        let mut factors = [1.0; MOST_QUERIES];
        for (q, factor) in factors[..n].iter_mut().enumerate() {
            let mask = mask(&queries[q], &seen);
            let running = &mut *self.running(sums.add(q * self.sums_len()));
            let functions = self.functions;
            let online_softmax = if self.one_order { functions.one_order_softmax } else { functions.online_softmax };
            let scores = scores.add(q * SCORES);
            *factor = online_softmax(scores, seen.len(), &mask, shared.scale, running);
            if running.max == f32::NEG_INFINITY {
                scores.write_bytes(0, seen.len());
            }
        }
        self.accumulate_values(shared, seen, n, scores, &factors, sums, scratch.add(layout.values).cast(), prefetch);
        keys
    }

    /// Products of all queries and these keys.
    #[allow(clippy::too_many_arguments)]
    unsafe fn products(
        &self,
        shared: &Shared,
        keys: core::ops::Range<usize>,
        tiles: Tiles,
        act: *const u8,
        panel: *mut u8,
        scores: *mut f32,
        prefetch: &mut TilePrefetch,
    ) {
        let (start, stride) = shared.keys;
        let rows = keys.len();
        let weights = start.add(keys.start * stride);
        let product = Product { weights, stride, rows, k: self.key_len, act, tiles };
        let result = |q: usize| scores.add(q * SCORES);
        let panels = rows.div_ceil(LANES);
        // all panels at once, unless there is something to prefetch between them
        let step = if prefetch.is_done() { panels.max(1) } else { 1 };
        for from in (0..panels).step_by(step) {
            prefetch.keys(LANES);
            self.kernel.multiply(&product, from..from + step, 0..tiles.count, &self.blocking(), panel, result);
        }
    }

    /// Adds the values of these keys, times their weights, to the sums.
    #[allow(clippy::too_many_arguments)]
    unsafe fn accumulate_values(
        &self,
        shared: &Shared,
        keys: core::ops::Range<usize>,
        n: usize,
        weights: *const f32,
        factors: &[f32; MOST_QUERIES],
        sums: *mut f32,
        widened: *mut f32,
        prefetch: &mut TilePrefetch,
    ) {
        let (start, stride) = shared.values;
        let first = start.add(keys.start * stride);
        let (mut values, mut values_stride, mut value_type) = (first, stride, self.value_type);
        let mut table = self.direct.unwrap_or(&self.functions.floats);
        if self.widens(n) {
            for key in 0..keys.len() {
                self.widen_row(first.add(key * stride), widened.add(key * self.padded()));
            }
            (values, values_stride, value_type) = (widened.cast_const().cast(), 4 * self.padded(), WeightType::F32);
            table = &self.functions.floats;
        }
        let vectors = self.padded() / LANES;
        let (fetch, fetch_stride, fetch_rows) = prefetch.take_values(keys.len());
        let mut at = 0;
        while at < vectors {
            let (together, functions) = table.choose(n, vectors - at);
            let groups = Tiles::new(n, functions.len());
            for g in 0..groups.count {
                let (q, end) = (groups.start(g), groups.start(g + 1));
                let bytes = value_type.row_bytes(at * LANES);
                functions[end - q - 1](&Weighted {
                    weights: weights.add(q * SCORES),
                    values: values.add(bytes),
                    values_stride,
                    keys: keys.len(),
                    sums: sums.add(q * self.sums_len() + at * LANES),
                    sums_stride: self.sums_len(),
                    factors: factors.as_ptr().add(q),
                    fetch: fetch.wrapping_add(bytes),
                    fetch_stride,
                    fetch_rows: if g == 0 { fetch_rows } else { 0 },
                });
            }
            at += together;
        }
    }

    /// Widens one value to floats, filled up with zeros.
    unsafe fn widen_row(&self, value: *const u8, to: *mut f32) {
        let whole = self.value_len / LANES * LANES;
        let left = self.value_len - whole;
        match self.widen {
            Widen::Words(widen) => {
                widen(value, to, whole);
                if left > 0 {
                    widen(filled(value.add(2 * whole), left).as_ptr(), to.add(whole), LANES);
                }
            }
            Widen::Floats => {
                core::ptr::copy_nonoverlapping(value, to.cast(), 4 * self.value_len);
                to.add(self.value_len).write_bytes(0, self.padded() - self.value_len);
            }
            // blocks are whole vectors
            Widen::Blocks(dequantize) => dequantize(value, to, self.value_len),
        }
    }

    /// The result of a query whose sums over parts of the keys lie `stride` floats apart, from `sums` on: `value_len` floats at
    /// `to`. `sink` is one more score, of a key without value. Zeros where no key was seen.
    ///
    /// # Safety
    /// The sums of `parts` parts are readable, `to` is writable.
    pub unsafe fn finish(&self, sums: *const f32, parts: usize, stride: usize, sink: Option<f32>, to: *mut f32) {
        let part = |i: usize| {
            let sums = sums.add(i * stride);
            (sums, self.running(sums.cast_mut()).read())
        };
        if self.one_order {
            debug_assert_eq!(parts, 1);
            return self.finish_one(sums, sink, to);
        }
        let max = (0..parts).map(|i| part(i).1.max).fold(sink.unwrap_or(f32::NEG_INFINITY), f32::max);
        // a difference of infinities would not be a number
        let scale = |x: f32| if x == f32::NEG_INFINITY { 0.0 } else { self.exp(x - max) };
        let mut sum = sink.map_or(0.0, scale);
        for i in 0..parts {
            let (_, running) = part(i);
            sum += running.sum * scale(running.max);
        }
        let inverse = if sum == 0.0 { 0.0 } else { 1.0 / sum };
        for i in 0..parts {
            let (sums, running) = part(i);
            let factor = scale(running.max) * inverse;
            for e in 0..self.value_len {
                let v = *sums.add(e) * factor;
                let to = to.add(e);
                to.write_unaligned(if i == 0 { v } else { to.read_unaligned() + v });
            }
        }
    }
    /// The same of one part, in which the running maximum is a power of two.
    unsafe fn finish_one(&self, sums: *const f32, sink: Option<f32>, to: *mut f32) {
        let running = self.running(sums.cast_mut()).read();
        let inverse = if running.max == f32::NEG_INFINITY {
            0.0
        } else {
            // far above all keys the sink leaves nothing to them
            let above = sink.map(|sink| sink - running.max * core::f32::consts::LN_2);
            let of_sink = above.map_or(0.0, |x| if x > 80.0 { f32::INFINITY } else { self.exp(x) });
            1.0 / (running.sum + of_sink)
        };
        for e in 0..self.value_len {
            to.add(e).write_unaligned(*sums.add(e) * inverse);
        }
    }
}
