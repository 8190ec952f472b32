//! No byte outside what was given is touched: every buffer ends right before, or starts right
//! after, a page that cannot be accessed.

use super::data::{Rng, block, random_columns, random_matrix};
use super::every_kernel;
use super::harness::{Case, bits, row_bytes};
use crate::copy::stream;
use crate::isa::avx2::Avx2;
use crate::isa::{DataPath, LANES};
use crate::kernel::{Blocking, Product};

/// Which end of the buffer is guarded tightly.
#[derive(Clone, Copy, Debug)]
pub enum Side {
    Start,
    End,
}

/// A buffer between two inaccessible pages.
pub struct Guarded {
    map: *mut u8,
    pages: usize,
    at: usize,
    len: usize,
}

const PAGE: usize = 4096;
const FILL: u8 = 0xa5;

impl Guarded {
    /// `align` moves a buffer at the end down by less than itself.
    pub fn new(len: usize, align: usize, side: Side) -> Self {
        let pages = len.div_ceil(PAGE).max(1);
        // SAFETY: an anonymous mapping of our own, whose inner pages are then made accessible.
        let map = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let map = libc::mmap(std::ptr::null_mut(), (pages + 2) * PAGE, libc::PROT_NONE, flags, -1, 0);
            assert_ne!(map, libc::MAP_FAILED);
            let map = map.cast::<u8>();
            let inner = map.add(PAGE);
            assert_eq!(libc::mprotect(inner.cast(), pages * PAGE, libc::PROT_READ | libc::PROT_WRITE), 0);
            inner.write_bytes(FILL, pages * PAGE);
            map
        };
        let at = match side {
            Side::Start => 0,
            Side::End => (pages * PAGE - len) / align * align,
        };
        Guarded { map, pages, at, len }
    }

    pub fn of(bytes: &[u8], side: Side) -> Self {
        let g = Self::new(bytes.len(), 1, side);
        // SAFETY: `g` holds as many bytes.
        unsafe { g.ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        g
    }

    pub fn floats(x: &[f32], side: Side) -> Self {
        Self::of(&x.iter().flat_map(|x| x.to_ne_bytes()).collect::<Vec<_>>(), side)
    }

    pub fn ptr(&self) -> *mut u8 {
        self.map.wrapping_add(PAGE + self.at)
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: accessible and initialised since `new`.
        unsafe { std::slice::from_raw_parts(self.ptr(), self.len) }
    }

    /// The rest of the accessible pages is untouched.
    pub fn check(&self, what: &str) {
        // SAFETY: all pages between the guard pages are accessible, and initialised since `new`.
        let all = unsafe { std::slice::from_raw_parts(self.map.add(PAGE), self.pages * PAGE) };
        let ok = all[..self.at].iter().chain(&all[self.at + self.len..]).all(|&b| b == FILL);
        assert!(ok, "written outside {what}");
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`.
        unsafe { libc::munmap(self.map.cast(), (self.pages + 2) * PAGE) };
    }
}

/// Runs `case` with every buffer guarded, compares with its unguarded run and returns that.
pub fn guarded(kernel: &crate::kernel::Kernel, case: &Case<'_>, side: Side) -> Vec<f32> {
    let n = case.columns.len();
    let tiles = kernel.tiles(case.k, n);
    let weights = Guarded::of(case.weights, side);
    let inputs: Vec<_> = case.columns.iter().map(|x| Guarded::floats(x, side)).collect();
    let act = Guarded::new(kernel.act.bytes(case.k, n), 1, side);
    let scratch = Guarded::new(kernel.scratch_bytes(case.k, &case.blocking), 64, side);
    let out: Vec<_> = (0..n).map(|_| Guarded::new(4 * case.rows, 4, side)).collect();
    let product =
        Product { weights: weights.ptr(), stride: case.stride, rows: case.rows, k: case.k, act: act.ptr(), tiles };
    // SAFETY: the buffers are as large as documented, and no larger.
    unsafe {
        for t in 0..tiles.count {
            kernel.quantize_tile(case.k, tiles, t, act.ptr(), |c| inputs[c].ptr().cast());
        }
        let panels = 0..case.rows.div_ceil(LANES);
        kernel.multiply(&product, panels, 0..tiles.count, &case.blocking, scratch.ptr(), |c| out[c].ptr().cast());
    }
    act.check("the tiles");
    scratch.check("the scratch");
    let mut got = vec![];
    for out in &out {
        out.check("the result");
        got.extend(out.bytes().chunks_exact(4).map(|b| u32::from_ne_bytes(b.try_into().unwrap())));
    }
    let plain = case.run(kernel);
    assert_eq!(got, bits(&plain), "{}", kernel.name());
    plain
}

#[test]
fn nothing_outside_the_buffers_is_touched() {
    let rng = &mut Rng(7);
    for kernel in every_kernel() {
        for (rows, n, blocks) in [(1, 1, 1), (15, 8, 3), (16, 3, 2), (17, 9, 1), (33, 5, 3)] {
            let k = blocks * block(kernel.weight);
            // rows close together, and apart
            for gap in [0, 7] {
                let stride = row_bytes(kernel.weight, k) + gap;
                let (matrix, columns) = (random_matrix(kernel.weight, rows, k, stride, rng), random_columns(n, k, rng));
                for (side, panel_bytes) in [(Side::Start, 20 << 10), (Side::End, 20 << 10), (Side::End, 0)] {
                    let blocking = Blocking { panel_bytes, prefetch_bytes: 4 << 10, ..Blocking::of(DataPath::Full) };
                    let case = Case {
                        weights: &matrix,
                        stride,
                        rows,
                        k,
                        columns: &columns,
                        blocking,
                        out_stride: rows,
                        pieces: None,
                    };
                    guarded(kernel, &case, side);
                }
            }
        }
    }
}

#[test]
#[should_panic(expected = "written outside")]
fn a_write_beside_a_guarded_buffer_is_noticed() {
    let g = Guarded::new(60, 64, Side::End);
    // SAFETY: the byte is in the accessible page, beyond the buffer.
    unsafe { g.ptr().add(60).write(0) };
    g.check("it");
}

/// Copies `bytes` to a place that is `shift` bytes off a page.
pub fn check_copy(avx2: Avx2, bytes: &[u8], shift: usize, side: Side) {
    let n = bytes.len();
    let (source, destination) = (Guarded::of(bytes, side), Guarded::new(n + shift, 1, side));
    // At the start of its page it ends early, at the end it begins late.
    let at = if matches!(side, Side::Start) { 0 } else { shift };
    // SAFETY: two objects, with `n` bytes from either pointer.
    let copied = unsafe {
        stream(avx2, destination.ptr().add(at), source.ptr(), n);
        std::slice::from_raw_parts(destination.ptr(), n + shift)
    };
    assert_eq!(&copied[at..at + n], bytes, "{n} bytes, {side:?}, {shift}");
    assert!(copied[..at].iter().chain(&copied[at + n..]).all(|&b| b == FILL), "{n} bytes, {side:?}");
    destination.check("the copy");
}

/// Lengths around a cache line, a turn of the loop and a page, at every kind of alignment.
#[test]
fn the_streaming_copy_is_exact_and_stays_inside() {
    let Some(avx2) = Avx2::new() else {
        return zen5turbo_skip::skip(zen5turbo_skip::Need::Avx2, "this CPU has no AVX2, by which the copy is made");
    };
    let mut rng = Rng(9);
    for n in (0..400).chain([4095, 4096, 10_000]) {
        let bytes: Vec<u8> = (0..n).map(|_| rng.byte()).collect();
        for side in [Side::Start, Side::End] {
            for shift in [0, 1, 31, 33] {
                check_copy(avx2, &bytes, shift, side);
            }
        }
    }
}
