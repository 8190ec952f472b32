//! A Zen 5 that a virtual machine shows as another CPU.

use crate::cpu::{Cpu, ZEN5_FAMILY};

/// What speaks for a Zen 5 behind another family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Masked {
    /// What a Zen 5 has, and no CPU of AMD before it.
    LikeZen5(Vec<String>),
    /// Family and name are those of a model that a hypervisor makes up, for whatever CPU the host has.
    MadeUp(String),
}

/// Zen 1 to 4 have 32 KiB (AMD's Software Optimization Guides for families 17h to 1Ah).
const ZEN5_L1D_KIB: u8 = 48;

/// Family 0Fh (K8, up to 2011) is what QEMU gives its models for no CPU in particular. No real one has AVX2.
const MADE_UP_FAMILY: u8 = 0x0F;

/// How QEMU begins the names of its models (target/i386/cpu.c). AMD's own names have a number there.
const MADE_UP_NAMES: [&str; 4] = ["QEMU Virtual CPU", "Common KVM processor", "AMD EPYC-", "AMD EPYC Processor"];

impl Cpu {
    /// Whether an AMD CPU of another family may be a Zen 5 whose family a hypervisor hides, and why. `None` where nothing says so.
    ///
    /// The features are those by which GCC's `znver5` differs from `znver4` and that are known here.
    #[must_use]
    pub fn masked(&self) -> Option<Masked> {
        if self.vendor != "AuthenticAMD" || self.family == ZEN5_FAMILY {
            return None;
        }
        let features = [("avx512_vp2intersect", self.claimed.avx512vp2intersect), ("avx_vnni", self.claimed.avx_vnni)];
        let features = features.iter().filter(|(_, present)| *present).map(|(name, _)| (*name).to_owned());
        let cache = (self.l1d_kib == ZEN5_L1D_KIB).then(|| format!("an L1 data cache of {ZEN5_L1D_KIB} KiB"));
        let like: Vec<String> = features.chain(cache).collect();
        if !like.is_empty() {
            return Some(Masked::LikeZen5(like));
        }
        if MADE_UP_NAMES.iter().any(|name| self.brand.starts_with(name)) {
            return Some(Masked::MadeUp(format!("the name \"{}\"", self.brand)));
        }
        (self.family == MADE_UP_FAMILY && self.claimed.avx2)
            .then(|| Masked::MadeUp(format!("family {MADE_UP_FAMILY:02X}h with avx2")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Features;
    use crate::cpu::tests::zen5;

    fn genoa() -> Cpu {
        let claimed = Features { avx512vp2intersect: false, avx_vnni: false, ..zen5().claimed };
        let brand = "AMD EPYC 9654 96-Core Processor".into();
        Cpu { brand, family: 0x19, model: 0x11, claimed, l1d_kib: 32, ..zen5() }
    }

    #[test]
    fn a_real_cpu_hides_nothing() {
        assert_eq!(zen5().masked(), None);
        assert_eq!(genoa().masked(), None);
        let firecracker = Cpu { brand: "AMD EPYC".into(), ..genoa() };
        assert_eq!(firecracker.masked(), None);
        // Tiger Lake has AVX512_VP2INTERSECT, and Ice Lake 48 KiB.
        assert_eq!(Cpu { vendor: "GenuineIntel".into(), family: 6, ..zen5() }.masked(), None);
    }

    #[test]
    fn what_only_a_zen5_has_is_named() {
        let all = Cpu { family: 0x19, ..zen5() };
        let words = ["avx512_vp2intersect", "avx_vnni", "an L1 data cache of 48 KiB"].map(String::from);
        assert_eq!(all.masked(), Some(Masked::LikeZen5(words.to_vec())));
        let claimed = Features { avx_vnni: true, ..genoa().claimed };
        assert_eq!(Cpu { claimed, ..genoa() }.masked(), Some(Masked::LikeZen5(vec!["avx_vnni".into()])));
        let cache = Cpu { l1d_kib: 48, ..genoa() };
        assert!(matches!(cache.masked(), Some(Masked::LikeZen5(words)) if words.len() == 1));
    }

    #[test]
    fn models_of_a_hypervisor_tell_nothing_of_the_host() {
        for brand in ["QEMU Virtual CPU version 2.5+", "AMD EPYC-Genoa Processor", "AMD EPYC Processor"] {
            let cpu = Cpu { brand: brand.into(), ..genoa() };
            assert!(matches!(cpu.masked(), Some(Masked::MadeUp(why)) if why.contains(brand)), "{brand}");
        }
        assert!(matches!(Cpu { family: 0x0F, ..genoa() }.masked(), Some(Masked::MadeUp(why)) if why.contains("0Fh")));
        let k8 = Cpu { family: 0x0F, claimed: Features::default(), ..genoa() };
        assert_eq!(k8.masked(), None);
    }
}
