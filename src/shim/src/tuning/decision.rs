//! The decision who computes a product, and the circumstances on which the built-in table depends.

use zen5turbo_calibration::Choice;
use zen5turbo_kernels::width::DataPath;

use crate::config::{KernelChoice, config};
use crate::gate::state;

/// Who computes a product, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The kernels of this library.
    Ours,
    /// ggml, whose kernel was measured to be faster.
    Stock,
    /// ggml, whose kernel for float weights was measured to be as fast.
    Even,
    /// ggml, because nothing was measured and the user does not ask for the kernels of this library.
    Unmeasured,
}

impl From<Choice> for Decision {
    fn from(choice: Choice) -> Self {
        match choice {
            Choice::Ours => Self::Ours,
            Choice::Stock => Self::Stock,
        }
    }
}

/// The circumstances on which the built-in table depends.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances {
    /// How the CPU computes 512-bit operations.
    pub path: DataPath,
    /// Whether `ZEN5TURBO_KERNELS` names the kernels.
    pub asked: bool,
}

impl Circumstances {
    /// The circumstances of this process.
    pub fn here() -> Self {
        let asked = !matches!(config().kernels, KernelChoice::Auto | KernelChoice::Exact | KernelChoice::Off);
        Self { path: state::data_path(), asked }
    }
}
