//! The BLAS device of a ggml built with `GGML_BLAS`: ggml's scheduler offers it every product of 32 columns and more before
//! the CPU backend, and it unpacks the weights to floats each time. Here it is made to refuse those products that are
//! computed here, by the function `supports_op` of the device, which lies in memory of the library that anybody may write.

use std::ffi::{CStr, c_void};
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use super::policy;
use crate::config::config;
use crate::gate::guard::guarded;
use crate::ggml::abi::Tensor;
use crate::ggml::checked::{is_address, object};
use crate::ggml::copies::{self, Caller, caller, function};
use crate::ggml::probe::{Abi, Op};
use crate::log::log;
use crate::reason::Reason;
use crate::stats;

/// `bool (*supports_op)(ggml_backend_dev_t, const struct ggml_tensor *)`
type SupportsOp = unsafe extern "C-unwind" fn(*mut Device, *const Tensor) -> bool;

/// `struct ggml_backend_device` of every release since October 2024 (ggml-backend-impl.h).
#[repr(C)]
struct Device {
    get_name: usize,
    get_description: usize,
    get_memory: usize,
    get_type: usize,
    get_props: usize,
    init_backend: usize,
    get_buffer_type: usize,
    get_host_buffer_type: usize,
    buffer_from_host_ptr: usize,
    supports_op: AtomicUsize,
    supports_buft: usize,
    offload_op: usize,
    event_new: usize,
    event_free: usize,
    event_synchronize: usize,
    reg: *mut c_void,
    context: *mut c_void,
}

/// Who computes the products of many columns in a copy of ggml.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManyColumns {
    /// The CPU backend, and so this library.
    Cpu,
    /// A BLAS backend.
    Blas,
}

/// A device whose products are refused. One per copy of ggml that has BLAS.
struct Refusing {
    device: AtomicPtr<Device>,
    /// Its own function.
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

/// How often the scheduler was told that BLAS does not compute a product.
pub fn refused() -> u64 {
    REFUSED.load(Ordering::Relaxed)
}

/// Makes the BLAS device that `program` sees, if any, refuse what is computed here, through the CPU backend whose tensors are
/// those of `abi`. Left as it is where the user has chosen a BLAS library, and where its structure is not the one known here.
pub fn refuse(program: &Caller, abi: &'static Abi) -> ManyColumns {
    let Some(device) = device(program) else { return ManyColumns::Cpu };
    if config().blas.is_none() && refuse_by(device, abi) { ManyColumns::Cpu } else { ManyColumns::Blas }
}

/// The device of the backend that is registered as BLAS; null when it has none.
fn device(program: &Caller) -> Option<*mut Device> {
    type ByName = unsafe extern "C" fn(*const std::ffi::c_char) -> *mut c_void;
    type DevGet = unsafe extern "C" fn(*mut c_void, usize) -> *mut Device;
    type DevCount = unsafe extern "C" fn(*mut c_void) -> usize;
    let find = |name: &CStr| program.find(name);
    // SAFETY: ggml's own functions, whose signatures these are; they look things up in lists.
    unsafe {
        let reg = function::<ByName>(find(c"ggml_backend_reg_by_name")?)(c"BLAS".as_ptr());
        if reg.is_null() {
            return None;
        }
        if !is_address(reg.cast_const().cast::<usize>()) {
            stats::event(Reason::GgmlAnswerOdd);
            return Some(std::ptr::null_mut());
        }
        let (Some(count), Some(get)) = (find(c"ggml_backend_reg_dev_count"), find(c"ggml_backend_reg_dev_get")) else {
            return Some(std::ptr::null_mut());
        };
        if function::<DevCount>(count)(reg) != 1 {
            return Some(std::ptr::null_mut());
        }
        let device = function::<DevGet>(get)(reg, 0);
        Some(if is_known(device, reg) { device } else { std::ptr::null_mut() })
    }
}

/// Whether the structure is [`Device`]: `reg` where it should be, before it functions of one library exactly where a BLAS
/// device has some, and all of it writable memory.
fn is_known(device: *mut Device, reg: *mut c_void) -> bool {
    let there =
        device.addr().checked_add(size_of::<Device>()).is_some_and(|end| copies::is_writable(device.addr()..end));
    if !there || !device.is_aligned() {
        return false;
    }
    // SAFETY: memory of a loaded library, as was just seen.
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
                // SAFETY: `is_known`.
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

/// The replacement.
unsafe extern "C-unwind" fn supports_op(device: *mut Device, op: *const Tensor) -> bool {
    let Some(slot) = DEVICES.iter().find(|slot| slot.device.load(Ordering::Acquire) == device) else { return false };
    let original = slot.original.load(Ordering::Acquire) as *mut c_void;
    // SAFETY: the original with its own arguments. It was stored before the device was changed.
    if !unsafe { function::<SupportsOp>(original)(device, op) } {
        return false;
    }
    // SAFETY: abis live as long as the process; the tensor is the caller's.
    let ours = guarded(false, || unsafe { is_ours(&*slot.abi.load(Ordering::Acquire), op) });
    REFUSED.fetch_add(ours.into(), Ordering::Relaxed);
    !ours
}

/// # Safety
/// A tensor of the ggml that `abi` belongs to.
unsafe fn is_ours(abi: &Abi, op: *const Tensor) -> bool {
    // SAFETY: by contract.
    let Some(op) = (unsafe { object(op) }) else { return false };
    // SAFETY: as above; the fields are read after `fits`.
    unsafe {
        abi.fits(op) && matches!(abi.op(op.op), Op::Matrix(kind) if policy::decide_unplaced(abi, kind, op).is_ok())
    }
}
