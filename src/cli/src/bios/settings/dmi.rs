//! Board, BIOS and memory modules, as the firmware tells them (SMBIOS).

use std::collections::BTreeSet;

use dmidecode::structures::memory_device::MemoryDevice;
use dmidecode::{EntryPoint, Structure};

use super::Settings;
use crate::root::Root;
use crate::text;

const TABLES: &str = "sys/firmware/dmi/tables";

pub fn read(settings: &mut Settings<'_>) {
    for (id, file) in [
        ("system.vendor", "sys_vendor"),
        ("system.product", "product_name"),
        ("board.vendor", "board_vendor"),
        ("board.name", "board_name"),
        ("board.version", "board_version"),
        ("bios.vendor", "bios_vendor"),
        ("bios.version", "bios_version"),
        ("bios.date", "bios_date"),
        ("bios.release", "bios_release"),
    ] {
        settings.file(id, &format!("sys/class/dmi/id/{file}"));
    }
    match modules(settings.root) {
        Ok(modules) => {
            let speeds: BTreeSet<String> = modules.iter().map(|module| module.speed.clone()).collect();
            settings.put("memory.speed", Ok(speeds.into_iter().collect::<Vec<_>>().join(", ")));
            settings.put("memory.modules", Ok(modules.len().to_string()));
            for module in modules {
                settings.put(&format!("memory.module:{}", module.slot), Ok(module.line));
            }
        }
        Err(why) => {
            settings.put("memory.speed", Err(why.clone()));
            settings.put("memory.modules", Err(why));
        }
    }
}

struct Module {
    slot: String,
    /// As configured.
    speed: String,
    line: String,
}

/// The modules that are there.
fn modules(root: &Root) -> Result<Vec<Module>, String> {
    let entry = root.bytes(&format!("{TABLES}/smbios_entry_point"))?;
    let table = root.bytes(&format!("{TABLES}/DMI"))?;
    let entry = EntryPoint::search(&entry)
        .map_err(|error| format!("/{TABLES}/smbios_entry_point is not an SMBIOS entry point: {error}"))?;
    let mut modules = Vec::new();
    // One by one, since the iterator of a table believes lengths that lie behind its end.
    for structure in pieces(&table).filter_map(|piece| entry.structures(piece).next()) {
        match structure {
            Ok(Structure::MemoryDevice(device)) => modules.extend(module(&device)),
            Ok(_) => {}
            // One that is cut short or of another version says nothing of the others.
            Err(error) if modules.is_empty() => return Err(format!("/{TABLES}/DMI is malformed: {error}")),
            Err(_) => {}
        }
    }
    if modules.is_empty() { Err(format!("/{TABLES}/DMI names no memory module")) } else { Ok(modules) }
}

/// The structures of a table, each with its texts, up to the first one that is not whole (SMBIOS 3.7, 6.1.2: kind, length of
/// the part before the texts, and two zeros at the end of those).
fn pieces(table: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = table;
    std::iter::from_fn(move || {
        let texts = usize::from(*rest.get(1)?).max(4);
        let end = texts + rest.get(texts..)?.windows(2).position(|pair| pair == [0, 0])? + 2;
        let (piece, behind) = rest.split_at(end);
        rest = behind;
        (piece[1] >= 4).then_some(piece)
    })
}

/// `None` for an empty slot.
fn module(device: &MemoryDevice<'_>) -> Option<Module> {
    // SMBIOS 3.7, 7.18.2: bit 15 says KiB instead of MiB, 7FFFh that the other field has MiB.
    let bytes = match device.size? {
        0 => return None,
        0x7fff => u64::from(device.extended_size & 0x7fff_ffff) << 20,
        kib if kib & 0x8000 != 0 => u64::from(kib & 0x7fff) << 10,
        mib => u64::from(mib) << 20,
    };
    // FFFFh: more than fits, so the extended field has it.
    let speed = |short: Option<u16>, long: Option<u32>| match short? {
        0xffff => long,
        mts => Some(u32::from(mts)),
    };
    let configured = speed(device.configured_memory_speed, device.extended_configured_memory_speed);
    let rated = speed(device.speed, device.extended_speed);
    let told = |mts: Option<u32>| mts.map_or("speed not told".to_owned(), |mts| format!("{mts} MT/s"));
    let kind = format!("{:?}", device.memory_type).to_uppercase();
    let mut line = format!("{} {kind} at {} (rated {})", text::bytes(bytes), told(configured), told(rated));
    if let Some(millivolts) = device.configured_voltage {
        line += &format!(", {:.2} V", f64::from(millivolts) / 1000.0);
    }
    if device.attributes & 0xf != 0 {
        line += &format!(", {} ranks", device.attributes & 0xf);
    }
    line += &format!(", {} {}", device.manufacturer.trim(), device.part_number.trim());
    let slot = [device.bank_locator.trim(), device.device_locator.trim()].join(" ").trim().to_owned();
    Some(Module { slot, speed: told(configured), line })
}
