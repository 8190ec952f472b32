//! The plots, small enough for a phone.

use anyhow::Result;
use plotters::prelude::*;

use crate::chart::{self, Ratio, failed, svg};

/// Colours of the page's style: the shim's, and one for the others.
const SHIM: usize = 2;
const OTHER: usize = 7;

/// Pixels: they fill a phone, and two or more stand beside each other elsewhere.
pub const WIDTH: u32 = 430;
const HEIGHT: u32 = 260;

/// Dates that have room below a history.
const MOST_DATES: usize = 7;

/// The longest label of a line, characters.
const LONGEST: usize = 26;

/// One line of a plot of ratios.
pub struct Line {
    pub label: String,
    pub shim: bool,
    pub ratio: f64,
    pub interval: Option<(f64, f64)>,
    pub noise: Option<(f64, f64)>,
}

/// Ratios with their intervals, over the bands of the noise.
pub fn ratios(lines: &[Line]) -> Result<String> {
    let lines: Vec<Ratio> = lines
        .iter()
        .map(|line| Ratio {
            label: shortened(&line.label),
            colour: if line.shim { SHIM } else { OTHER },
            median: drawn(line.ratio),
            interval: line.interval.map(|(low, high)| (drawn(low), drawn(high))),
            noise: line.noise.map(|(low, high)| (drawn(low), drawn(high))),
        })
        .collect();
    chart::ratios_of_width(WIDTH, &lines)
}

/// A damaged record may have any ratio; an axis cannot.
fn drawn(ratio: f64) -> f64 {
    ratio.clamp(1e-3, 1e3)
}

fn shortened(label: &str) -> String {
    if label.chars().count() <= LONGEST {
        return label.to_owned();
    }
    let beginning: String = label.chars().take(LONGEST - 1).collect();
    format!("{beginning}…")
}

/// The names of the colours of [`ratios`]; none where all are the shim's.
pub fn legend(others: bool) -> Vec<(usize, String)> {
    if others { vec![(SHIM, "zen5turbo".to_owned()), (OTHER, "other programs".to_owned())] } else { Vec::new() }
}

/// Place in the order of dates, ratio, interval.
pub type Point = (usize, f64, Option<(f64, f64)>);

/// The history of one model: its colour, and its measurements.
pub struct History {
    pub colour: usize,
    pub points: Vec<Point>,
}

/// Ratios over the dates on which they were measured, which are equally far apart in the plot.
pub fn history(title: &str, dates: &[&str], lines: &[History]) -> Result<String> {
    let values = lines.iter().flat_map(|line| &line.points).flat_map(|(_, ratio, interval)| {
        let (low, high) = interval.unwrap_or((*ratio, *ratio));
        [low, high, *ratio].map(drawn)
    });
    let (low, high) = values.fold((0.98f64, 1.02f64), |(low, high), v| (low.min(v), high.max(v)));
    let pad = (high - low) * 0.06;
    // As many as do not overlap.
    let every = dates.len().div_ceil(MOST_DATES);
    let day = |x: &f64| {
        let place = x.round().max(0.0) as usize;
        let shown = (x - x.round()).abs() < 1e-6 && place.is_multiple_of(every);
        let date = dates.get(place).filter(|_| shown).copied().unwrap_or_default();
        date.get(5..10).unwrap_or(date).to_owned()
    };
    svg((WIDTH, HEIGHT), title, |root| {
        let mut chart = ChartBuilder::on(root)
            .margin(6)
            .margin_right(22)
            .x_label_area_size(44)
            .y_label_area_size(58)
            .build_cartesian_2d(-0.4..dates.len() as f64 - 0.6, low - pad..high + pad)
            .map_err(failed)?;
        chart::axes(
            chart
                .configure_mesh()
                .disable_x_mesh()
                .x_labels(dates.len() * 2 + 1)
                .y_labels(6)
                .x_label_formatter(&day)
                .y_label_formatter(&|y| format!("{y:.2}"))
                .x_desc("month-day")
                .y_desc("ratio"),
            15,
        )?;
        for (number, line) in lines.iter().enumerate() {
            let colour = chart::colour(line.colour);
            // Side by side, so that equal ratios do not hide one another.
            let x = |place: usize| place as f64 + (number as f64 - (lines.len() - 1) as f64 / 2.0) * 0.06;
            let middle: Vec<(f64, f64)> =
                line.points.iter().map(|(place, ratio, _)| (x(*place), drawn(*ratio))).collect();
            chart.draw_series(LineSeries::new(middle.clone(), colour.stroke_width(1))).map_err(failed)?;
            for (place, _, interval) in &line.points {
                if let Some((low, high)) = interval {
                    let ends = vec![(x(*place), drawn(*low)), (x(*place), drawn(*high))];
                    chart.draw_series([PathElement::new(ends, colour.stroke_width(2))]).map_err(failed)?;
                }
            }
            chart.draw_series(middle.into_iter().map(|at| Circle::new(at, 4, colour.filled()))).map_err(failed)?;
        }
        Ok(())
    })
}
