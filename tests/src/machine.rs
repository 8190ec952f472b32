//! What this machine can run, found without the code under test, and the CPUs that a test can put in its place.

use std::arch::is_x86_feature_detected;

/// A CPU that the strict gate lets pass, for [`crate::Program::on`]: an EPYC of family 1Ah.
pub const ZEN5: &str = "AuthenticAMD:1A:02";

/// A CPU that the strict gate refuses: an EPYC 7003, Zen 3.
pub const MILAN: &str = "AuthenticAMD:19:01";

/// A kernel family that this CPU can run.
pub struct Tier {
    /// The value of `ZEN5TURBO_KERNELS` that selects it.
    pub knob: &'static str,
    /// Its name in the statistics.
    pub name: &'static str,
}

/// The kernel families to test on this CPU, the default first; each once.
#[must_use]
pub fn tiers() -> Vec<Tier> {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
    let avx512 = avx2 && avx512();
    let best = if avx512 {
        "avx512vnni"
    } else if avx2 {
        "avx2"
    } else {
        "scalar"
    };
    let mut tiers = vec![Tier { knob: "auto", name: best }];
    if avx512 {
        tiers.push(Tier { knob: "avx2", name: "avx2" });
    }
    if avx2 {
        tiers.push(Tier { knob: "scalar", name: "scalar" });
    }
    tiers
}

fn avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
}
