//! The symbols this library exports, and nothing else: each hook forwards, and guards what it forwards to.

/// [`std::arch::naked_asm`] with what unwinders and debuggers need to know: `trampoline!([LINES], OPERANDS)`. Where a line
/// moves the stack pointer, a `.cfi_adjust_cfa_offset` line follows. A jump at the end leaves no frame behind, so what the
/// function that it leads to throws goes straight to the caller.
macro_rules! trampoline {
    ([$($line:expr),+ $(,)?] $(, $($operand:tt)+)?) => {
        std::arch::naked_asm!(".cfi_startproc", $($line,)+ ".cfi_endproc" $(, $($operand)+)?)
    };
}

pub mod blas;
pub mod buffers;
pub mod bufts;
pub mod capi;
pub mod mapping;
pub mod rows;
// A test program keeps the C library's own: the constructor that readies these does not run there.
#[cfg(not(test))]
pub mod copies;
#[cfg(not(test))]
pub mod malloc;
pub mod ops;
pub mod threads;
