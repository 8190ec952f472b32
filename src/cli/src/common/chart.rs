//! Plots as SVG, whose colours come from the page that they are on: it may be light or dark.

use anyhow::{Result, anyhow};
use plotters::chart::MeshStyle;
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Colours that the page replaces by its own (see [`themed`]).
pub const INK: RGBColor = RGBColor(0, 0, 1);
pub const GRID: RGBColor = RGBColor(0, 0, 2);
const BAND: RGBColor = RGBColor(0, 0, 3);

/// Number of colours in the page's style.
pub const COLOURS: usize = 8;

/// A colour of the page's style.
pub fn colour(number: usize) -> RGBColor {
    RGBColor(1, 0, (number % COLOURS) as u8)
}

/// The name of a colour in the page's style.
pub fn variable(number: usize) -> String {
    format!("--arm-{}", number % COLOURS)
}

/// Pixels of one line of the ratio plot, of a letter of its labels, and of the axis below it.
const LINE: u32 = 28;
const LETTER: usize = 8;
const AXIS: u32 = 52;
const WIDTH: u32 = 900;

/// Pixels for each label of the axis.
const TICK: u32 = 60;

/// A line of the ratio plot.
pub struct Ratio {
    pub label: String,
    /// Of the page's style.
    pub colour: usize,
    pub median: f64,
    pub interval: Option<(f64, f64)>,
    /// What equal things show.
    pub noise: Option<(f64, f64)>,
}

/// Every ratio with its interval, over the band of the noise.
pub fn ratios(lines: &[Ratio]) -> Result<String> {
    ratios_of_width(WIDTH, lines)
}

/// The same, `width` pixels wide.
pub fn ratios_of_width(width: u32, lines: &[Ratio]) -> Result<String> {
    let (mut low, mut high) = (0.98f64, 1.02f64);
    for line in lines {
        for (a, b) in [line.noise, line.interval, Some((line.median, line.median))].into_iter().flatten() {
            (low, high) = (low.min(a), high.max(b));
        }
    }
    let pad = (high - low) * 0.06;
    let (low, high, n) = (low - pad, high + pad, lines.len());
    let size = (width, n as u32 * LINE + AXIS);
    let longest = lines.iter().map(|line| line.label.chars().count()).max().unwrap_or(0);
    let labels = ((longest * LETTER) as u32 + 16).min(width / 2);
    svg(size, "ratios with their intervals", |root| {
        let (left, right) = root.split_horizontally(labels);
        let mut chart = ChartBuilder::on(&right)
            .margin_right(14)
            .x_label_area_size(AXIS)
            .build_cartesian_2d(low..high, 0.0..n as f64)
            .map_err(failed)?;
        for (i, line) in lines.iter().enumerate() {
            if let Some((from, to)) = line.noise {
                let (bottom, top) = ((n - i - 1) as f64, (n - i) as f64);
                let band = Rectangle::new([(from, bottom), (to, top)], BAND.filled());
                chart.draw_series([band]).map_err(failed)?;
            }
        }
        axes(
            chart
                .configure_mesh()
                .disable_y_mesh()
                .disable_y_axis()
                .y_labels(0)
                .x_labels(((width - labels) / TICK) as usize)
                .x_label_formatter(&|x| format!("{x:.2}"))
                .x_desc("ratio"),
            16,
        )?;
        let one = DashedPathElement::new([(1.0, 0.0), (1.0, n as f64)], 5, 4, INK.stroke_width(1));
        chart.draw_series([one]).map_err(failed)?;
        let style = ("sans-serif", 16).into_font().color(&INK).pos(Pos::new(HPos::Right, VPos::Center));
        for (i, line) in lines.iter().enumerate() {
            let y = (n - i) as f64 - 0.5;
            let at = (labels as i32 - 8, (i as u32 * LINE + LINE / 2) as i32);
            left.draw(&Text::new(line.label.clone(), at, &style)).map_err(failed)?;
            let colour = colour(line.colour);
            if let Some((low, high)) = line.interval {
                let ends = vec![(low, y), (high, y)];
                chart.draw_series([PathElement::new(ends, colour.stroke_width(3))]).map_err(failed)?;
            }
            chart.draw_series([Circle::new((line.median, y), 6, colour.filled())]).map_err(failed)?;
        }
        Ok(())
    })
}

/// The axes of a plot that [`axes`] styles.
type Mesh<'a, 'b, 's> = MeshStyle<'a, 'b, RangedCoordf64, RangedCoordf64, SVGBackend<'s>>;

/// Draws the axes of a plot: the lines of the grid, and labels in letters of `size` pixels.
pub fn axes(mesh: &mut Mesh<'_, '_, '_>, size: u32) -> Result<()> {
    mesh.light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(GRID)
        .label_style(("sans-serif", size).into_font().color(&INK))
        .draw()
        .map_err(failed)
}

/// What is drawn on.
pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A drawing of `size` pixels, with a label for those who cannot see it.
pub fn svg(size: (u32, u32), label: &str, draw: impl FnOnce(&Area<'_>) -> Result<()>) -> Result<String> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        draw(&root)?;
        root.present().map_err(failed)?;
    }
    Ok(themed(&text, label))
}

/// The error of a drawing.
pub fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("cannot draw a plot of the report: {error}")
}

/// Puts the page's colours in place of the fixed ones, and a label for those who cannot see it.
fn themed(svg: &str, label: &str) -> String {
    let label = label.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;");
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
        replace(colour(number), &format!("var({})", variable(number)));
    }
    out
}
