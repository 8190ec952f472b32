//! Reports as one HTML file that needs nothing else: style and plots are inside.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::chart;

/// Colours of arms: Okabe and Ito's, which colour-blind readers tell apart, and lighter ones for dark pages.
const STYLE: &str = "
:root { color-scheme: light dark; --page: #ffffff; --ink: #1b1f24; --quiet: #57606a; --grid: #d0d7de; --band: #e3e6ea;
  --good: #0b6e4f; --bad: #b42318;
  --arm-0: #56a0d3; --arm-1: #0072b2; --arm-2: #d55e00; --arm-3: #8e6bbf; --arm-4: #009e73; --arm-5: #b8860b; --arm-6: #cc79a7; --arm-7: #6b7280; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14181d; --ink: #e6e9ed; --quiet: #9aa4af; --grid: #39424c; --band: #2c343d;
    --good: #4cc38a; --bad: #ff8a7a;
    --arm-0: #9ad0f5; --arm-1: #4aa8e8; --arm-2: #ff9d5c; --arm-3: #c3a5ef; --arm-4: #3fd0a4; --arm-5: #e6c04d; --arm-6: #f0a5cb; --arm-7: #aeb6c0; } }
body { background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.25rem; margin-top: 2.2rem; border-bottom: 1px solid var(--grid); } h3 { font-size: 1.05rem; }
.quiet, figcaption, .legend, details { color: var(--quiet); } figure { margin: 1rem 0; } svg { max-width: 100%; height: auto; color: var(--ink); }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(22rem, 1fr)); gap: 0.5rem; } .plots figure { margin: 0; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: 0.92rem; margin: 0.6rem 0; }
th, td { text-align: left; padding: 0.25rem 0.7rem; border-bottom: 1px solid var(--grid); vertical-align: top; } th { font-weight: 600; }
td { font-variant-numeric: tabular-nums; } th, td:first-child { white-space: nowrap; } td .swatch { margin-left: 0; } code { font-size: 0.9em; overflow-wrap: anywhere; }
.swatch { display: inline-block; width: 0.8em; height: 0.8em; border-radius: 50%; margin: 0 0.3em 0 0.9em; }
.better { color: var(--good); font-weight: 600; } .worse { color: var(--bad); font-weight: 600; }
th.number, td.number { text-align: right; white-space: nowrap; } .dense td { white-space: nowrap; } .dense td.long { white-space: normal; min-width: 18rem; overflow-wrap: anywhere; }
a { color: var(--arm-1); } .contents { padding-left: 1.2rem; columns: 18rem auto; } .entry { white-space: nowrap; }
.entry:first-child .swatch { margin-left: 0; } .scroll:focus-visible { outline: 2px solid var(--arm-1); }
@media (max-width: 40rem) {
  body { margin: 1rem auto; font-size: 15px; } h1 { font-size: 1.4rem; } th, td { padding: 0.25rem 0.5rem; }
  .plots { grid-template-columns: minmax(0, 1fr); } }
@media print {
  :root { color-scheme: light; --page: #ffffff; --ink: #000000; --quiet: #444444; --grid: #bbbbbb; --band: #e3e6ea; --good: #0b6e4f; --bad: #b42318;
    --arm-0: #56a0d3; --arm-1: #0072b2; --arm-2: #d55e00; --arm-3: #8e6bbf; --arm-4: #009e73; --arm-5: #b8860b; --arm-6: #cc79a7; --arm-7: #6b7280; }
  @page { size: A4 landscape; margin: 12mm; } body { font-size: 10pt; margin: 0; max-width: none; padding: 0; } table { font-size: 8pt; }
  th, td { padding: 0.1rem 0.4rem; } th, td, td:first-child, .dense td { white-space: normal; overflow-wrap: break-word; } .dense td.long { min-width: 0; overflow-wrap: anywhere; } th.number, td.number, .dense td.short { white-space: nowrap; }
  .scroll { overflow: visible; } h2, h3, figcaption { break-after: avoid; } figure, tr { break-inside: avoid; } nav { display: none; }
  .plots { grid-template-columns: repeat(3, 1fr); } }
";

/// A whole page.
pub fn document(title: &str, body: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body { (body) }
        }
    };
    page.into_string()
}

/// A spot of a colour of the style.
pub fn swatch(colour: usize) -> Markup {
    html! { span class="swatch" style=(format!("background:var({})", chart::variable(colour))) {} }
}

/// A table that scrolls where it is too wide.
pub fn table<S: AsRef<str>, R: IntoIterator<Item = Markup>>(header: &[S], rows: impl Iterator<Item = R>) -> Markup {
    html! {
        div class="scroll" { table {
            thead { tr { @for title in header { th { (title.as_ref()) } } } }
            tbody { @for cells in rows { tr { @for cell in cells { td { (cell) } } } } }
        } }
    }
}
