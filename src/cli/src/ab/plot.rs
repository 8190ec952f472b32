//! The plots of the report.

use anyhow::Result;
use plotters::prelude::*;

use super::arm::Role;
use super::plan::Plan;
use super::summary::Row;
use crate::chart::{self, COLOURS, Ratio, failed, svg};

/// The last colour is stock again's; before it two of stock, and the rest.
const AGAIN: usize = COLOURS - 1;

/// An arm's colour, by its number in the page's style.
pub fn colour(plan: &Plan, arm: usize) -> usize {
    let role = plan.arms[arm].role;
    let nth = plan.with_role(role).take_while(|&other| other != arm).count();
    match role {
        Role::Stock => nth % 2,
        Role::Again(_) => AGAIN,
        Role::Compared => 2 + nth % (AGAIN - 2),
    }
}

/// Every ratio of a model with its interval, over the band of stock against itself.
pub fn ratios(plan: &Plan, rows: &[&Row]) -> Result<String> {
    let mut lines = Vec::new();
    for row in rows {
        for (arm, comparison) in row.compared.iter().enumerate() {
            let Some(c) = comparison else { continue };
            lines.push(Ratio {
                label: format!("{}, {} thr., {}", row.test, row.threads, plan.arms[arm].name),
                colour: colour(plan, arm),
                median: c.median,
                interval: c.interval.map(|i| (i.low, i.high)),
                noise: row.noise.as_ref().and_then(|n| n.interval).map(|i| i.around_one()),
            });
        }
    }
    chart::ratios(&lines)
}

/// Every value of a test, by pair.
pub fn points(plan: &Plan, row: &Row) -> Result<String> {
    let all = row.values.iter().flatten();
    let (low, high) = all.fold((f64::MAX, f64::MIN), |(low, high), &v| (low.min(v), high.max(v)));
    let pad = ((high - low) * 0.08).max(high.abs() * 0.005).max(1e-9);
    let pairs = row.values.iter().map(Vec::len).max().unwrap_or(0);
    svg((430, 250), &format!("{} by pair", row.test), |root| {
        let mut chart = ChartBuilder::on(root)
            .margin(6)
            .margin_right(12)
            .x_label_area_size(42)
            .y_label_area_size(58)
            .build_cartesian_2d(0.5..pairs as f64 + 0.5, low - pad..high + pad)
            .map_err(failed)?;
        let digits = if high - low >= 10.0 {
            0
        } else if high - low >= 0.5 {
            1
        } else {
            3
        };
        chart::axes(
            chart
                .configure_mesh()
                .disable_x_mesh()
                .x_labels(pairs.min(9))
                .y_labels(6)
                .x_label_formatter(&|x| if x.fract() == 0.0 { format!("{x:.0}") } else { String::new() })
                .y_label_formatter(&|y| format!("{y:.digits$}"))
                .x_desc("pair"),
            16,
        )?;
        for (arm, values) in row.values.iter().enumerate() {
            let at: Vec<(f64, f64)> = values.iter().enumerate().map(|(i, v)| (i as f64 + 1.0, *v)).collect();
            let colour = chart::colour(colour(plan, arm));
            chart.draw_series(LineSeries::new(at.clone(), colour.stroke_width(1))).map_err(failed)?;
            let marks = at.into_iter();
            match plan.arms[arm].role {
                Role::Stock => chart.draw_series(marks.map(|p| Circle::new(p, 4, colour.stroke_width(2)))),
                Role::Again(_) => chart.draw_series(marks.map(|p| Cross::new(p, 4, colour.stroke_width(2)))),
                Role::Compared => chart.draw_series(marks.map(|p| Circle::new(p, 4, colour.filled()))),
            }
            .map_err(failed)?;
        }
        Ok(())
    })
}
