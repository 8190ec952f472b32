//! Graphs of matrix products in ggml, on weights that do not fit the caches; plain, and as ggml repacks them.

use std::ffi::{c_int, c_void};
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use zen5turbo_ggml::abi::{BUFFER_USAGE_WEIGHTS, InitParams, Object, PoolParamsRoom, STATUS_SUCCESS, TYPE_F32};
use zen5turbo_host::memory::map::{HUGE_PAGE, Region};
use zen5turbo_kernels::formats::WeightType;

use super::ggml::Ggml;
use super::repack::Repack;
use super::weights::{MappedFile, Memory};

/// Rows and elements of a row of every second matrix; the others have them the other way round, as the
/// two halves of a feed-forward layer. Both are multiples of every block.
const SHAPE: (usize, usize) = (4096, 2048);

/// Elements of a matrix.
const ELEMENTS: usize = SHAPE.0 * SHAPE.1;

/// Elements that are quantised; the others are copies of them.
const SAMPLE: usize = ELEMENTS / 16;

/// Products of a graph with so few columns that reading the weights takes the time: all matrices.
const FEW: usize = 4;

/// Products of a graph with more columns.
const SOME: usize = 4;

/// Products of a graph with very many.
const MANY: usize = 2;
const VERY_MANY: usize = 17;

/// A pass shorter than this is preceded by one that is not timed: threads wake up.
const SHORT: Duration = Duration::from_millis(2);

/// How weights lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layout {
    /// As in the model's file.
    Plain,
    /// In ggml's buffer type `CPU_REPACK`.
    Repacked,
}

/// The weights of one type and the graphs over them.
pub struct Products {
    ggml: Ggml,
    backend: Object,
    pool: Object,
    memory: Memory,
    weights: Object,
    /// ggml's buffer type for repacked weights; `None` where it has none.
    repack: Option<Repack>,
    of: Option<Kind>,
}

/// The type that the weights have now.
struct Kind {
    number: c_int,
    matrices: usize,
    /// Bytes of a matrix.
    bytes: usize,
    /// The repacked matrices, if there are any.
    repacked: Vec<Object>,
    /// In the order of [`Layout`].
    graphs: [Option<Graphs>; 2],
}

/// Graphs that together read every matrix, one after the other.
struct Graphs {
    columns: usize,
    products_each: usize,
    list: Vec<Object>,
    next: usize,
    context: Object,
    buffer: Object,
    _memory: Region,
}

/// What a turn took.
pub struct Turn {
    /// The median of the passes, nanoseconds for one product.
    pub ns: f64,
    /// Products that were computed.
    pub products: u64,
}

impl Products {
    /// A backend with `threads` threads, and `bytes` for weights, spread over all NUMA nodes: on huge pages, or in a file
    /// in the folder `file`.
    pub fn new(ggml: Ggml, threads: usize, bytes: usize, file: Option<&Path>) -> Result<Self> {
        let f = &ggml.functions;
        let memory = match file {
            Some(folder) => Memory::File(MappedFile::new(folder, bytes)?),
            None => Memory::Huge(Memory::huge(bytes)?),
        };
        // SAFETY: ggml's functions with their signatures. The buffer is given memory that lives as long as it does.
        let (backend, weights) = unsafe {
            let backend = (f.ggml_backend_cpu_init)();
            ensure!(!backend.is_null(), "ggml_backend_cpu_init failed");
            let weights = buffer(&ggml, memory.range())?;
            (f.ggml_backend_buffer_set_usage)(weights, BUFFER_USAGE_WEIGHTS);
            (backend, weights)
        };
        let repack = Repack::of(&ggml)?;
        let mut products = Products { ggml, backend, pool: std::ptr::null_mut(), memory, weights, repack, of: None };
        products.set_threads(threads)?;
        Ok(products)
    }

    /// Computes with `threads` threads from now on, in a pool of exactly as many.
    pub fn set_threads(&mut self, threads: usize) -> Result<()> {
        let f = &self.ggml.functions;
        let threads = c_int::try_from(threads)?;
        let mut params: PoolParamsRoom = [0; 512];
        // SAFETY: ggml's functions with their signatures. The parameters have room to spare; no graph runs, and the backend
        // has the new pool before the old one is freed.
        unsafe {
            (f.ggml_threadpool_params_init)(params.as_mut_ptr().cast(), threads);
            let pool = (f.ggml_threadpool_new)(params.as_mut_ptr().cast());
            ensure!(!pool.is_null(), "ggml_threadpool_new failed for {threads} threads");
            (f.ggml_backend_cpu_set_n_threads)(self.backend, threads);
            (f.ggml_backend_cpu_set_threadpool)(self.backend, pool);
            let old = std::mem::replace(&mut self.pool, pool);
            if !old.is_null() {
                (f.ggml_threadpool_free)(old);
            }
        }
        Ok(())
    }

    /// Fills the memory with weights of this type.
    ///
    /// # Errors
    /// This ggml does not have it, or the memory has no room for two matrices.
    pub fn fill(&mut self, weight: WeightType) -> Result<()> {
        self.forget_graphs(Layout::Plain);
        self.forget_graphs(Layout::Repacked);
        self.of = None;
        let number = self.ggml.number_of(weight)?;
        let bytes = weight.row_bytes(ELEMENTS);
        let matrices = self.memory.range().len() / bytes / 2 * 2;
        ensure!(matrices >= 2, "two matrices of {} bytes do not fit the memory for weights", bytes);
        let mut random = fastrand::Rng::with_seed(1);
        let floats: Vec<f32> = (0..SAMPLE).map(|_| random.f32() - 0.5).collect();
        let mut sample = vec![0u8; bytes / (ELEMENTS / SAMPLE)];
        let (rows, k) = (SAMPLE / SHAPE.1, SHAPE.1);
        // Some types are not quantised without an importance of each column.
        let importance = matches!(weight, WeightType::Iq1S | WeightType::Iq1M).then(|| vec![1f32; k]);
        // SAFETY: ggml's function with its signature; the sample has room for the blocks of the type.
        let written = unsafe {
            (self.ggml.functions.ggml_quantize_chunk)(
                number,
                floats.as_ptr(),
                sample.as_mut_ptr().cast(),
                0,
                rows as i64,
                k as i64,
                importance.as_ref().map_or(std::ptr::null(), |all| all.as_ptr()),
            )
        };
        ensure!(written == sample.len(), "ggml made {written} bytes of {}, not {}", weight.ggml_name(), sample.len());
        self.memory.fill(&sample, matrices * (ELEMENTS / SAMPLE))?;
        self.of = Some(Kind { number, matrices, bytes, repacked: Vec::new(), graphs: [None, None] });
        Ok(())
    }

    /// Has ggml repack the weights into a buffer beside them; whether it has kernels for them.
    pub fn repack(&mut self) -> Result<bool> {
        let kind = self.of.as_mut().context("no type was asked for")?;
        let Some(repack) = &mut self.repack else { return Ok(false) };
        let start = self.memory.range().start;
        let matrices: Vec<_> = (0..kind.matrices).map(|matrix| (shape(matrix), start + matrix * kind.bytes)).collect();
        kind.repacked = repack.fill(&self.ggml, kind.number, kind.bytes, &matrices)?;
        Ok(!kind.repacked.is_empty())
    }

    /// Computes products with `columns` columns for at least `time`, and every graph at least once.
    pub fn turn(&mut self, layout: Layout, columns: usize, time: Duration) -> Result<Turn> {
        let built = self.of.as_ref().and_then(|kind| kind.graphs[layout as usize].as_ref());
        if built.is_none_or(|graphs| graphs.columns != columns) {
            self.forget_graphs(layout);
            self.build(layout, columns)?;
        }
        let (f, backend) = (&self.ggml.functions, self.backend);
        let graphs = self.of.as_mut().and_then(|kind| kind.graphs[layout as usize].as_mut());
        let graphs = graphs.context("no type was asked for")?;
        let mut pass = || {
            let graph = graphs.list[graphs.next];
            graphs.next = (graphs.next + 1) % graphs.list.len();
            let start = Instant::now();
            // SAFETY: a graph of this ggml whose tensors have memory.
            let status = unsafe { (f.ggml_backend_graph_compute)(backend, graph) };
            ensure!(status == STATUS_SUCCESS, "ggml_backend_graph_compute gave status {status}");
            Ok(start.elapsed())
        };
        let mut passes = Vec::new();
        let first = pass()?;
        if first >= SHORT {
            passes.push(first.as_secs_f64());
        }
        let mut all = 1;
        let start = Instant::now();
        while passes.is_empty() || start.elapsed() + first < time {
            passes.push(pass()?.as_secs_f64());
            all += 1;
        }
        // ggml's own threads would wait for the next graph on all cores for a tenth of a second.
        // SAFETY: the pool of the backend, between two graphs; the next one wakes it.
        unsafe { (f.ggml_threadpool_pause)(self.pool) };
        let each = graphs.products_each as u64;
        let median = crate::statistics::median(&passes).unwrap_or(0.0);
        Ok(Turn { ns: median * 1e9 / each as f64, products: all * each })
    }

    fn build(&mut self, layout: Layout, columns: usize) -> Result<()> {
        let f = &self.ggml.functions;
        let kind = self.of.as_mut().context("no type was asked for")?;
        ensure!(layout == Layout::Plain || !kind.repacked.is_empty(), "there are no repacked weights");
        let products_each = match columns {
            0..=FEW => kind.matrices,
            VERY_MANY.. => MANY,
            _ => SOME,
        }
        .min(kind.matrices);
        let count = kind.matrices / products_each;
        let tensors = 3 * products_each * count;
        // Activations and results of a pair of products, in floats: each shape has one side as columns.
        let floats = products_each.div_ceil(2) * 2 * (SHAPE.0 + SHAPE.1) * columns;
        let memory = Memory::huge((floats * 4).next_multiple_of(HUGE_PAGE))?;
        // SAFETY: ggml's functions with their signatures; the context has room for every tensor and graph. Weights,
        // activations and results lie inside memory that lives as long as the graphs.
        unsafe {
            let overhead =
                tensors * (f.ggml_tensor_overhead)() + count * (f.ggml_graph_overhead_custom)(products_each * 4, false);
            let params =
                InitParams { mem_size: overhead + (64 << 10), mem_buffer: std::ptr::null_mut(), no_alloc: true };
            let context = (f.ggml_init)(params);
            ensure!(!context.is_null(), "ggml_init failed for {tensors} tensors");
            let buffer = buffer(&self.ggml, memory.range())?;
            (memory.range().start as *mut u8).write_bytes(0x3c, floats * 4); // 0.0115 each
            let mut list = Vec::new();
            for first in (0..count).map(|graph| graph * products_each) {
                let graph = (f.ggml_new_graph_custom)(context, products_each * 4, false);
                ensure!(!graph.is_null(), "ggml_new_graph_custom failed");
                let mut at = memory.range().start;
                let place = |buffer: Object, tensor: Object, at: usize| {
                    ensure!(!tensor.is_null(), "ggml made no tensor");
                    let status = (f.ggml_backend_tensor_alloc)(buffer, tensor, at as *mut c_void);
                    ensure!(status == STATUS_SUCCESS, "ggml_backend_tensor_alloc gave status {status}");
                    anyhow::Ok(())
                };
                for matrix in first..first + products_each {
                    let (rows, k) = shape(matrix);
                    let weights = match layout {
                        Layout::Repacked => kind.repacked[matrix],
                        Layout::Plain => {
                            let weights = (f.ggml_new_tensor_2d)(context, kind.number, k as i64, rows as i64);
                            place(self.weights, weights, self.memory.range().start + matrix * kind.bytes)?;
                            weights
                        }
                    };
                    let x = (f.ggml_new_tensor_2d)(context, TYPE_F32, k as i64, columns as i64);
                    place(buffer, x, at)?;
                    at += k * columns * 4;
                    let product = (f.ggml_mul_mat)(context, weights, x);
                    place(buffer, product, at)?;
                    at += rows * columns * 4;
                    (f.ggml_build_forward_expand)(graph, product);
                }
                list.push(graph);
            }
            kind.graphs[layout as usize] =
                Some(Graphs { columns, products_each, list, next: 0, context, buffer, _memory: memory });
        }
        Ok(())
    }

    fn forget_graphs(&mut self, layout: Layout) {
        let Some(graphs) = self.of.as_mut().and_then(|kind| kind.graphs[layout as usize].take()) else { return };
        // SAFETY: both are of this ggml, and nothing uses them any more.
        unsafe {
            (self.ggml.functions.ggml_backend_buffer_free)(graphs.buffer);
            (self.ggml.functions.ggml_free)(graphs.context);
        }
    }
}

/// Rows and elements of a row.
const fn shape(matrix: usize) -> (usize, usize) {
    if matrix.is_multiple_of(2) { SHAPE } else { (SHAPE.1, SHAPE.0) }
}

/// A buffer of ggml's over this memory, as llama.cpp makes one over a mapped file.
///
/// # Safety
/// The memory is mapped and outlives the buffer.
unsafe fn buffer(ggml: &Ggml, range: Range<usize>) -> Result<Object> {
    // SAFETY: memory of ours, aligned to pages.
    let buffer = unsafe { (ggml.functions.ggml_backend_cpu_buffer_from_ptr)(range.start as *mut c_void, range.len()) };
    ensure!(!buffer.is_null(), "ggml_backend_cpu_buffer_from_ptr failed");
    Ok(buffer)
}
