//! Calibration files of `zen5turbo tune`.

use zen5turbo_calibration::{self as calibration, Calibration, Measured, Regime};

use super::super::contents::{At, Contents, Cpu, Tuned};
use super::Read;

/// The ratio of each type and number of columns, ours over the better of ggml's.
pub fn read(text: &str) -> Result<Read, String> {
    let file = calibration::parse(text).map_err(|bad| {
        format!(
            "{bad}; it is no calibration file of this version: read it with the version that made it, or tune again"
        )
    })?;
    let tuned = file.calibrations.iter().map(tuned).collect();
    Ok(Read { what: "tune, calibration", contents: Contents { tuned, ..Contents::default() }, note: String::new() })
}

fn tuned(calibration: &Calibration) -> Tuned {
    // `2026-11-21T19:40:00Z by zen5turbo 0.1.0 with 128 threads`
    let made = calibration.made.clone().unwrap_or_default();
    let (date, by) = made.split_once(" by ").unwrap_or((&made, ""));
    let mut rows: Vec<(String, Vec<Option<f64>>)> = Vec::new();
    for measured in &calibration.measured {
        let name = measured.weight.ggml_name();
        let index = rows.iter().position(|(row, _)| row == name).unwrap_or_else(|| {
            rows.push((name.to_owned(), vec![None; Regime::ALL.len()]));
            rows.len() - 1
        });
        rows[index].1[measured.regime as usize] = Some(ratio(measured));
    }
    Tuned {
        at: At {
            date: date.to_owned(),
            // A dash stands for no name.
            cpu: Cpu::parse(calibration.cpu.trim_matches('-')),
            version: by.split(" with ").next().unwrap_or_default().to_owned(),
            file: String::new(),
        },
        tier: calibration.isa.name().to_owned(),
        ggml: calibration.ggml.clone(),
        columns: Regime::ALL.map(Regime::name).to_vec(),
        rows,
    }
}

fn ratio(measured: &Measured) -> f64 {
    measured.rival() as f64 / measured.ours.max(1) as f64
}
