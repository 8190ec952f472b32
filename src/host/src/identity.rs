//! Another CPU's identity, for tests of what depends on the CPU.

use crate::cpu::{Cpu, Features, XCR0_AVX512};

/// Vendor, family and model of a CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// As [`Cpu::vendor`].
    pub vendor: String,
    /// As [`Cpu::family`].
    pub family: u8,
    /// As [`Cpu::model`].
    pub model: u8,
}

impl Identity {
    /// Reads `VENDOR:FAMILY:MODEL`, the numbers in hexadecimal; `None` for any other text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let vendor = parts.next().filter(|vendor| !vendor.is_empty())?.to_owned();
        let mut number = || u8::from_str_radix(parts.next()?, 16).ok();
        let (family, model) = (number()?, number()?);
        parts.next().is_none().then_some(Self { vendor, family, model })
    }
}

impl Cpu {
    /// This CPU under another identity: it claims the AVX-512 of a Zen 5, with the register state enabled.
    /// [`Cpu::features`] stay as they are, so that no kernel is chosen that this CPU cannot run.
    #[must_use]
    pub fn under(self, identity: &Identity) -> Self {
        let Identity { vendor, family, model } = identity.clone();
        let claimed = Features {
            avx512f: true,
            avx512bw: true,
            avx512dq: true,
            avx512vl: true,
            avx512vnni: true,
            ..self.claimed
        };
        Self { vendor, family, model, claimed, xcr0: XCR0_AVX512 | self.xcr0, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::best_tier;

    #[test]
    fn an_identity_is_a_vendor_and_two_hexadecimal_numbers() {
        let milan = Identity { vendor: "AuthenticAMD".into(), family: 0x19, model: 1 };
        assert_eq!(Identity::parse("AuthenticAMD:19:01"), Some(milan));
        for bad in ["", "AuthenticAMD", "AuthenticAMD:19", ":19:01", "AuthenticAMD:19:01:1", "A:100:0", "A:x:0", "A::0"]
        {
            assert_eq!(Identity::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_gate_sees_the_identity_and_the_kernels_see_the_cpu() {
        let plain = Cpu { brand: "Some CPU".into(), ..Cpu::default() };
        let turin = plain.clone().under(&Identity::parse("AuthenticAMD:1A:02").unwrap());
        assert!(turin.is_zen5());
        assert_eq!((&turin.brand, best_tier(&turin)), (&plain.brand, best_tier(&plain)));
        let milan = turin.under(&Identity::parse("AuthenticAMD:19:01").unwrap());
        assert!(!milan.is_zen5_model() && milan.describe().contains("family 19h, model 01h"));
    }
}
