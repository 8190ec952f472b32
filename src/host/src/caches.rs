//! Sizes of the data caches, from sysfs, else from CPUID, else assumed.

use raw_cpuid::{CacheType, CpuId, CpuIdReader};

use crate::proc::read_text;

/// Used where neither sysfs nor CPUID tells: the smallest data caches of the CPUs with AVX2 that
/// llama.cpp is run on (L1d and L2 of Zen 1 to Zen 3, one core's share of a Zen 2 L3).
/// Too small only makes tiles smaller.
pub const ASSUMED: Caches = Caches { l1d: 32 << 10, l2: 512 << 10, l3: 4 << 20, l3_sharing: 1 };

/// Sizes in bytes of the data or unified caches that one core sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caches {
    /// First-level data cache, bytes.
    pub l1d: usize,
    /// Second-level cache, bytes.
    pub l2: usize,
    /// Last-level cache as one core sees it (one CCX on AMD), bytes.
    pub l3: usize,
    /// Logical CPUs that share this L3, at least 1.
    pub l3_sharing: usize,
}

/// A cache size that may be unknown, for each of the fields of [`Caches`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    l1d: Option<usize>,
    l2: Option<usize>,
    l3: Option<usize>,
    l3_sharing: Option<usize>,
}

impl Found {
    fn or(self, other: Self) -> Self {
        Self {
            l1d: self.l1d.or(other.l1d),
            l2: self.l2.or(other.l2),
            l3: self.l3.or(other.l3),
            l3_sharing: self.l3_sharing.or(other.l3_sharing),
        }
    }

    fn set(&mut self, level: u32, bytes: usize, sharing: usize) {
        match level {
            1 => self.l1d = Some(bytes),
            2 => self.l2 = Some(bytes),
            3 => {
                self.l3 = Some(bytes);
                self.l3_sharing = Some(sharing.max(1));
            }
            _ => {}
        }
    }
}

impl Caches {
    /// Asks the machine: sysfs for `cpu0`, then CPUID, then [`ASSUMED`], field by field.
    #[must_use]
    pub fn detect() -> Self {
        let sysfs = from_sysfs(|file| read_text(format!("/sys/devices/system/cpu/cpu0/cache/{file}")).ok());
        let found = sysfs.or(from_cpuid(&CpuId::new()));
        Self {
            l1d: found.l1d.unwrap_or(ASSUMED.l1d),
            l2: found.l2.unwrap_or(ASSUMED.l2),
            l3: found.l3.unwrap_or(ASSUMED.l3),
            l3_sharing: found.l3_sharing.unwrap_or(ASSUMED.l3_sharing),
        }
    }
}

/// Reads `indexN/{level,type,size,shared_cpu_list}` through `read`, which returns a file's text.
/// The format is that of Linux, `Documentation/ABI/testing/sysfs-devices-system-cpu`.
pub(crate) fn from_sysfs(read: impl Fn(&str) -> Option<String>) -> Found {
    let mut found = Found::default();
    // A CPU has four to five; a made tree may have any number.
    for index in 0..64 {
        let field = |name: &str| read(&format!("index{index}/{name}"));
        let Some(level) = field("level") else { break };
        let Ok(level) = level.trim().parse() else {
            continue;
        };
        if field("type").is_some_and(|t| t.trim() == "Instruction") {
            continue;
        }
        let Some(bytes) = field("size").as_deref().and_then(parse_size) else {
            continue;
        };
        let sharing = field("shared_cpu_list").as_deref().and_then(count_cpus).unwrap_or(1);
        found.set(level, bytes, sharing);
    }
    found
}

/// CPUID leaf 4 (Intel) or 8000001Dh (AMD).
fn from_cpuid<R: CpuIdReader>(cpuid: &CpuId<R>) -> Found {
    let mut found = Found::default();
    // A CPU has four to five caches; a hypervisor that never answers "no more" is cut off.
    for cache in cpuid.get_cache_parameters().into_iter().flatten().take(16) {
        if !matches!(cache.cache_type(), CacheType::Data | CacheType::Unified) {
            continue;
        }
        let bytes =
            cache.associativity() * cache.physical_line_partitions() * cache.coherency_line_size() * cache.sets();
        if bytes > 0 {
            found.set(u32::from(cache.level()), bytes, cache.max_cores_for_cache());
        }
    }
    found
}

/// `48K`, `32768K`, `1M`, `16G` or plain bytes; `None` for anything else and for 0.
fn parse_size(text: &str) -> Option<usize> {
    let text = text.trim();
    let (digits, unit) = match text.chars().last()? {
        'K' => (&text[..text.len() - 1], 1 << 10),
        'M' => (&text[..text.len() - 1], 1 << 20),
        'G' => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    digits.parse::<usize>().ok()?.checked_mul(unit).filter(|&bytes| bytes > 0)
}

/// How many CPUs a list such as `0-7,64-71` names; `None` when it is not such a list.
fn count_cpus(list: &str) -> Option<usize> {
    let mut count = 0usize;
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        count = count.checked_add(last.checked_sub(first)?.checked_add(1)?)?;
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use raw_cpuid::CpuIdResult;

    #[test]
    fn sysfs_of_a_zen5_server() {
        let file = |path: &str| {
            let text = match path {
                "index0/level" | "index1/level" => "1\n",
                "index2/level" => "2\n",
                "index3/level" => "3\n",
                "index0/type" => "Data\n",
                "index1/type" => "Instruction\n",
                "index2/type" | "index3/type" => "Unified\n",
                "index0/size" => "48K\n",
                "index1/size" => "32K\n",
                "index2/size" => "1024K\n",
                "index3/size" => "32768K\n",
                "index3/shared_cpu_list" => "0-7,128-135\n",
                _ => return None,
            };
            Some(text.to_owned())
        };
        let found = from_sysfs(file);
        assert_eq!(found.l1d, Some(48 << 10));
        assert_eq!(found.l2, Some(1 << 20));
        assert_eq!((found.l3, found.l3_sharing), (Some(32 << 20), Some(16)));
    }

    #[test]
    fn an_absent_sysfs_finds_nothing() {
        assert_eq!(from_sysfs(|_| None), Found::default());
        let odd = from_sysfs(|path| (path == "index0/level").then(|| "one".to_owned()));
        assert_eq!(odd, Found::default());
    }

    #[test]
    fn sizes_and_lists() {
        assert_eq!(parse_size("48K"), Some(49152));
        assert_eq!(parse_size("1M\n"), Some(1 << 20));
        assert_eq!(parse_size("512"), Some(512));
        for bad in ["", "K", "0K", "-1K", "12X", "99999999999999999999K"] {
            assert_eq!(parse_size(bad), None, "{bad:?}");
        }
        assert_eq!(count_cpus("0"), Some(1));
        assert_eq!(count_cpus("0-7,64-71\n"), Some(16));
        for bad in ["", "a-b", "7-0", "1,"] {
            assert_eq!(count_cpus(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn cpuid_of_an_amd_part() {
        let leaves = |leaf: u32, subleaf: u32| {
            let (eax, ebx, ecx, edx) = match (leaf, subleaf) {
                (0, _) => (0x10, 0x6874_7541, 0x444D_4163, 0x6974_6E65),
                (0x8000_0000, _) => (0x8000_0021, 0, 0, 0),
                // Type and level in EAX[4:0] and [7:5], sharing - 1 in [25:14]; ways, partitions
                // and line size, each minus one, in EBX; sets - 1 in ECX.
                (0x8000_001D, 0) => (1 | 1 << 5 | 1 << 14, 11 << 22 | 63, 63, 0),
                (0x8000_001D, 1) => (2 | 1 << 5 | 1 << 14, 7 << 22 | 63, 63, 0),
                (0x8000_001D, 2) => (3 | 2 << 5 | 1 << 14, 15 << 22 | 63, 1023, 0),
                (0x8000_001D, 3) => (3 | 3 << 5 | 15 << 14, 15 << 22 | 63, 32767, 0),
                _ => (0, 0, 0, 0),
            };
            CpuIdResult { eax, ebx, ecx, edx }
        };
        let found = from_cpuid(&CpuId::with_cpuid_fn(leaves));
        assert_eq!((found.l1d, found.l2), (Some(48 << 10), Some(1 << 20)));
        assert_eq!((found.l3, found.l3_sharing), (Some(32 << 20), Some(16)));
    }

    #[test]
    fn this_machine_has_caches() {
        let caches = Caches::detect();
        assert!(caches.l1d >= 8 << 10 && caches.l2 >= caches.l1d && caches.l3_sharing >= 1);
    }
}
