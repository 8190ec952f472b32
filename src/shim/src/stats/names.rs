//! The names that belong to the counters: names of weight types, of kernels in use, and of copies of ggml.

use std::sync::atomic::Ordering::{Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicPtr};

use zen5turbo_calibration::Regime;
use zen5turbo_telemetry::{OpKind, live};

/// Weight types have the numbers of ggml, which has 41 of them in release 0.26. All numbers from this one on share one
/// set of counters, named `other`.
pub const TYPES: usize = live::TYPES - 1;

/// How many names of kernels are kept for one operation and type: one for each regime.
const REGIMES: usize = Regime::ALL.len();

/// How many copies of ggml are listed.
const LIBRARIES: usize = 32;

/// The kernel in use for a regime.
pub struct Kernel {
    pub regime: &'static str,
    pub name: &'static str,
}

/// A copy of ggml, and whether this library works with it.
pub struct Library {
    pub path: String,
    pub status: &'static str,
}

/// The kernels in use, by operation and weight type.
static KERNELS: [[[AtomicPtr<Kernel>; REGIMES]; TYPES + 1]; OpKind::ALL.len()] =
    [const { [const { [const { AtomicPtr::new(std::ptr::null_mut()) }; REGIMES] }; TYPES + 1] }; OpKind::ALL.len()];

static TYPE_NAMES: [AtomicPtr<String>; TYPES] = [const { AtomicPtr::new(std::ptr::null_mut()) }; TYPES];

static LIBRARY_LIST: [AtomicPtr<Library>; LIBRARIES] = [const { AtomicPtr::new(std::ptr::null_mut()) }; LIBRARIES];

/// Set when a name was added or replaced that is not published yet.
static CHANGED: AtomicBool = AtomicBool::new(false);

/// Notes that a name was added or replaced. It is published when the next graph is planned.
pub fn names_changed() {
    CHANGED.store(true, Release);
}

pub(super) fn have_changed() -> bool {
    CHANGED.load(Relaxed)
}

pub(super) fn are_told() {
    CHANGED.store(false, Relaxed);
}

fn kernels(op: OpKind, ty: u8) -> &'static [AtomicPtr<Kernel>; REGIMES] {
    &KERNELS[op as usize][usize::from(ty).min(TYPES)]
}

/// Sets the name of weight type `ty`, from `ggml_type_name`. The name is copied. Later names for the same type change
/// nothing. Types from [`TYPES`] on keep the name `other`.
pub fn set_type_name(ty: u8, name: &str) {
    let Some(slot) = TYPE_NAMES.get(usize::from(ty)) else {
        return;
    };
    if read(slot).is_none() {
        publish(slot, std::ptr::null_mut(), name.to_owned());
    }
}

/// Sets which kernel computes `op` on weights of type `ty` in a regime such as `gemm` or `gemv`. Cheap when nothing
/// changes.
pub fn set_kernel(op: OpKind, ty: u8, regime: &'static str, name: &'static str) {
    for slot in kernels(op, ty) {
        let old = slot.load(SeqCst);
        match read(slot) {
            Some(kernel) if kernel.regime != regime => {}
            Some(kernel) if kernel.name == name => return,
            // A reader may still use the old entry, so it is never freed. Replacements are rare.
            _ => {
                if publish(slot, old, Kernel { regime, name }) {
                    return;
                }
                // Another thread was faster, perhaps with another regime.
                if read(slot).is_some_and(|kernel| kernel.regime == regime) {
                    return;
                }
            }
        }
    }
}

/// Lists a loaded copy of ggml with its status, for example `bound` or `abi_mismatch`. A path that is listed already
/// gets the new status. Copies after the 32nd are not listed.
pub fn add_library(path: &str, status: &'static str) {
    for slot in &LIBRARY_LIST {
        let old = slot.load(SeqCst);
        match read(slot) {
            Some(library) if library.path != path => {}
            Some(library) if library.status == status => return,
            _ => {
                if publish(slot, old, Library { path: path.to_owned(), status }) {
                    return;
                }
                if read(slot).is_some_and(|library| library.path == path) {
                    return;
                }
            }
        }
    }
}

fn read<T>(slot: &AtomicPtr<T>) -> Option<&'static T> {
    // SAFETY: only `publish` stores in a slot. It stores pointers from Box::into_raw, which are never freed.
    unsafe { slot.load(SeqCst).as_ref() }
}

/// Stores `value` in place of `old`. If another thread has stored a value meanwhile, drops `value` and returns false.
fn publish<T>(slot: &AtomicPtr<T>, old: *mut T, value: T) -> bool {
    let new = Box::into_raw(Box::new(value));
    let stored = slot.compare_exchange(old, new, SeqCst, SeqCst).is_ok();
    names_changed();
    if !stored {
        // SAFETY: `new` comes from Box::into_raw above and nobody else has seen it.
        drop(unsafe { Box::from_raw(new) });
    }
    stored
}

/// The kernels in use for `op` on weights of type `ty`, one for each regime that was met.
pub fn kernels_in_use(op: OpKind, ty: usize) -> impl Iterator<Item = &'static Kernel> {
    KERNELS[op as usize][ty.min(TYPES)].iter().filter_map(read)
}

/// The copies of ggml that were listed.
pub fn libraries() -> impl Iterator<Item = &'static Library> {
    LIBRARY_LIST.iter().filter_map(read)
}

/// The name of a weight type: ggml's name once it is known, else `type_` and the number.
pub fn type_name(ty: usize) -> String {
    match TYPE_NAMES.get(ty) {
        Some(slot) => read(slot).cloned().unwrap_or_else(|| format!("type_{ty}")),
        None => "other".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_name_stays() {
        set_type_name(52, "first");
        set_type_name(52, "second");
        assert_eq!(type_name(52), "first");
    }

    #[test]
    fn a_kernel_is_replaced_within_its_regime() {
        set_kernel(OpKind::MulMat, 53, "gemm", "a");
        set_kernel(OpKind::MulMat, 53, "gemv", "b");
        set_kernel(OpKind::MulMat, 53, "gemm", "c");
        let names: Vec<_> = kernels(OpKind::MulMat, 53).iter().filter_map(read).map(|k| (k.regime, k.name)).collect();
        assert_eq!(names, [("gemm", "c"), ("gemv", "b")]);
    }

    #[test]
    fn more_libraries_than_slots_are_ignored() {
        for i in 0..LIBRARIES + 5 {
            add_library(&format!("/lib{i}.so"), "engaged");
        }
        add_library("/lib0.so", "closed");
        let first = LIBRARY_LIST.iter().filter_map(read).find(|l| l.path == "/lib0.so").unwrap();
        assert_eq!(first.status, "closed");
    }
}
