//! The libraries that call hooks, each with the originals that it is bound to.
//!
//! A process can hold several copies of ggml. Copies that were opened with `RTLD_LOCAL` are not found by
//! `dlsym(RTLD_NEXT)`. So an original is looked up from the library that called the hook: its handle sees the copy that
//! it is linked with. Each caller is resolved once, and its library is kept open for ever, so that the addresses found
//! here stay valid. llama.cpp opens some libraries only to score them; these never call a hook and are closed as usual.

use std::ffi::{CStr, c_void};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

use super::objects::object_at;
use super::pools::PoolFunctions;
use super::probe::Abi;
use super::scope::{Scope, find_definer};
use super::symbols::{Library, next};
use crate::gate::state::{self, State};
use crate::ggml::functions::{
    Function, ggml_aligned_free, ggml_aligned_malloc, ggml_backend_reg_get_proc_address,
    ggml_compute_forward_rms_norm_mul_fused, ggml_cpu_extra_compute_forward, ggml_cpu_extra_work_size,
    ggml_graph_compute,
};
use crate::ggml::hooks::blas;
use crate::ggml::{KNOWN_RELEASES, rows};
use crate::log::{self, log};
use crate::reason::Reason;
use crate::stats;

/// A library that calls hooks, and the originals of these hooks.
pub struct BoundLibrary {
    /// Its address range in memory.
    pub range: Range<usize>,
    scope: Scope,
    /// Path, for logs and statistics.
    pub path: String,
    /// The originals of ggml's functions; `None` for a function that the library does not see.
    pub compute_forward: Option<ggml_cpu_extra_compute_forward>,
    pub norm_mul: Option<ggml_compute_forward_rms_norm_mul_fused>,
    pub work_size: Option<ggml_cpu_extra_work_size>,
    pub graph_compute: Option<ggml_graph_compute>,
    pub get_proc_address: Option<ggml_backend_reg_get_proc_address>,
    pub aligned_malloc: Option<ggml_aligned_malloc>,
    pub aligned_free: Option<ggml_aligned_free>,
    /// The targets of its calls of the functions for single rows (see [`crate::rows`]); null until the first call.
    pub rows: [AtomicPtr<c_void>; rows::COUNT],
    /// Whether it frees its large buffers through the hook (see [`crate::buffers::large`]), once known.
    pub returns_buffers: OnceLock<bool>,
    /// ggml's functions for pools of threads, once they were asked for.
    pools: OnceLock<Option<PoolFunctions>>,
    /// Its originals in a BLAS library, once they were asked for.
    blas: OnceLock<BlasOriginals>,
    /// The checked functions of the ggml that it uses; `None` when the structures of that ggml are not known.
    pub abi: Option<Abi>,
}

/// The addresses of the originals of the hooked BLAS functions; `None` for one that there is not.
pub struct BlasOriginals {
    /// `cblas_sgemm`.
    pub sgemm: Option<usize>,
    /// `openblas_set_num_threads`.
    pub set_threads: Option<usize>,
}

const MAX_LIBRARIES: usize = 128;
static LIBRARIES: [AtomicPtr<BoundLibrary>; MAX_LIBRARIES] =
    [const { AtomicPtr::new(std::ptr::null_mut()) }; MAX_LIBRARIES];
static COUNT: AtomicUsize = AtomicUsize::new(0);
static RESOLVING: Mutex<()> = Mutex::new(());

/// The library that contains a return address. `None` when no loaded object contains it, or when the table is full.
#[inline]
pub fn caller(return_address: usize) -> Option<&'static BoundLibrary> {
    known(return_address, COUNT.load(Ordering::Acquire)).or_else(|| resolve(return_address))
}

/// The library that contains `address`, among the first `n` of the table.
#[inline]
fn known(address: usize, n: usize) -> Option<&'static BoundLibrary> {
    // SAFETY: `n` is at most COUNT, below which all slots hold objects that are never freed and do not change.
    let mut libraries = LIBRARIES[..n].iter().map(|slot| unsafe { &*slot.load(Ordering::Relaxed) });
    libraries.find(|library| library.contains(address))
}

#[cold]
fn resolve(address: usize) -> Option<&'static BoundLibrary> {
    let _guard = RESOLVING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let n = COUNT.load(Ordering::Acquire);
    if let Some(library) = known(address, n) {
        return Some(library); // another thread was first
    }
    if n == MAX_LIBRARIES {
        return None;
    }
    let object = object_at(address)?;
    let is_program = object.path.is_empty();
    // The reference is never given back, so the library stays loaded.
    let scope = Scope(if is_program { Library::program() } else { Library::loaded(&object.path) });
    let path = if is_program { "main program".to_owned() } else { object.path.to_string_lossy().into_owned() };
    let caller = BoundLibrary {
        range: object.range,
        scope,
        compute_forward: scope.function(ggml_cpu_extra_compute_forward),
        norm_mul: scope.function(ggml_compute_forward_rms_norm_mul_fused),
        work_size: scope.function(ggml_cpu_extra_work_size),
        graph_compute: scope.function(ggml_graph_compute),
        get_proc_address: scope.function(ggml_backend_reg_get_proc_address),
        aligned_malloc: scope.function(ggml_aligned_malloc),
        aligned_free: scope.function(ggml_aligned_free),
        rows: std::array::from_fn(|_| AtomicPtr::default()),
        returns_buffers: OnceLock::new(),
        pools: OnceLock::new(),
        blas: OnceLock::new(),
        // SAFETY: a scope finds the functions of one ggml by their names. The reference to the library keeps it, and what it
        // is linked with, loaded.
        abi: unsafe { Abi::probe(&|name| scope.find(name)) },
        path,
    };
    let status = if caller.abi.is_some() { "bound" } else { "abi_mismatch" };
    // Several libraries may see the same copy of ggml. Only the one that defines the operation hook is reported.
    let defines_hook = caller.compute_forward.is_some_and(|f| caller.range.contains(&(f as usize)));
    if defines_hook && matches!(state::current(), State::Waiting | State::Active) {
        stats::add_library(&caller.path, status);
        if caller.abi.is_none() {
            stats::event(Reason::AbiMismatch);
            log::line(format_args!(
                "{}: the structures of this ggml are not those of the versions this library knows ({KNOWN_RELEASES}); \
                 nothing is taken over, ggml computes as usual",
                caller.path
            ));
        }
    }
    if !caller.has_hook() && matches!(state::current(), State::Waiting | State::Active) {
        tell_of_missing_hook(&caller);
    }
    log!(debug, "calls from {}: {}", caller.path, status);
    LIBRARIES[n].store(Box::into_raw(Box::new(caller)), Ordering::Relaxed);
    COUNT.store(n + 1, Ordering::Release);
    // SAFETY: the line above has stored an object that is never freed, and nobody else stores while `_guard` is held.
    Some(unsafe { &*LIBRARIES[n].load(Ordering::Relaxed) })
}

/// Reports, once per process, that the library which computes graphs for `caller` has no operation hook. Does nothing
/// when `caller` does not see the CPU backend.
fn tell_of_missing_hook(caller: &BoundLibrary) {
    static TOLD: AtomicBool = AtomicBool::new(false);
    let Some(library) = caller.graph_compute.and_then(|f| object_at(f as usize)) else { return };
    if TOLD.swap(true, Ordering::Relaxed) {
        return;
    }
    let path = library.path.to_string_lossy();
    stats::add_library(&path, Reason::NoOperationHook.as_str());
    stats::event(Reason::NoOperationHook);
    log!(
        info,
        "{path}: a ggml from before December 2024, without ggml_cpu_extra_compute_forward; it computes as usual"
    );
}

impl BoundLibrary {
    /// Whether its ggml calls the operation hook before it computes an operation.
    pub fn has_hook(&self) -> bool {
        self.compute_forward.is_some()
    }

    /// Whether `address` lies in this library.
    #[inline]
    pub fn contains(&self, address: usize) -> bool {
        self.range.contains(&address)
    }

    /// A function of the ggml that this library uses, by name.
    pub fn find(&self, name: &CStr) -> Option<*mut c_void> {
        self.scope.find(name)
    }

    /// A function of the ggml that this library uses.
    pub fn function<F: Copy>(&self, function: Function<F>) -> Option<F> {
        self.scope.function(function)
    }

    /// The functions for pools of the ggml that computes graphs for this library; `None` when they are not known.
    pub fn pools(&self) -> Option<&PoolFunctions> {
        let find = || pool_functions(self.scope, self.graph_compute? as usize);
        self.pools.get_or_init(find).as_ref()
    }

    /// The BLAS functions that it would call without this library: the next ones in the global scope, else those that
    /// it sees itself. The program or ggml's BLAS backend links BLAS, and a process has only one. So the loader's order
    /// is right here, unlike in [`Scope::find`].
    pub fn blas(&self) -> &BlasOriginals {
        self.blas.get_or_init(|| {
            let find = |name: &CStr| next(name).or_else(|| self.find(name)).map(|p| p as usize);
            BlasOriginals { sgemm: find(blas::SGEMM), set_threads: find(blas::SET_NUM_THREADS) }
        })
    }

    /// The scope of this library, if it finds `name` there.
    pub fn own_scope(&self, name: &CStr) -> Option<Scope> {
        self.find(name).map(|_| self.scope)
    }

    /// The scope of this library if it finds `name` there, else that of [`find_definer`]: the library may have been
    /// given a pointer to the function.
    pub fn scope(&self, name: &CStr) -> Option<Scope> {
        self.own_scope(name).or_else(|| find_definer(name))
    }
}

/// The functions for thread pools in `scope`, of the copy of ggml whose CPU backend contains the address `backend`.
/// `None` when they are not known.
pub fn pool_functions(scope: Scope, backend: usize) -> Option<PoolFunctions> {
    PoolFunctions::find(scope, backend, || caller(backend).is_some_and(|library| library.abi.is_some()))
}
