//! The plots of a comparison.

use anyhow::Result;
use plotters::prelude::*;

use super::compare::{Compared, Row, letter};
use super::record::Group;
use crate::chart::{self, Ratio, failed, svg};
use crate::statistics::{median, range};
use crate::text;

/// A record's colour, by its number in the page's style.
pub fn colour(record: usize) -> usize {
    record + 1
}

/// Every ratio with its interval, over the band of the noise.
pub fn ratios(compared: &Compared<'_>) -> Result<String> {
    let lines: Vec<Ratio> = compared
        .comparisons()
        .map(|(row, i, c)| Ratio {
            label: if compared.records.len() > 2 { format!("{}, {}/A", row.name, letter(i)) } else { row.name.clone() },
            colour: colour(i),
            median: c.median,
            interval: c.interval.map(|i| (i.low, i.high)),
            noise: row.noise[i].map(|noise| noise.around_one()),
        })
        .collect();
    chart::ratios(&lines)
}

/// The title of a group that is drawn as a curve, and what its x axis has.
pub fn curve_of(group: Group) -> Option<(&'static str, &'static str)> {
    match group {
        Group::Read => Some(("Streaming read, GB/s", "threads")),
        Group::Copy => Some(("Streaming copy, GB/s", "threads")),
        Group::ReadCcd => Some(("Streaming read by the cores of one CCD, GB/s", "CCD")),
        Group::CopyCcd => Some(("Streaming copy by the cores of one CCD, GB/s", "CCD")),
        Group::Latency => Some(("Load-to-use latency, ns", "bytes")),
        Group::CoreToCore | Group::Clock | Group::Int8 | Group::Power | Group::Ab => None,
    }
}

/// The medians of a group of results over what they were measured over, a curve for each record, with the
/// range of the samples. Latencies on a scale of powers of two.
pub fn curve(title: &str, axis: &str, rows: &[&Row]) -> Result<String> {
    let latency = axis == "bytes";
    let scaled = |value: f64| if latency { value.max(1e-3).log2() } else { value };
    let all = rows.iter().flat_map(|row| row.values.iter().flatten()).map(|&value| scaled(value));
    let (low, high) = all.fold((if latency { f64::MAX } else { 0.0 }, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
    if low > high {
        return Ok(String::new());
    }
    let pad = ((high - low) * 0.06).max(1e-3);
    let records = rows.iter().map(|row| row.values.len()).max().unwrap_or(0);
    let label = |x: &f64| match rows.get(x.round() as usize).filter(|_| (x - x.round()).abs() < 1e-6) {
        Some(row) if latency => text::bytes(row.x as u64).replace(".0 ", " "),
        Some(row) => format!("{}", row.x),
        None => String::new(),
    };
    svg((430, 280), title, |root| {
        let mut chart = ChartBuilder::on(root)
            .margin(6)
            .margin_right(26)
            .x_label_area_size(42)
            .y_label_area_size(52)
            .build_cartesian_2d(-0.5..rows.len() as f64 - 0.5, low - if latency { pad } else { 0.0 }..high + pad)
            .map_err(failed)?;
        chart::axes(
            chart
                .configure_mesh()
                .disable_x_mesh()
                .x_labels(rows.len().min(if latency { 6 } else { 12 }))
                .y_labels(8)
                .x_label_formatter(&label)
                .y_label_formatter(&|y| text::number(if latency { y.exp2() } else { *y }))
                .x_desc(axis),
            15,
        )?;
        for record in 0..records {
            let colour = chart::colour(colour(record));
            // Side by side, so that equal records do not hide one another.
            let x = |i: usize| i as f64 + (record as f64 - (records - 1) as f64 / 2.0) * 0.12;
            let values = |row: &Row| row.values.get(record).cloned().unwrap_or_default();
            let middle = |(i, row): (usize, &&Row)| Some((x(i), scaled(median(&values(row))?)));
            let medians: Vec<(f64, f64)> = rows.iter().enumerate().filter_map(middle).collect();
            chart.draw_series(LineSeries::new(medians.clone(), colour.stroke_width(1))).map_err(failed)?;
            for (i, row) in rows.iter().enumerate() {
                if let Some((low, high)) = range(&values(row)) {
                    let ends = vec![(x(i), scaled(low)), (x(i), scaled(high))];
                    chart.draw_series([PathElement::new(ends, colour.stroke_width(2))]).map_err(failed)?;
                }
            }
            chart.draw_series(medians.into_iter().map(|at| Circle::new(at, 4, colour.filled()))).map_err(failed)?;
        }
        Ok(())
    })
}
