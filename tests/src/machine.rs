//! What this machine can run, found without the code under test, and the CPUs that a test can put in its place.

use std::arch::is_x86_feature_detected;

use crate::{Need, skip};

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
    let avx512 = avx2 && detected_avx512();
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

/// Those of [`tiers`] that a program on this CPU would be given: without portable code, which takes minutes, where there is
/// anything else.
#[must_use]
pub fn usual_tiers() -> Vec<Tier> {
    split_tiers().0
}

/// The others, for the nightly run.
#[must_use]
pub fn unusual_tiers() -> Vec<Tier> {
    split_tiers().1
}

fn split_tiers() -> (Vec<Tier>, Vec<Tier>) {
    let best = tiers()[0].name;
    tiers().into_iter().partition(|tier| tier.name == best || tier.name != "scalar")
}

/// Whether this CPU can run kernels for AVX-512; where not, the test is skipped.
#[must_use]
pub fn has_avx512() -> bool {
    let has = tiers()[0].name == "avx512vnni";
    if !has {
        skip(Need::Avx512, "this CPU has no AVX-512 VNNI");
    }
    has
}

/// Whether a process gets transparent huge pages that it asks for; where not, the test is skipped, or a part of it.
#[must_use]
pub fn has_thp() -> bool {
    let text = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    let has = text.contains("[always]") || text.contains("[madvise]");
    if !has {
        skip(Need::HugePages, "no transparent huge pages: only that nothing breaks is checked");
    }
    has
}

/// Whether this user is root; where not, the test is skipped, or the part that the reason names.
#[must_use]
pub fn is_root(reason: &str) -> bool {
    // SAFETY: geteuid has no preconditions.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        skip(Need::Root, reason);
    }
    root
}

fn detected_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
}
