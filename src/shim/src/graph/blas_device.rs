//! Keeps the BLAS device of a ggml built with `GGML_BLAS` from products that are computed here.
//!
//! ggml's scheduler offers every product of 32 columns and more to the BLAS device before the CPU backend. The BLAS
//! device unpacks the weights to floats each time. So its function `supports_op` is replaced by one that refuses the
//! products that are computed here. The pointer to this function lies in writable memory of the BLAS library.

use std::ffi::c_void;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use super::policy;
use crate::config::config;
use crate::gate::guard::guarded;
use crate::ggml::abi::{BackendDevice as Device, SupportsOp, Tensor};
use crate::ggml::checked::{is_address, object};
use crate::ggml::functions::{
    function, ggml_backend_reg_by_name, ggml_backend_reg_dev_count, ggml_backend_reg_dev_get,
};
use crate::loader::objects::is_writable;
use crate::loader::{Abi, BoundLibrary, Op, caller};
use crate::log::log;
use crate::reason::Reason;
use crate::stats;

/// The backend that computes the products of many columns in a copy of ggml.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManyColumns {
    /// The CPU backend, whose products this library computes.
    Cpu,
    /// A BLAS backend.
    Blas,
}

/// A device whose `supports_op` was replaced. There is one for each copy of ggml that has BLAS.
struct Refusing {
    device: AtomicPtr<Device>,
    /// The device's own function.
    original: AtomicUsize,
    abi: AtomicPtr<Abi>,
}

static DEVICES: [Refusing; 4] = [const {
    Refusing {
        device: AtomicPtr::new(std::ptr::null_mut()),
        original: AtomicUsize::new(0),
        abi: AtomicPtr::new(std::ptr::null_mut()),
    }
}; 4];
static REFUSED: AtomicU64 = AtomicU64::new(0);

/// How often the BLAS device refused a product that is computed here.
pub fn refused() -> u64 {
    REFUSED.load(Ordering::Relaxed)
}

/// Makes the BLAS device that `program` sees refuse the products that are computed here. `abi` belongs to the CPU
/// backend. The device stays as it is when the user has chosen a BLAS library, and when its structure is not known.
pub fn refuse(program: &BoundLibrary, abi: &'static Abi) -> ManyColumns {
    let Some(device) = device(program) else { return ManyColumns::Cpu };
    if config().blas.is_none() && refuse_by(device, abi) { ManyColumns::Cpu } else { ManyColumns::Blas }
}

/// The device of the backend that is registered as BLAS. `None` without such a backend; null when its device is missing
/// or has an unknown structure.
fn device(program: &BoundLibrary) -> Option<*mut Device> {
    // SAFETY: the functions are those of the ggml that the program uses. They look things up in lists, and are given a C
    // string, a registry that ggml returned, and a number below the count of devices.
    unsafe {
        let reg = program.function(ggml_backend_reg_by_name)?(c"BLAS".as_ptr());
        if reg.is_null() {
            return None;
        }
        if !is_address(reg.cast_const().cast::<usize>()) {
            stats::event(Reason::GgmlAnswerOdd);
            return Some(std::ptr::null_mut());
        }
        let count = program.function(ggml_backend_reg_dev_count);
        let (Some(count), Some(get)) = (count, program.function(ggml_backend_reg_dev_get)) else {
            return Some(std::ptr::null_mut());
        };
        if count(reg) != 1 {
            return Some(std::ptr::null_mut());
        }
        let device = get(reg, 0).cast::<Device>();
        Some(if is_known(device, reg) { device } else { std::ptr::null_mut() })
    }
}

/// Whether the structure is a [`Device`]. Its memory must be writable, `reg` must be at its place, and there must be
/// functions of one library exactly where a BLAS device has functions.
fn is_known(device: *mut Device, reg: *mut c_void) -> bool {
    let there = device.addr().checked_add(size_of::<Device>()).is_some_and(|end| is_writable(device.addr()..end));
    if !there || !device.is_aligned() {
        return false;
    }
    // SAFETY: all of it is memory of a loaded library, as the check above has seen, and it is aligned. Every field is an
    // integer or a pointer, for which any bytes are valid.
    let d = unsafe { &*device };
    let Some(library) = caller(d.get_name) else { return false };
    let there = [
        d.get_description,
        d.get_memory,
        d.get_type,
        d.get_props,
        d.init_backend,
        d.get_buffer_type,
        d.buffer_from_host_ptr,
        d.supports_buft,
    ];
    let now = d.supports_op.load(Ordering::Acquire);
    let none = [d.get_host_buffer_type, d.offload_op, d.event_new, d.event_free, d.event_synchronize];
    d.reg == reg
        && there.iter().all(|&f| library.contains(f))
        && none.iter().all(|&f| f == 0)
        && (library.contains(now) || now == supports_op as *const () as usize)
}

fn refuse_by(device: *mut Device, abi: &'static Abi) -> bool {
    if device.is_null() {
        return false;
    }
    for slot in &DEVICES {
        match slot.device.compare_exchange(std::ptr::null_mut(), device, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => {
                // SAFETY: `device` gives only a device that `is_known` has seen to be one, in a library that stays loaded.
                let d = unsafe { &*device };
                slot.abi.store(std::ptr::from_ref(abi).cast_mut(), Ordering::Release);
                slot.original.store(d.supports_op.load(Ordering::Acquire), Ordering::Release);
                d.supports_op.store(supports_op as *const () as usize, Ordering::Release);
                log!(debug, "the BLAS device refuses the products that are computed here");
                return true;
            }
            Err(other) if other == device => return true,
            Err(_) => {}
        }
    }
    false
}

/// The function that replaces the device's `supports_op`.
unsafe extern "C-unwind" fn supports_op(device: *mut Device, op: *const Tensor) -> bool {
    let Some(slot) = DEVICES.iter().find(|slot| slot.device.load(Ordering::Acquire) == device) else { return false };
    let original = slot.original.load(Ordering::Acquire) as *mut c_void;
    // SAFETY: the original with its own arguments. It was stored before the device was changed.
    if !unsafe { function::<SupportsOp>(original)(device, op) } {
        return false;
    }
    // SAFETY: an `Abi` lives as long as the process. The scheduler passes a tensor of its own ggml, to which this `Abi`
    // belongs.
    let ours = guarded(false, || unsafe { is_ours(&*slot.abi.load(Ordering::Acquire), op) });
    REFUSED.fetch_add(ours.into(), Ordering::Relaxed);
    !ours
}

/// # Safety
/// `op` is a tensor of the ggml to which `abi` belongs.
unsafe fn is_ours(abi: &Abi, op: *const Tensor) -> bool {
    // SAFETY: the tensor is one of this ggml, by the contract of this function.
    let Some(op) = (unsafe { object(op) }) else { return false };
    // SAFETY: the tensor is one of this ggml, by the contract of this function; its fields are read after `fits`.
    unsafe {
        abi.fits(op) && matches!(abi.op(op.op), Op::Matrix(kind) if policy::decide_unplaced(abi, kind, op).is_ok())
    }
}
