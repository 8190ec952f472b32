//! `ZEN5TURBO_BLAS`: a BLIS library that the user chooses, such as AMD's AOCL-BLIS, computes the matrix products that a
//! program gives to `cblas_sgemm` (a ggml built with GGML_BLAS).
//!
//! The library is opened with `RTLD_DEEPBIND`, because its functions call each other (`cblas_sgemm` calls `sgemm_`).
//! These calls must not reach the BLAS that the program is linked with.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::config::{KernelChoice, config};
use crate::gate::state::{self, State};
use crate::ggml::checked::ggml_name;
use crate::ggml::hooks::blas::SGEMM;
use crate::loader::symbols::{Library, first, function};
use crate::log::{self, log};
use crate::reason::Reason;
use crate::stats;

/// `CblasRowMajor` of `CBLAS_ORDER` in cblas.h.
const ROW_MAJOR: c_int = 101;
/// `CblasNoTrans` of `CBLAS_TRANSPOSE` in cblas.h.
const NO_TRANS: c_int = 111;

/// The BLIS library that computes.
pub struct Route {
    /// Its `cblas_sgemm`.
    pub sgemm: *mut c_void,
    /// `void bli_thread_set_num_threads(dim_t)`, unless the user has set `BLIS_NUM_THREADS`.
    set_threads: Option<unsafe extern "C" fn(i64)>,
}

// SAFETY: a route holds addresses of functions of a library that is never closed. They may be called from any thread.
unsafe impl Send for Route {}
// SAFETY: a route does not change, and its functions may be called from several threads at the same time.
unsafe impl Sync for Route {}

static ROUTE: OnceLock<Option<Route>> = OnceLock::new();
static CALLS: AtomicU64 = AtomicU64::new(0);

/// Whether a library was chosen, and may compute: it adds in another order than the program's own.
#[inline]
fn is_wanted() -> bool {
    config().blas.is_some() && config().kernels != KernelChoice::Exact
}

/// Opens the library in the constructor, while no other thread reads the environment.
#[cfg_attr(test, allow(dead_code))]
pub fn open_at_start() {
    if is_wanted() && state::current() == State::Active {
        ROUTE.get_or_init(|| open(true));
    }
}

/// The BLIS library, which is used instead of the program's BLAS. `None` when the user chose none or it cannot be used,
/// and when the shim is not active.
#[inline]
pub fn route() -> Option<&'static Route> {
    if !is_wanted() || state::current() != State::Active {
        return None;
    }
    ROUTE.get_or_init(|| open(false)).as_ref()
}

/// Counts a call that goes to the BLIS library.
pub fn count() {
    CALLS.fetch_add(1, Relaxed);
}

/// The number of calls of `cblas_sgemm` that went to the BLIS library.
pub fn calls() -> u64 {
    CALLS.load(Relaxed)
}

impl Route {
    /// Sets the number of threads that the program has set in its own BLAS.
    pub fn set_threads(&self, n: c_int) {
        if let Some(set) = self.set_threads {
            // SAFETY: the library is a BLIS, whose function has this signature. If its dim_t has 32 bits, it reads the
            // lower half.
            unsafe { set(i64::from(n.max(1))) }
        }
    }
}

fn open(at_start: bool) -> Option<Route> {
    let path = config().blas.as_deref()?;
    match load(path, at_start) {
        Ok((route, version)) => {
            log!(info, "cblas_sgemm is sent to {} ({version})", path.display());
            Some(route)
        }
        Err((reason, what)) => {
            stats::event(reason);
            log::line(format_args!(
                "ZEN5TURBO_BLAS={}: {what}; the program's own cblas_sgemm computes",
                path.display()
            ));
            None
        }
    }
}

/// Opens the library and checks it. Also returns its version. An opened library stays open, because its threads may
/// run.
fn load(path: &Path, at_start: bool) -> Result<(Route, String), (Reason, String)> {
    let unusable = |what: &str| (Reason::BlasNotLoaded, what.to_owned());
    if first(c"__sanitizer_print_stack_trace").is_some() {
        return Err(unusable("a program built with a sanitizer does not allow RTLD_DEEPBIND"));
    }
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|_| unusable("the path holds a zero byte"))?;
    // SAFETY: the user has asked for this library, and with it for its constructors.
    let library = unsafe { Library::open_for_itself(&name) };
    let library = library.map_err(|why| unusable(&format!("it cannot be opened ({why})")))?;
    let find = |name: &CStr| {
        let missing = || (Reason::BlasSymbolsMissing, format!("it is no BLIS: it has no {}", name.to_string_lossy()));
        library.symbol(name).ok_or_else(missing)
    };
    let sgemm = find(SGEMM)?;
    let (int_size, version) = (find(c"bli_info_get_blas_int_type_size")?, find(c"bli_info_get_version_str")?);
    let set_threads = find(c"bli_thread_set_num_threads")?;
    // SAFETY: the functions are BLIS's and have these signatures. Both return constants and initialise nothing. The
    // result of the first has 32 or 64 bits, and the lower half is the same.
    let (bits, version) = unsafe {
        let int_size: unsafe extern "C" fn() -> u32 = function(int_size);
        let version: unsafe extern "C" fn() -> *const c_char = function(version);
        (int_size(), ggml_name(version()).unwrap_or("without a version").to_owned())
    };
    if bits != 32 {
        return Err((
            Reason::BlasIntegersDiffer,
            format!("its BLAS integers have {bits} bits, and ggml calls with 32 (use the LP64 library)"),
        ));
    }
    if at_start && architecture_is_to_be_named(state::cpu().is_zen5(), &version) {
        // SAFETY: the arguments are C strings. `at_start` says that the constructor runs, before the program has threads that
        // could read the environment.
        unsafe { libc::setenv(c"BLIS_ARCH_TYPE".as_ptr(), c"zen5".as_ptr(), 0) };
    }
    let by_user = std::env::var_os("BLIS_NUM_THREADS").is_some();
    // SAFETY: the library is a BLIS, so its function of this name has this signature.
    let set_threads = (!by_user).then(|| unsafe { function(set_threads) });
    Ok((Route { sgemm, set_threads }, version))
}

/// Whether `BLIS_ARCH_TYPE` is set to `zen5`. Only AMD's BLIS knows architectures by name; another BLIS would read
/// `zen5` as the number 0, which is another CPU.
fn architecture_is_to_be_named(zen5: bool, version: &str) -> bool {
    zen5 && version.contains("AOCL")
}

/// `cblas_sgemm` in plain loops, for a caller that has no other one, such as a program that links it weakly.
///
/// # Safety
/// As for any `cblas_sgemm`: `a`, `b` and `c` are matrices of the given shapes.
pub unsafe extern "C" fn plain_sgemm(
    order: c_int,
    trans_a: c_int,
    trans_b: c_int,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: f32,
    a: *const f32,
    lda: c_int,
    b: *const f32,
    ldb: c_int,
    beta: f32,
    c: *mut f32,
    ldc: c_int,
) {
    let step = |row: c_int, column: c_int, ld: c_int, plain: bool| -> usize {
        let (slow, fast) = if plain { (row, column) } else { (column, row) };
        slow as usize * ld as usize + fast as usize
    };
    let rows = order == ROW_MAJOR;
    for i in 0..m {
        for j in 0..n {
            // SAFETY: the matrices have these shapes, by the contract of this function.
            unsafe {
                let sum: f32 = (0..k)
                    .map(|l| {
                        *a.add(step(i, l, lda, rows == (trans_a == NO_TRANS)))
                            * *b.add(step(l, j, ldb, rows == (trans_b == NO_TRANS)))
                    })
                    .sum();
                let at = c.add(step(i, j, ldc, rows));
                // beta = 0 overwrites the old value, even if it is not a number (NaN).
                *at = alpha * sum + if beta == 0.0 { 0.0 } else { beta * *at };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_architecture_is_named_for_amds_library_on_zen_5_only() {
        assert!(architecture_is_to_be_named(true, "AOCL-BLIS 5.0.0 Build 20241015"));
        assert!(!architecture_is_to_be_named(true, "0.9.0"));
        assert!(!architecture_is_to_be_named(false, "AOCL-BLIS 5.0.0 Build 20241015"));
    }

    /// All orders and transpositions of A = [1 2 3; 4 5 6], B = [1 2; 3 4; 5 6].
    #[test]
    fn the_plain_product_knows_orders_and_transpositions() {
        let (a, at) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0_f32], [1.0, 4.0, 2.0, 5.0, 3.0, 6.0_f32]);
        let (b, bt) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0_f32], [1.0, 3.0, 5.0, 2.0, 4.0, 6.0_f32]);
        let trans = 112;
        // A matrix stored by columns is its transpose stored by rows.
        let cases = [
            (101, NO_TRANS, &a, 3, NO_TRANS, &b, 2),
            (101, trans, &at, 2, trans, &bt, 3),
            (102, NO_TRANS, &at, 2, NO_TRANS, &bt, 3),
            (102, trans, &a, 3, trans, &b, 2),
        ];
        for (order, ta, a, lda, tb, b, ldb) in cases {
            let mut c = [f32::NAN; 4];
            // SAFETY: matrices of 2 x 3, 3 x 2 and 2 x 2.
            unsafe {
                plain_sgemm(order, ta, tb, 2, 2, 3, 1.0, a.as_ptr(), lda, b.as_ptr(), ldb, 0.0, c.as_mut_ptr(), 2);
                let expected = if order == ROW_MAJOR { [22.0, 28.0, 49.0, 64.0] } else { [22.0, 49.0, 28.0, 64.0] };
                assert_eq!(c, expected);
                plain_sgemm(order, ta, tb, 2, 2, 3, 2.0, a.as_ptr(), lda, b.as_ptr(), ldb, -1.0, c.as_mut_ptr(), 2);
                assert_eq!(c, expected);
            }
        }
    }
}
