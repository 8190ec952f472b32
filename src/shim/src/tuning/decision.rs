//! Who computes a product, and what the built-in table is asked for.

use zen5turbo_calibration::Choice;
use zen5turbo_kernels::width::DataPath;

use crate::config::{KernelChoice, config};
use crate::gate::state;

/// Who computes, and on what ground.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Our kernels.
    Ours,
    /// The original: measured to be faster.
    Stock,
    /// The original: measured to be no slower, and float weights have nothing to gain otherwise.
    Even,
    /// The original: nothing was measured, and nobody asked for our kernels.
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

/// What the built-in table is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances {
    /// How the CPU computes 512-bit operations.
    pub path: DataPath,
    /// `ZEN5TURBO_KERNELS` names the kernels.
    pub asked: bool,
}

impl Circumstances {
    /// Those of this process.
    pub fn here() -> Self {
        let asked = !matches!(config().kernels, KernelChoice::Auto | KernelChoice::Off);
        Self { path: state::data_path(), asked }
    }
}
