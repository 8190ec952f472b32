//! The symbols that this library exports. Each hook calls code of another folder, under a guard against panics.

/// [`std::arch::naked_asm`] with the directives that unwinders and debuggers need: `trampoline!([LINES], OPERANDS)`.
/// After a line that moves the stack pointer, a `.cfi_adjust_cfa_offset` line follows. A trampoline ends with a jump
/// and leaves no frame, so an exception of the function to which it jumps goes straight to the caller.
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
// A test program uses the C library's own functions, because the constructor that prepares these does not run there.
#[cfg(not(test))]
pub mod copies;
#[cfg(not(test))]
pub mod malloc;
pub mod ops;
pub mod threads;
