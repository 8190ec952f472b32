//! The plots of the report, as SVG whose colours come from the page: it may be light or dark.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::arm::Role;
use super::plan::Plan;
use super::summary::Row;

/// Colours that the page replaces by its own (see [`themed`]).
const INK: RGBColor = RGBColor(0, 0, 1);
const GRID: RGBColor = RGBColor(0, 0, 2);
const BAND: RGBColor = RGBColor(0, 0, 3);

fn arm_colour(plan: &Plan, arm: usize) -> RGBColor {
    RGBColor(1, 0, colour(plan, arm) as u8)
}

/// Number of colours for arms in the page's style: two for stock, one for stock again, and the rest.
const COLOURS: usize = 8;
const AGAIN: usize = COLOURS - 1;

/// An arm's colour, by its number in the page's style.
fn colour(plan: &Plan, arm: usize) -> usize {
    let role = plan.arms[arm].role;
    let nth = plan.with_role(role).take_while(|&other| other != arm).count();
    match role {
        Role::Stock => nth % 2,
        Role::Again(_) => AGAIN,
        Role::Compared => 2 + nth % (AGAIN - 2),
    }
}

/// The name of an arm's colour in the page's style.
pub fn colour_variable(plan: &Plan, arm: usize) -> String {
    format!("--arm-{}", colour(plan, arm))
}

/// Pixels of one line of the ratio plot, of a letter of its labels, and of the axis below it.
const LINE: u32 = 28;
const LETTER: usize = 8;
const AXIS: u32 = 34;
const WIDTH: u32 = 900;

/// Every ratio of a model with its interval, over the band of stock against itself.
pub fn ratios(plan: &Plan, rows: &[&Row]) -> Result<String> {
    let mut lines = Vec::new();
    for row in rows {
        for (arm, comparison) in row.compared.iter().enumerate() {
            if let Some(c) = comparison {
                lines.push((row, arm, c));
            }
        }
    }
    let (mut low, mut high) = (0.98f64, 1.02f64);
    for (row, _, c) in &lines {
        let band = row.noise.as_ref().and_then(|n| n.interval).map(|i| i.around_one());
        let ends = c.interval.map(|i| (i.low, i.high));
        for (a, b) in [band, ends, Some((c.median, c.median))].into_iter().flatten() {
            (low, high) = (low.min(a), high.max(b));
        }
    }
    let pad = (high - low) * 0.06;
    let (low, high, n) = (low - pad, high + pad, lines.len());
    let size = (WIDTH, n as u32 * LINE + AXIS);
    let label = |row: &Row, arm: usize| format!("{}, {} thr., {}", row.test, row.threads, plan.arms[arm].name);
    let longest = lines.iter().map(|(row, arm, _)| label(row, *arm).chars().count()).max().unwrap_or(0);
    let labels = ((longest * LETTER) as u32 + 16).min(WIDTH / 2);
    svg(size, "ratios with their intervals", |root| {
        let (left, right) = root.split_horizontally(labels);
        let mut chart = ChartBuilder::on(&right)
            .margin_right(14)
            .x_label_area_size(AXIS)
            .build_cartesian_2d(low..high, 0.0..n as f64)
            .map_err(failed)?;
        for (i, (row, ..)) in lines.iter().enumerate() {
            if let Some(noise) = row.noise.as_ref().and_then(|noise| noise.interval) {
                let (from, to) = noise.around_one();
                let (bottom, top) = ((n - i - 1) as f64, (n - i) as f64);
                let band = Rectangle::new([(from, bottom), (to, top)], BAND.filled());
                chart.draw_series([band]).map_err(failed)?;
            }
        }
        chart
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .y_labels(0)
            .x_labels(9)
            .x_label_formatter(&|x| format!("{x:.2}"))
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(GRID)
            .label_style(("sans-serif", 16).into_font().color(&INK))
            .draw()
            .map_err(failed)?;
        let one = DashedPathElement::new([(1.0, 0.0), (1.0, n as f64)], 5, 4, INK.stroke_width(1));
        chart.draw_series([one]).map_err(failed)?;
        let style = ("sans-serif", 16).into_font().color(&INK).pos(Pos::new(HPos::Right, VPos::Center));
        for (i, (row, arm, c)) in lines.iter().enumerate() {
            let y = (n - i) as f64 - 0.5;
            let at = (labels as i32 - 8, (i as u32 * LINE + LINE / 2) as i32);
            left.draw(&Text::new(label(row, *arm), at, &style)).map_err(failed)?;
            let colour = arm_colour(plan, *arm);
            if let Some(interval) = c.interval {
                let ends = vec![(interval.low, y), (interval.high, y)];
                chart.draw_series([PathElement::new(ends, colour.stroke_width(3))]).map_err(failed)?;
            }
            chart.draw_series([Circle::new((c.median, y), 6, colour.filled())]).map_err(failed)?;
        }
        Ok(())
    })
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
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(pairs.min(9))
            .y_labels(6)
            .x_label_formatter(&|x| if x.fract() == 0.0 { format!("{x:.0}") } else { String::new() })
            .y_label_formatter(&|y| format!("{y:.digits$}"))
            .x_desc("pair")
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(GRID)
            .label_style(("sans-serif", 16).into_font().color(&INK))
            .draw()
            .map_err(failed)?;
        for (arm, values) in row.values.iter().enumerate() {
            let at: Vec<(f64, f64)> = values.iter().enumerate().map(|(i, v)| (i as f64 + 1.0, *v)).collect();
            let colour = arm_colour(plan, arm);
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

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn svg(size: (u32, u32), label: &str, draw: impl FnOnce(&Area<'_>) -> Result<()>) -> Result<String> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        draw(&root)?;
        root.present().map_err(failed)?;
    }
    Ok(themed(&text, label))
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("cannot draw a plot of the report: {error}")
}

/// Puts the page's colours in place of the fixed ones, and a label for those who cannot see it.
fn themed(svg: &str, label: &str) -> String {
    let mut out = svg.replacen("<svg ", &format!("<svg role=\"img\" aria-label=\"{label}\" "), 1);
    let mut replace = |colour: RGBColor, css: &str| {
        let hex = format!("#{:02X}{:02X}{:02X}", colour.0, colour.1, colour.2);
        for attribute in ["fill", "stroke"] {
            out = out.replace(&format!("{attribute}=\"{hex}\""), &format!("style=\"{attribute}:{css}\""));
        }
    };
    replace(INK, "currentColor");
    replace(GRID, "var(--grid)");
    replace(BAND, "var(--band)");
    for number in 0..COLOURS {
        replace(RGBColor(1, 0, number as u8), &format!("var(--arm-{number})"));
    }
    out
}
