//! The cuts of products that are tried.

use zen5turbo_calibration::Cut;
use zen5turbo_kernels::isa::Isa;
use zen5turbo_kernels::width::{self, DataPath};

/// What is tried beside the built-in cut, one after the other; of the panels the fastest stays for what follows.
pub const CUTS: [Cut; 7] = {
    const BUILT_IN: Cut = Cut { panel: None, prefetch: None, ahead: None };
    [
        Cut { panel: Some(10 << 10), ..BUILT_IN },
        Cut { panel: Some(40 << 10), ..BUILT_IN },
        Cut { prefetch: Some(0), ..BUILT_IN },
        Cut { prefetch: Some(32 << 10), ..BUILT_IN },
        Cut { prefetch: Some(512 << 10), ..BUILT_IN },
        Cut { ahead: Some(4 << 10), ..BUILT_IN },
        Cut { ahead: Some(12 << 10), ..BUILT_IN },
    ]
};

/// Whether the kernels of `isa` fetch one column ahead on this CPU.
pub fn fetches_ahead(isa: Isa) -> bool {
    isa == Isa::Avx512 && width::measure().is_some_and(|w| w.data_path() == DataPath::Full)
}
