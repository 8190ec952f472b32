//! Copies, one thread. `small/...`: libc's memcpy, called directly and through the shim's trampoline,
//! from 8 bytes to 4 KiB. `large/...`: libc's and the streaming copy, 1 to 64 MiB, between places of
//! 256 MiB that the caches do not hold; `large-read/...`: with the result read again.

use std::ffi::c_void;
use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use libloading::Library;
use zen5turbo_host::memory::{Pages, Region};
use zen5turbo_kernels::copy::stream;
use zen5turbo_kernels::isa::avx2::Avx2;

type Copy = unsafe extern "C" fn(*mut c_void, *const c_void, usize) -> *mut c_void;

const MIB: usize = 1 << 20;
/// Memory of the large copies, half for sources and half for destinations.
const AREA: usize = 512 * MIB;

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(400))
        .without_plots()
        .configure_from_args();
    small(&mut criterion);
    large(&mut criterion, "large", false);
    large(&mut criterion, "large-read", true);
    criterion.final_summary();
}

/// `memcpy` of the library that `path` names, which need not be loaded yet.
fn memcpy_of(path: &Path) -> Copy {
    // SAFETY: the initialisers that run are those of the C library, or of the shim, which this program may have.
    let library = unsafe { Library::new(path) };
    let library = library.unwrap_or_else(|e| panic!("{e}; run: cargo build --release -p zen5turbo-shim"));
    // SAFETY: a function of this name has the signature of memcpy.
    let memcpy =
        *unsafe { library.get::<Copy>("memcpy") }.unwrap_or_else(|e| panic!("{} has none: {e}", path.display()));
    std::mem::forget(library); // it stays open
    memcpy
}

fn small(criterion: &mut Criterion) {
    let shim = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/libzen5turbo.so");
    let ways = [("libc", memcpy_of(Path::new("libc.so.6"))), ("shim", memcpy_of(&shim))];
    assert_ne!(ways[0].1 as usize, ways[1].1 as usize, "the shim exports no memcpy");
    let (source, mut target) = (vec![1u8; 8192], vec![0u8; 8192]);
    // Half a page apart in their low bits: `rep movsb` of places with the same ones takes 1.2 us for 4 KiB.
    let source = &source[source.as_ptr().align_offset(4096)..][..4096];
    let page = target.as_ptr().align_offset(4096);
    let half = if page >= 2048 { page - 2048 } else { page + 2048 };
    let target = &mut target[half..][..4096];
    for bytes in [8, 16, 64, 256, 1024, 4096] {
        let mut group = criterion.benchmark_group(format!("small/{bytes}"));
        group.throughput(Throughput::Bytes(bytes as u64));
        for (name, copy) in ways {
            group.bench_function(name, |b| {
                // SAFETY: both slices have 4096 bytes.
                b.iter(|| unsafe { copy(black_box(target.as_mut_ptr()).cast(), source.as_ptr().cast(), bytes) });
            });
        }
        group.finish();
    }
}

fn large(criterion: &mut Criterion, name: &str, read: bool) {
    let Some(avx2) = Avx2::new() else { return };
    let region = Region::new(AREA, Pages::Transparent).expect("memory for the copies");
    let area = region.range().start as *mut u8;
    // SAFETY: just mapped; pages that are there, not the kernel's one page of zeros.
    unsafe { area.write_bytes(1, AREA) };
    for mib in [1, 2, 4, 8, 16, 32, 64] {
        let bytes = mib * MIB;
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Bytes(bytes as u64));
        let mut at = 0;
        let mut run = |way: &dyn Fn(*mut u8, *const u8)| {
            at = (at + bytes) % (AREA / 2);
            let target = area.wrapping_add(AREA / 2 + at);
            way(target, area.wrapping_add(at));
            if read {
                // SAFETY: inside the area.
                black_box((0..bytes).step_by(64).map(|i| u64::from(unsafe { *target.add(i) })).sum::<u64>());
            }
        };
        group.bench_function(BenchmarkId::new("libc", mib), |b| {
            // SAFETY: two places of the area that do not overlap.
            b.iter(|| run(&|to, from| unsafe { to.copy_from_nonoverlapping(from, bytes) }));
        });
        group.bench_function(BenchmarkId::new("stream", mib), |b| {
            // SAFETY: two places of the area that do not overlap; the token says that the CPU has AVX2.
            b.iter(|| run(&|to, from| unsafe { stream(avx2, to, from, bytes) }));
        });
        group.finish();
    }
}
