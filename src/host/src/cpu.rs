//! The CPU: who made it, which model it is, and which instructions a program may use on it.

use raw_cpuid::{CpuId, CpuIdReader};

/// XCR0 bits that say the operating system saves the SSE and AVX state (bits 1 and 2).
/// Intel SDM volume 1, section 14.3.
pub const XCR0_AVX: u64 = 0b110;

/// XCR0 bits that say the operating system saves the opmask registers, the upper halves of
/// ZMM0-15 and ZMM16-31 (bits 5, 6 and 7), besides [`XCR0_AVX`]. Intel SDM volume 1, section 15.2.
pub const XCR0_AVX512: u64 = 0b1110_0000 | XCR0_AVX;

/// Display family of Zen 5 (and of Zen 6, which [`ZEN5_MODELS`] leaves out).
pub const ZEN5_FAMILY: u8 = 0x1A;

/// Display models of family 1Ah that are Zen 5, first to last.
/// The same table stands in Linux, `arch/x86/kernel/cpu/amd.c` (`bsp_determine_zen_generation`).
pub const ZEN5_MODELS: [(u8, u8); 3] = [(0x00, 0x2F), (0x40, 0x4F), (0x60, 0x7F)];

macro_rules! features {
    ($($(#[$doc:meta])* $name:ident = $flag:literal,)*) => {
        /// Instruction-set extensions that matter to quantised matrix products.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Features {
            $($(#[$doc])* pub $name: bool,)*
        }

        impl Features {
            /// Every extension as (the flag's name in `/proc/cpuinfo`, present or not), in the
            /// order of declaration.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, bool)> + '_ {
                [$(($flag, self.$name),)*].into_iter()
            }
        }
    };
}

features! {
    /// AVX2.
    avx2 = "avx2",
    /// Fused multiply-add, VEX-encoded.
    fma = "fma",
    /// Conversion between f16 and f32.
    f16c = "f16c",
    /// Bit manipulation, second set.
    bmi2 = "bmi2",
    /// AVX-512 foundation.
    avx512f = "avx512f",
    /// AVX-512 byte and word instructions.
    avx512bw = "avx512bw",
    /// AVX-512 doubleword and quadword instructions.
    avx512dq = "avx512dq",
    /// AVX-512 on 128- and 256-bit registers.
    avx512vl = "avx512vl",
    /// AVX-512 integer dot products (`vpdpbusd`).
    avx512vnni = "avx512_vnni",
    /// AVX-512 byte permutes.
    avx512vbmi = "avx512vbmi",
    /// AVX-512 bfloat16 dot products.
    avx512bf16 = "avx512_bf16",
    /// AVX-512 half-precision arithmetic.
    avx512fp16 = "avx512_fp16",
    /// AVX-512 VP2INTERSECT.
    avx512vp2intersect = "avx512_vp2intersect",
    /// VEX-encoded integer dot products.
    avx_vnni = "avx_vnni",
    /// Galois-field instructions.
    gfni = "gfni",
}

impl Features {
    /// What remains usable when the operating system has enabled only the state in `xcr0`.
    #[must_use]
    pub fn enabled_by(self, xcr0: u64) -> Self {
        if xcr0 & XCR0_AVX != XCR0_AVX {
            // BMI2 works on general registers; GFNI keeps its SSE form, which nothing here uses.
            return Self { bmi2: self.bmi2, ..Self::default() };
        }
        if xcr0 & XCR0_AVX512 != XCR0_AVX512 {
            return Self {
                avx2: self.avx2,
                fma: self.fma,
                f16c: self.f16c,
                bmi2: self.bmi2,
                avx_vnni: self.avx_vnni,
                gfni: self.gfni,
                ..Self::default()
            };
        }
        self
    }
}

/// One x86-64 CPU as CPUID and XCR0 describe it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// The vendor string of CPUID leaf 0, e.g. `AuthenticAMD`.
    pub vendor: String,
    /// The brand string, trimmed and with runs of blanks made one; empty when the CPU has none.
    pub brand: String,
    /// Display family (base plus extended), e.g. 0x1A for Zen 5.
    pub family: u8,
    /// Display model (extended and base), e.g. 0x44.
    pub model: u8,
    /// Stepping.
    pub stepping: u8,
    /// What may be executed: CPUID and XCR0 agree.
    pub features: Features,
    /// What CPUID alone claims.
    pub claimed: Features,
    /// The register state that the operating system enabled; 0 without OSXSAVE.
    pub xcr0: u64,
    /// The L1 data cache as AMD's leaf 8000_0005h gives its size, KiB; 0 where there is no such leaf.
    pub l1d_kib: u8,
}

/// Why a CPU is not taken for a Zen 5.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotZen5 {
    /// Another vendor, family or model.
    OtherCpu,
    /// A Zen 5 whose CPUID lacks these features (a hypervisor or the firmware hides them).
    FeaturesHidden(Vec<&'static str>),
    /// A Zen 5 whose AVX-512 registers the operating system has not enabled in XCR0.
    StateDisabled,
}

impl Cpu {
    /// Asks the CPU this thread runs on.
    #[must_use]
    pub fn detect() -> Self {
        let cpuid = CpuId::new();
        let osxsave = cpuid.get_feature_info().is_some_and(|f| f.has_oxsave());
        // SAFETY: OSXSAVE says that XGETBV is enabled and that XCR0 may be read.
        let xcr0 = if osxsave { unsafe { read_xcr0() } } else { 0 };
        Self::from_cpuid(&cpuid, xcr0)
    }

    /// Decodes the leaves that `cpuid` returns; `xcr0` is 0 where the operating system has not set
    /// OSXSAVE.
    #[must_use]
    pub fn from_cpuid<R: CpuIdReader>(cpuid: &CpuId<R>, xcr0: u64) -> Self {
        let mut cpu = Self { xcr0, ..Self::default() };
        if let Some(vendor) = cpuid.get_vendor_info() {
            cpu.vendor = vendor.as_str().to_owned();
        }
        if let Some(brand) = cpuid.get_processor_brand_string() {
            let words: Vec<&str> = brand.as_str().split(|c: char| c.is_whitespace() || c == '\0').collect();
            cpu.brand = words.into_iter().filter(|w| !w.is_empty()).collect::<Vec<_>>().join(" ");
        }
        if let Some(f) = cpuid.get_feature_info() {
            cpu.family = f.family_id();
            cpu.model = f.model_id();
            cpu.stepping = f.stepping_id();
            cpu.claimed.fma = f.has_fma();
            cpu.claimed.f16c = f.has_f16c();
        }
        if let Some(f) = cpuid.get_extended_feature_info() {
            cpu.claimed.avx2 = f.has_avx2();
            cpu.claimed.bmi2 = f.has_bmi2();
            cpu.claimed.avx512f = f.has_avx512f();
            cpu.claimed.avx512bw = f.has_avx512bw();
            cpu.claimed.avx512dq = f.has_avx512dq();
            cpu.claimed.avx512vl = f.has_avx512vl();
            cpu.claimed.avx512vnni = f.has_avx512vnni();
            cpu.claimed.avx512vbmi = f.has_avx512vbmi();
            cpu.claimed.avx512bf16 = f.has_avx512_bf16();
            cpu.claimed.avx512fp16 = f.has_avx512_fp16();
            cpu.claimed.avx512vp2intersect = f.has_avx512_vp2intersect();
            cpu.claimed.avx_vnni = f.has_avx_vnni();
            cpu.claimed.gfni = f.has_gfni();
        }
        cpu.l1d_kib = cpuid.get_l1_cache_and_tlb_info().map_or(0, |cache| cache.dcache_size());
        cpu.features = cpu.claimed.enabled_by(xcr0);
        cpu
    }

    /// Whether vendor, family and model are those of a Zen 5, whatever its features.
    #[must_use]
    pub fn is_zen5_model(&self) -> bool {
        self.vendor == "AuthenticAMD"
            && self.family == ZEN5_FAMILY
            && ZEN5_MODELS.iter().any(|&(first, last)| (first..=last).contains(&self.model))
    }

    /// Whether this is a Zen 5 whose AVX-512 can be used.
    #[must_use]
    pub fn is_zen5(&self) -> bool {
        self.check_zen5().is_ok()
    }

    /// [`Cpu::is_zen5`] with the reason.
    ///
    /// # Errors
    /// [`NotZen5`] names the first condition that does not hold.
    pub fn check_zen5(&self) -> Result<(), NotZen5> {
        if !self.is_zen5_model() {
            return Err(NotZen5::OtherCpu);
        }
        let c = &self.claimed;
        let missing: Vec<&'static str> = [
            ("avx512f", c.avx512f),
            ("avx512bw", c.avx512bw),
            ("avx512dq", c.avx512dq),
            ("avx512vl", c.avx512vl),
            ("avx512_vnni", c.avx512vnni),
        ]
        .into_iter()
        .filter_map(|(name, present)| (!present).then_some(name))
        .collect();
        if !missing.is_empty() {
            return Err(NotZen5::FeaturesHidden(missing));
        }
        if self.xcr0 & XCR0_AVX512 != XCR0_AVX512 {
            return Err(NotZen5::StateDisabled);
        }
        Ok(())
    }

    /// One phrase that names the CPU, e.g.
    /// `AMD EPYC 7763 64-Core Processor (AuthenticAMD, family 19h, model 01h)`.
    #[must_use]
    pub fn describe(&self) -> String {
        let brand = if self.brand.is_empty() { "unnamed CPU" } else { &self.brand };
        format!("{brand} ({}, family {:02X}h, model {:02X}h)", self.vendor, self.family, self.model)
    }
}

/// Reads XCR0.
///
/// # Safety
/// CPUID must report OSXSAVE, else XGETBV raises #UD.
unsafe fn read_xcr0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller checked OSXSAVE; XGETBV writes EDX:EAX and touches nothing else.
    unsafe {
        core::arch::asm!("xgetbv", in("ecx") 0u32, out("eax") low, out("edx") high,
            options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use raw_cpuid::CpuIdResult;

    /// A Zen 5 server part as the operating system leaves it.
    pub(crate) fn zen5() -> Cpu {
        let features = Features {
            avx2: true,
            fma: true,
            f16c: true,
            bmi2: true,
            avx512f: true,
            avx512bw: true,
            avx512dq: true,
            avx512vl: true,
            avx512vnni: true,
            avx512vbmi: true,
            avx512bf16: true,
            avx512vp2intersect: true,
            avx_vnni: true,
            gfni: true,
            ..Features::default()
        };
        Cpu {
            vendor: "AuthenticAMD".into(),
            brand: "AMD EPYC 9755 128-Core Processor".into(),
            family: 0x1A,
            model: 0x02,
            stepping: 1,
            features,
            claimed: features,
            xcr0: 0x2E7,
            l1d_kib: 48,
        }
    }

    fn regs(eax: u32, ebx: u32, ecx: u32, edx: u32) -> CpuIdResult {
        CpuIdResult { eax, ebx, ecx, edx }
    }

    /// The leaves of a Zen 5 desktop part: family 1Ah, model 44h.
    fn granite_ridge(leaf: u32, subleaf: u32) -> CpuIdResult {
        let text = |s: &[u8; 16]| {
            let w = |i: usize| u32::from_le_bytes([s[i], s[i + 1], s[i + 2], s[i + 3]]);
            regs(w(0), w(4), w(8), w(12))
        };
        match (leaf, subleaf) {
            (0, _) => regs(0x10, 0x6874_7541, 0x444D_4163, 0x6974_6E65),
            // Extended family 0Bh + base Fh = 1Ah, extended model 4, base model 4, stepping 0.
            (1, _) => regs(0x00B4_0F40, 0, 1 << 12 | 1 << 27 | 1 << 28 | 1 << 29, 0),
            (7, 0) => {
                regs(1, 1 << 5 | 1 << 8 | 1 << 16 | 1 << 17 | 1 << 30 | 1 << 31, 1 << 1 | 1 << 8 | 1 << 11, 1 << 8)
            }
            (7, 1) => regs(1 << 4 | 1 << 5, 0, 0, 0),
            (0x8000_0000, _) => regs(0x8000_0021, 0, 0, 0),
            (0x8000_0002, _) => text(b"AMD Ryzen 9 9950"),
            (0x8000_0003, _) => text(b"X 16-Core Proces"),
            (0x8000_0004, _) => text(b"sor             "),
            (0x8000_0005, _) => regs(0, 0, 48 << 24, 0),
            _ => regs(0, 0, 0, 0),
        }
    }

    #[test]
    fn cpuid_leaves_are_decoded() {
        let cpu = Cpu::from_cpuid(&CpuId::with_cpuid_fn(granite_ridge), 0xE7);
        assert_eq!(cpu.vendor, "AuthenticAMD");
        assert_eq!(cpu.brand, "AMD Ryzen 9 9950X 16-Core Processor");
        assert_eq!((cpu.family, cpu.model, cpu.stepping), (0x1A, 0x44, 0));
        let absent: Vec<_> = cpu.features.iter().filter(|f| !f.1).map(|f| f.0).collect();
        assert_eq!(absent, ["avx512_fp16"]);
        assert_eq!(cpu.l1d_kib, 48);
        assert!(cpu.is_zen5());
        assert_eq!(cpu.describe(), "AMD Ryzen 9 9950X 16-Core Processor (AuthenticAMD, family 1Ah, model 44h)");
    }

    #[test]
    fn avx512_needs_its_registers_enabled() {
        let cpu = Cpu::from_cpuid(&CpuId::with_cpuid_fn(granite_ridge), XCR0_AVX | 1);
        assert!(cpu.claimed.avx512vnni && !cpu.features.avx512vnni);
        assert!(cpu.features.avx2 && cpu.features.avx_vnni);
        assert_eq!(cpu.check_zen5(), Err(NotZen5::StateDisabled));
        for missing in [5, 6, 7] {
            let cpu = Cpu::from_cpuid(&CpuId::with_cpuid_fn(granite_ridge), 0xE7 & !(1 << missing));
            assert!(!cpu.features.avx512f && !cpu.is_zen5(), "XCR0 bit {missing}");
        }
    }

    #[test]
    fn nothing_vector_without_osxsave() {
        let cpu = Cpu::from_cpuid(&CpuId::with_cpuid_fn(granite_ridge), 0);
        assert!(!cpu.features.avx2 && !cpu.features.avx512f && cpu.features.bmi2);
    }

    #[test]
    fn zen5_is_a_table_of_models() {
        for model in 0..=0xFFu8 {
            let expected = matches!(model, 0x00..=0x2F | 0x40..=0x4F | 0x60..=0x7F);
            let cpu = Cpu { model, ..zen5() };
            assert_eq!(cpu.is_zen5(), expected, "model {model:02X}h");
        }
        // Decimal 25 is 19h: Zen 3 and Zen 4.
        assert!(!Cpu { family: 25, ..zen5() }.is_zen5());
        assert!(!Cpu { vendor: "GenuineIntel".into(), ..zen5() }.is_zen5());
    }

    #[test]
    fn a_zen5_with_hidden_features_is_named() {
        let mut cpu = zen5();
        cpu.claimed.avx512vnni = false;
        assert_eq!(cpu.check_zen5(), Err(NotZen5::FeaturesHidden(vec!["avx512_vnni"])));
    }

    #[test]
    fn this_machine_answers() {
        let cpu = Cpu::detect();
        assert!(!cpu.vendor.is_empty());
        assert_ne!(cpu.family, 0);
        assert_eq!(cpu.features.avx2, std::arch::is_x86_feature_detected!("avx2"));
        assert_eq!(cpu.features.avx512f, std::arch::is_x86_feature_detected!("avx512f"));
        assert_eq!(cpu.features.avx512vnni, std::arch::is_x86_feature_detected!("avx512vnni"));
    }
}
