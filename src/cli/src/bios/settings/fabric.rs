//! Clocks of memory and fabric through the `ryzen_smu` module, limits and use of power through RAPL.

use std::time::Instant;

use super::Settings;
use crate::root::Root;

const SMU: &str = "sys/kernel/ryzen_smu_drv";
const RAPL: &str = "sys/class/powercap";

pub fn read(settings: &mut Settings<'_>) {
    let root = settings.root;
    let loaded = root.path(SMU).exists();
    let why = || format!("the kernel module ryzen_smu is not loaded (/{SMU} is not there)");
    settings.put("smu.version", if loaded { root.told(&format!("{SMU}/version")) } else { Err(why()) });
    let clocks = if loaded { clocks(root) } else { Err(why()) };
    for (i, id) in ["fabric.fclk", "fabric.uclk", "fabric.mclk"].into_iter().enumerate() {
        settings.put(id, clocks.as_ref().map(|clocks| format!("{:.0} MHz", clocks[i])).map_err(Clone::clone));
    }
    let zones = zones(root);
    if zones.is_empty() {
        settings.put("power.limit", Err(format!("no RAPL zone in /{RAPL}")));
    }
    for (zone, name) in zones {
        let limit = root.told(&format!("{RAPL}/{zone}/constraint_0_power_limit_uw"));
        let watts = |text: String| text.parse::<f64>().map_or(text, |uw| format!("{:.1} W", uw / 1e6));
        settings.put(&format!("power.limit:{name}"), limit.map(watts));
    }
}

/// Where versions of the SMU's table have FCLK, UCLK and MCLK, as byte offsets of 32-bit floats in MHz.
/// AMD does not publish this; the offsets are those of ZenStates-Core (`PowerTable.cs`). Those of Zen 4 are
/// marked as not verified there.
const LAYOUTS: [(&[u32], [usize; 3]); 5] = [
    (&[0x24_0803, 0x24_0903], [0xc0, 0xc8, 0xcc]),
    (&[0x38_0804, 0x38_0805, 0x38_0904, 0x38_0905], [0xc0, 0xc8, 0xcc]),
    (&[0x54_0104, 0x54_0004, 0x54_0005, 0x54_0208], [0x118, 0x128, 0x138]),
    (&[0x5c_0303], [0x19c, 0x1b0, 0x1c4]),
    (&[0x62_0205], [0x11c, 0x12c, 0x13c]),
];

/// FCLK, UCLK and MCLK in MHz.
fn clocks(root: &Root) -> Result<[f32; 3], String> {
    let version = root.bytes(&format!("{SMU}/pm_table_version"))?;
    let version = version
        .get(..4)
        .and_then(|bytes| Some(u32::from_le_bytes(bytes.try_into().ok()?)))
        .ok_or(format!("/{SMU}/pm_table_version has {} bytes; expected 4", version.len()))?;
    let layout = LAYOUTS.iter().find(|(versions, _)| versions.contains(&version));
    let (_, offsets) = layout.ok_or(format!("where table version {version:#x} of the SMU has it is not known"))?;
    let table = root.bytes(&format!("{SMU}/pm_table"))?;
    let mut clocks = [0.0; 3];
    for (clock, &at) in clocks.iter_mut().zip(offsets) {
        let bytes = table.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        *clock = f32::from_le_bytes(bytes.ok_or(format!("/{SMU}/pm_table has {} bytes only", table.len()))?);
        // What is no clock shows that the layout is another one.
        if !(100.0..=10_000.0).contains(clock) {
            return Err(format!("table version {version:#x} of the SMU has {clock} where a clock was expected"));
        }
    }
    Ok(clocks)
}

/// RAPL zones with an energy counter: folder and name.
fn zones(root: &Root) -> Vec<(String, String)> {
    let named = |zone: String| root.read(&format!("{RAPL}/{zone}/name")).map(|name| (zone, name));
    root.list(RAPL).into_iter().filter(|zone| zone.contains(':')).filter_map(named).collect()
}

/// The energy counters of the packages.
pub struct Energy(Vec<Zone>);

struct Zone {
    name: String,
    counter: String,
    /// Where the counter begins again at 0, microjoules.
    wraps_at: u64,
}

impl Energy {
    /// Those of `root` that can be read, or why none can.
    pub fn of(root: &Root) -> Result<Energy, String> {
        let mut why = format!("no RAPL zone in /{RAPL}");
        let mut list = Vec::new();
        for (zone, name) in zones(root).into_iter().filter(|(_, name)| name.starts_with("package")) {
            let counter = format!("{RAPL}/{zone}/energy_uj");
            match root.told(&counter) {
                Ok(_) => {
                    let wraps_at = root.number(&format!("{RAPL}/{zone}/max_energy_range_uj")).unwrap_or(u64::MAX);
                    list.push(Zone { name, counter, wraps_at });
                }
                Err(error) => why = error,
            }
        }
        if list.is_empty() { Err(why) } else { Ok(Energy(list)) }
    }

    /// The mean power of each package while `work` runs, watts, and what `work` returns.
    pub fn during<T>(&self, root: &Root, work: impl FnOnce() -> T) -> (T, Vec<(String, f64)>) {
        let read = || self.0.iter().map(|zone| root.number(&zone.counter)).collect::<Vec<_>>();
        let (before, start) = (read(), Instant::now());
        let result = work();
        let (after, seconds) = (read(), start.elapsed().as_secs_f64());
        let zones = self.0.iter().zip(before.into_iter().zip(after));
        let powers = zones.filter_map(|(zone, (before, after))| {
            let (before, after) = (before?, after?);
            let used = if after >= before {
                after - before
            } else {
                after.saturating_add(zone.wraps_at.saturating_sub(before))
            };
            Some((zone.name.clone(), used as f64 / 1e6 / seconds))
        });
        (result, powers.collect())
    }
}
