//! Records of `zen5turbo bios record`.

use std::path::Path;

use super::super::contents::{At, Bench, Contents, Cpu, Memory, Power, Spread};
use super::{Read, ab_json};
use crate::bios::{Group, Reading, Record, parse};

/// Bandwidth, power, the rest of the machine, and what `ab` found there.
pub fn read(path: &Path, text: &str) -> Result<Read, String> {
    let record = parse(path, text).map_err(|error| {
        let message = format!("{error:#}");
        // The list names the file itself.
        message.strip_prefix(&format!("{} ", path.display())).map(str::to_owned).unwrap_or(message)
    })?;
    let at = At {
        date: record.date.clone(),
        cpu: cpu(&record),
        version: format!("zen5turbo {}", record.version),
        file: String::new(),
    };
    let mut contents = Contents::default();
    let mut results = Vec::new();
    let mut disturbed = 0;
    for series in &record.results {
        let undisturbed = series.undisturbed(&record.rounds);
        disturbed = disturbed.max(series.samples.len() - undisturbed.len());
        let Some(spread) = Spread::of(&undisturbed) else { continue };
        match series.group {
            Group::Read => contents.memory.push(Memory {
                at: at.clone(),
                pages: "any".to_owned(),
                threads: series.x as u32,
                rate: spread,
            }),
            Group::Power => contents.power.push(Power { at: at.clone(), name: series.name.clone(), watts: spread }),
            // Its rows are those of the summary below.
            Group::Ab => continue,
            _ => {}
        }
        results.push((series.name.clone(), series.unit.clone(), spread));
    }
    if let Some(ab) = &record.ab {
        contents.speeds = ab_json::speeds(ab)?;
    }
    let unmeasured = record.unmeasured.iter().map(|u| (u.name.clone(), u.why.clone())).collect();
    contents.benches.push(Bench { at, label: record.label.clone(), results, unmeasured });
    let note = if disturbed > 0 {
        format!("{disturbed} of {} rounds were left out: other work ran meanwhile", record.rounds.len())
    } else {
        String::new()
    };
    Ok(Read { what: "bios record", contents, note })
}

/// The brand, with family and model of the settings.
fn cpu(record: &Record) -> Cpu {
    let model = record.settings.iter().find_map(|setting| match &setting.reading {
        Reading::Value(value) if setting.id == "cpu.model" => Cpu::parse(value).model,
        _ => None,
    });
    Cpu { model, ..Cpu::parse(&record.cpu) }
}
