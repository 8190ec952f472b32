//! Tables: what the machine can do, and what a product made of it.

use zen5turbo_host::Cpu;

use crate::harness::{Case, Times};
use crate::memory::Pages;
use crate::peaks::Peaks;

/// One product and its time.
#[derive(Clone, Debug)]
pub struct Row {
    /// Weight type, ggml's name.
    pub kind: &'static str,
    /// Tier.
    pub isa: &'static str,
    /// Columns.
    pub columns: usize,
    /// The times, medians.
    pub times: Times,
    /// Multiply-adds of the product.
    pub macs: f64,
    /// Weight bytes it reads.
    pub bytes: f64,
    /// Most multiply-adds per second of one thread in the inner loop.
    pub mac_peak: f64,
    /// Most bytes per second that one thread reads from where the weights are; NaN if in a cache.
    pub read_peak: f64,
}

impl Row {
    /// The row of `case`; `cached` says that its weights stay in a cache.
    pub fn new(case: &Case, times: Times, peaks: &Peaks, cached: bool) -> Row {
        Row {
            kind: case.kernel().weight.ggml_name(),
            isa: case.kernel().isa.name(),
            columns: case.columns(),
            times,
            macs: case.macs() as f64,
            bytes: case.weights().bytes() as f64,
            mac_peak: peaks.mac_of(case.kernel()),
            read_peak: if cached { f64::NAN } else { peaks.read_by_one(case.weights().pages()) },
        }
    }

    /// Multiply-adds per second of the product, without the quantisation of its activations.
    pub fn mac_rate(&self) -> f64 {
        self.macs / self.times.multiply
    }

    /// Weight bytes per second of the product.
    pub fn byte_rate(&self) -> f64 {
        self.bytes / self.times.multiply
    }

    /// The part of the whole time that went into quantising the activations.
    pub fn quantize_share(&self) -> f64 {
        self.times.quantize / (self.times.quantize + self.times.multiply)
    }
}

/// CPU, clock and peaks, several lines.
pub fn machine(peaks: &Peaks) -> String {
    let cpu = Cpu::detect();
    let mut out = format!(
        "{} (family {}, model {}); clock of scalar code {:.2} GHz\n",
        cpu.brand,
        cpu.family,
        cpu.model,
        peaks.clock / 1e9
    );
    out += "multiply-adds, one thread:\n";
    for (mix, rate) in &peaks.mac {
        out += &format!("  {:<30} {:7.1} GMAC/s {:6.1} per cycle\n", mix.name(), rate / 1e9, rate / peaks.clock);
    }
    out += &format!("streaming read of {} MiB:\n", peaks.bandwidth_bytes >> 20);
    for b in &peaks.bandwidth {
        let huge = match b.pages {
            Pages::Huge => format!(" ({:.0} % in huge pages)", 100.0 * b.huge_share),
            _ => String::new(),
        };
        out += &format!("  {:<5} {:3} thread(s) {:7.1} GB/s{huge}\n", b.pages.name(), b.threads, b.rate / 1e9);
    }
    out
}

/// The first line of a table of [`line()`]s.
pub fn header() -> String {
    format!(
        "{:<8} {:<14} {:>7} {:>9} {:>9} {:>8} {:>6} {:>7} {:>6} {:>6}",
        "type", "ISA", "columns", "us", "GMAC/s", "MAC/cyc", "peak", "GB/s", "peak", "quant"
    )
}

/// One row as text: time of product and quantisation, rate and its part of the peak, weight bytes
/// and their part of the streaming rate (`-`: the weights are in a cache), part of the quantisation.
pub fn line(row: &Row, peaks: &Peaks) -> String {
    let percent = |x: f64| if x.is_finite() { format!("{:.0} %", 100.0 * x) } else { "-".to_owned() };
    format!(
        "{:<8} {:<14} {:>7} {:>9.1} {:>9.1} {:>8.1} {:>6} {:>7.2} {:>6} {:>6}",
        row.kind,
        row.isa,
        row.columns,
        1e6 * (row.times.multiply + row.times.quantize),
        row.mac_rate() / 1e9,
        row.mac_rate() / peaks.clock,
        percent(row.mac_rate() / row.mac_peak),
        row.byte_rate() / 1e9,
        percent(row.byte_rate() / row.read_peak),
        percent(row.quantize_share()),
    )
}

/// The columns of [`csv`].
pub const CSV_HEADER: &str = "cpu,clock_hz,type,isa,columns,rows,k,pages,cached,multiply_s,quantize_s,mac_per_s,\
     mac_peak_per_s,bytes_per_s,read_peak_per_s";

/// One row for a record.
pub fn csv(row: &Row, case: &Case, peaks: &Peaks) -> String {
    let rows = case.weights().size().rows;
    format!(
        "\"{}\",{:.0},{},{},{},{rows},{},{},{},{:e},{:e},{:.0},{:.0},{:.0},{:.0}",
        Cpu::detect().brand,
        peaks.clock,
        row.kind,
        row.isa,
        row.columns,
        case.weights().size().k,
        case.weights().pages().name(),
        row.read_peak.is_nan(),
        row.times.multiply,
        row.times.quantize,
        row.mac_rate(),
        row.mac_peak,
        row.byte_rate(),
        peaks.read_by_one(case.weights().pages()),
    )
}
