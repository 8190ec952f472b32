//! What this machine can run, found without the code under test.

use std::arch::is_x86_feature_detected;

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

/// Whether the strict gate lets this CPU pass: AMD family 1Ah, models 00h-2Fh, 40h-4Fh, 60h-7Fh,
/// with AVX-512.
#[must_use]
pub fn is_zen5() -> bool {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").expect("/proc is mounted");
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name));
        line.and_then(|line| line.split(':').nth(1)).map_or("", str::trim).to_owned()
    };
    let model = field("model").parse::<u32>().unwrap_or(u32::MAX);
    field("vendor_id") == "AuthenticAMD"
        && field("cpu family") == "26"
        && matches!(model, 0x00..=0x2f | 0x40..=0x4f | 0x60..=0x7f)
        && avx512()
}
