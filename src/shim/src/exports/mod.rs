//! The symbols this library exports, and nothing else. A program that fuzzes parts of it must not have those that
//! stand for libc's or start something.

/// [`std::arch::naked_asm`] with what unwinders and debuggers need to know: `trampoline!([LINES], OPERANDS)`. Where a line
/// moves the stack pointer, a `.cfi_adjust_cfa_offset` line follows. A jump at the end leaves no frame behind, so what the
/// function that it leads to throws goes straight to the caller.
macro_rules! trampoline {
    ([$($line:expr),+ $(,)?] $(, $($operand:tt)+)?) => {
        std::arch::naked_asm!(".cfi_startproc", $($line,)+ ".cfi_endproc" $(, $($operand)+)?)
    };
}

#[cfg(not(feature = "fuzzing"))]
pub mod blas;
#[cfg(not(feature = "fuzzing"))]
pub mod buffers;
#[cfg(not(feature = "fuzzing"))]
pub mod bufts;
#[cfg(not(feature = "fuzzing"))]
pub mod capi;
#[cfg(not(feature = "fuzzing"))]
pub mod mapping;
#[cfg(not(feature = "fuzzing"))]
pub mod rows;
// A test program keeps the C library's own: the constructor that readies these does not run there.
#[cfg(not(any(test, feature = "fuzzing")))]
pub mod copies;
#[cfg(not(any(test, feature = "fuzzing")))]
pub mod malloc;
#[cfg(not(feature = "fuzzing"))]
pub mod ops;
#[cfg(not(feature = "fuzzing"))]
pub mod threads;
