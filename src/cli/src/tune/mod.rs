//! `zen5turbo tune`: measures our kernels against the program's own and writes the file that the shim reads.
//!
//! Two workers ([`worker`]) run side by side under the shim: in one it takes every product over, in the other
//! none. Both compute the same products in the program's own ggml, in short turns, interleaved pair by pair as in
//! `ab`; the second one from plain weights and, where ggml has kernels for them, from repacked ones ([`repack`]). A choice
//! is written only where the interval of the ratio supports it ([`measure`]).

mod arm;
mod build;
mod cuts;
mod finding;
mod ggml;
mod measure;
mod products;
mod progress;
mod repack;
mod show;
mod store;
mod weights;
mod worker;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use zen5turbo_calibration::{Calibration, Choice, Cut, Measured, Regime, TuneFile, Width};
use zen5turbo_config::KernelChoice;
use zen5turbo_host::cpuset::affinity;
use zen5turbo_host::topology::{SYSFS, Topology};
use zen5turbo_host::{Caches, Cpu, Tier, best_tier};
use zen5turbo_kernels::formats::WeightType;
use zen5turbo_kernels::isa::Isa;
use zen5turbo_kernels::width;

use crate::interrupt::{self, Interrupted, stop_at_signals};
use crate::knobs::{Options, Settings, values};
use crate::record::{Circumstances, Jsonl};
use crate::shim;
use arm::{Arm, Start};
use build::Build;
use cuts::{CUTS, fetches_ahead};
use finding::Finding;
use measure::copies::{self, Copied};
use measure::{BLOCKING_CELLS, LAST_START, Sides, Skipped, WIDTH_CELLS, threads};
use progress::Progress;

pub use worker::{Args as WorkerArgs, run as work};

/// Measure our kernels against the program's own, and write the file by which the shim chooses
///
/// For each weight type and number of columns, in the given build of ggml, on this CPU; in less than two
/// minutes. The program's own are its kernels for plain weights and, where it has them, for repacked ones. Also the width of registers, the cut of products with many columns, and how many threads a graph of one column
/// needs, and whether copies of weights on huge pages pay. Nothing is written for what shows no clear difference: there the built-in table holds. Other machines'
/// and builds' calibrations in the file are kept. Exit status: 0 written (with --show: one fits), 1 not, 130
/// interrupted.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Folder of llama.cpp's programs or libraries, or one of them [default: llama-bench from PATH]
    #[arg(long, value_name = "DIR")]
    bin: Option<PathBuf>,
    /// The library with ggml's CPU backend, such as libggml-cpu.so
    #[arg(long, value_name = "FILE", conflicts_with = "bin")]
    ggml: Option<PathBuf>,
    /// The shim library, or its folder [default: SHIM_LIB, else beside this command or in ../lib]
    #[arg(long, value_name = "PATH")]
    lib: Option<PathBuf>,
    /// The calibration file [default: ZEN5TURBO_TUNE, else ~/.cache/zen5turbo/tune.txt]
    #[arg(short, long, value_name = "FILE", visible_alias = "file")]
    out: Option<PathBuf>,
    /// Print what the file holds and whether it fits this machine; measure nothing
    #[arg(long)]
    show: bool,
    /// Weight types, ggml's names [default: all that the shim has kernels for]
    #[arg(long, value_name = "T,T", value_delimiter = ',', value_parser = weight)]
    types: Vec<WeightType>,
    /// Threads [default: one for each physical core]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
    /// The kernel tier to measure [default: ZEN5TURBO_KERNELS, else the best, in the better width]
    #[arg(long, value_parser = values("ZEN5TURBO_KERNELS"))]
    kernels: Option<OsString>,
    /// Measure our kernels against themselves, to see what noise alone would decide; write nothing
    #[arg(long)]
    self_check: bool,
    /// Append every time that is measured to this file
    #[arg(long, value_name = "FILE")]
    jsonl: Option<PathBuf>,
}

/// Types by how common they are: the first ones are measured even if time runs out.
const TYPES: [WeightType; WeightType::ALL.len()] = {
    use WeightType::*;
    [
        Q4K, Q6K, Q8_0, Q5K, Q4_0, Q5_0, Iq4Xs, Mxfp4, F16, Bf16, Q3K, Q2K, Iq4Nl, Q4_1, Q5_1, F32, Iq3Xxs, Iq3S,
        Iq2Xxs, Iq2S, Iq2Xs, Iq1S, Iq1M, Nvfp4, Tq2_0, Tq1_0, Q1_0, Q2_0,
    ]
};

fn weight(name: &str) -> Result<WeightType, String> {
    let known = WeightType::ALL.into_iter().find(|weight| weight.ggml_name().eq_ignore_ascii_case(name));
    known.ok_or_else(|| format!("expected types out of {}", WeightType::ALL.map(WeightType::ggml_name).join(", ")))
}

/// Measures and writes, or shows.
pub fn run(args: &Args) -> Result<ExitCode> {
    let done = if args.show { show_file(args) } else { tune(args) };
    match done {
        Err(error) if error.downcast_ref::<Interrupted>().is_some() => {
            eprintln!("zen5turbo: interrupted: nothing was written");
            Ok(ExitCode::from(interrupt::STATUS))
        }
        other => other,
    }
}

/// The tier to measure: what was asked for, or what the shim would take.
fn chosen(args: &Args) -> Result<KernelChoice> {
    let kernels = Settings::inherited().with(&Options::of([("ZEN5TURBO_KERNELS", &args.kernels)])).config().kernels;
    ensure!(
        !matches!(kernels, KernelChoice::Off | KernelChoice::Exact),
        "found kernels {}, with which no product is taken over; expected another --kernels (or ZEN5TURBO_KERNELS)",
        kernels.as_str()
    );
    if let Some(isa) = isa(kernels).filter(|isa| !isa.available()) {
        bail!("this CPU cannot run {}; expected another --kernels", isa.name());
    }
    Ok(kernels)
}

/// The instruction set of a choice; `None` where the width decides.
fn isa(kernels: KernelChoice) -> Option<Isa> {
    match kernels {
        KernelChoice::Avx512 => Some(Isa::Avx512),
        KernelChoice::Avx512Narrow => Some(Isa::Vnni256),
        KernelChoice::Avx2 => Some(Isa::Avx2),
        KernelChoice::Scalar => Some(Isa::Scalar),
        KernelChoice::Auto | KernelChoice::Exact | KernelChoice::Off => match best_tier(&Cpu::detect()) {
            Tier::Avx512Vnni => None,
            Tier::Avx2 => Some(Isa::Avx2),
            Tier::Scalar => Some(Isa::Scalar),
        },
    }
}

/// The instruction set in a width, else in that which the shim finds at its start.
fn in_width(measured: Option<Width>) -> Isa {
    let narrow = match measured {
        Some(measured) => measured == Width::Narrow,
        None => width::measure().is_some_and(width::Width::is_narrow),
    };
    if narrow { Isa::Vnni256 } else { Isa::Avx512 }
}

fn show_file(args: &Args) -> Result<ExitCode> {
    let path = store::place(args.out.as_deref())?;
    let Some(file) = store::read(&path)? else {
        bail!("there is no {}; expected a calibration file: make one with zen5turbo tune --bin DIR", path.display());
    };
    let cpu = Cpu::detect().brand;
    let build = if args.bin.is_some() || args.ggml.is_some() {
        Some(build::find(args.bin.as_deref(), args.ggml.as_deref(), stop_at_signals()?)?)
    } else {
        None
    };
    let isa = isa(chosen(args)?).unwrap_or_else(|| in_width(file.width(&cpu)));
    let here = show::Here { cpu: &cpu, isa, ggml: build.as_ref().map(|build| build.identity.as_str()) };
    let (text, fits) = show::file(&file, &here);
    println!("{}\n{text}{}", path.display(), show::LEGEND);
    Ok(if fits { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What a measurement needs.
struct Plan {
    build: Build,
    library: PathBuf,
    kernels: KernelChoice,
    cpu: String,
    threads: usize,
    /// Bytes of weights.
    bytes: usize,
    types: Vec<WeightType>,
    stop: &'static std::sync::atomic::AtomicBool,
    /// Holds the file by which the shim takes everything over.
    scratch: TempDir,
    self_check: bool,
    jsonl: Option<PathBuf>,
    /// Where the calibration file is to lie.
    home: PathBuf,
}

fn tune(args: &Args) -> Result<ExitCode> {
    let start = Instant::now();
    let path = store::place(args.out.as_deref())?;
    let before = if args.self_check {
        None
    } else {
        let before =
            store::read(&path).context("the file there would be lost: move it away, or name another one with --out")?;
        store::check(&path)?;
        before
    };
    let plan = Plan::new(args, &path)?;
    eprintln!(
        "{}: ggml {}, {} threads, {} of weights",
        plan.build.backend.display(),
        plan.build.identity,
        plan.threads,
        crate::text::bytes(plan.bytes as u64)
    );
    let wide = isa(plan.kernels).is_none();
    let tried = CUTS.len() * BLOCKING_CELLS + threads::cells(plan.threads) + copies::cells(plan.threads);
    let tried = if plan.self_check { 0 } else { tried };
    let cells = if wide { WIDTH_CELLS } else { 0 } + tried;
    let progress = Progress::new(plan.types.len() * Regime::ALL.len() + cells);
    let measured = plan.measure(start, &progress);
    progress.finish();
    let Outcome { isa, width, cut, needed, copied, findings, skipped } = measured?;
    let seconds = start.elapsed().as_secs_f64();

    println!("{}\n{}", show::findings(&findings), show::LEGEND);
    for (name, why) in &skipped {
        println!("{name} was not measured: {why}");
    }
    for line in show::repacked(&findings) {
        println!("{line}");
    }
    if let Some(copied) = &copied {
        println!("{}", show::copied(copied));
    }
    let copies = copied.and_then(Result::ok).and_then(|copied| copies::written(&copied.gains));
    let lines: Vec<Measured> = findings.iter().filter_map(Finding::measured).collect();
    let stock = lines.iter().filter(|line| line.choice == Choice::Stock).count();
    let registers = width.map_or(String::new(), |width| format!(", {} bits", width.name()));
    let bytes = |what, bytes: Option<usize>| bytes.map_or(String::new(), |n| format!(", {what} of {n} bytes"));
    let needed_words = needed.map_or(String::new(), |n| format!(", {} for one column", show::threads(n)));
    let copies_words = copies.map_or(String::new(), |n| format!(", copies {}", show::hundredths(n)));
    let found = format!(
        "{} choices ({} ours, {stock} stock) of {} measured{registers}{}{}{}{needed_words}{copies_words}, kernels {}, {seconds:.0} s",
        lines.len(),
        lines.len() - stock,
        findings.len(),
        bytes("panels", cut.panel),
        bytes("prefetch", cut.prefetch),
        bytes("one column ahead", cut.ahead),
        isa.name()
    );
    if args.self_check {
        println!("our kernels against themselves: {found}; nothing was written");
        return Ok(ExitCode::SUCCESS);
    }
    ensure!(!findings.is_empty(), "nothing could be measured; {} is as it was", path.display());
    let mut file = before.unwrap_or(TuneFile { calibrations: Vec::new() });
    let date = Circumstances::now(String::new(), Vec::new()).date;
    let made = format!("{date} by zen5turbo {} with {} threads", env!("CARGO_PKG_VERSION"), plan.threads);
    let Plan { build, cpu, .. } = plan;
    file.put(Calibration {
        cpu,
        ggml: build.identity,
        isa,
        width,
        cut,
        threads: needed,
        copies,
        made: Some(made),
        measured: lines,
    });
    store::write(&path, &file)?;
    println!("{}: {found}", path.display());
    Ok(ExitCode::SUCCESS)
}

/// What a measurement found.
struct Outcome {
    isa: Isa,
    /// The faster width, where it was measured.
    width: Option<Width>,
    cut: Cut,
    /// How many threads a graph of one column needs, where it does not need all.
    needed: Option<usize>,
    /// What copies on huge pages gain, or why that was not measured; `None` where nobody asked.
    copied: Option<Result<Copied, String>>,
    findings: Vec<Finding>,
    skipped: BTreeMap<&'static str, measure::Skipped>,
}

impl Plan {
    fn new(args: &Args, file: &Path) -> Result<Plan> {
        let kernels = chosen(args)?;
        let library = shim::locate(args.lib.as_deref())?;
        let stop = stop_at_signals()?;
        let build = build::find(args.bin.as_deref(), args.ggml.as_deref(), stop)?;
        let (cores, caches) = cores();
        Ok(Plan {
            build,
            library,
            kernels,
            cpu: or_none(Cpu::detect().brand),
            threads: args.threads.map_or(cores, |n| n as usize),
            // Twice what the last-level caches hold, two matrices of F32 at least.
            bytes: (2 * Caches::detect().l3 * caches).clamp(128 << 20, 768 << 20),
            types: TYPES.into_iter().filter(|weight| args.types.is_empty() || args.types.contains(weight)).collect(),
            stop,
            scratch: tempfile::tempdir()
                .context("cannot make a folder for temporary files; set TMPDIR to one that can be written")?,
            self_check: args.self_check,
            jsonl: args.jsonl.clone(),
            home: file.parent().filter(|home| *home != Path::new("")).unwrap_or(Path::new(".")).to_owned(),
        })
    }

    fn measure(&self, start: Instant, progress: &Progress) -> Result<Outcome> {
        let (isa, width) = match isa(self.kernels) {
            Some(isa) => (isa, None),
            None => {
                let mut sides = self.sides((Isa::Vnni256, Cut::default()), Some((Isa::Avx512, Cut::default())))?;
                let width = sides.width(progress)?;
                (in_width(width), width)
            }
        };
        let cut = if self.self_check { Cut::default() } else { self.best_cut(isa, progress)? };
        let needed = if self.self_check { None } else { self.needed_threads((isa, cut), progress)? };
        let mut sides = self.sides((isa, cut), self.self_check.then_some((isa, cut)))?;
        let (findings, skipped) = sides.measure(&self.types, start, progress)?;
        drop(sides);
        // The last, so that on a busy machine it takes no time from the types.
        let copied = if self.self_check { None } else { Some(self.copied((isa, cut), start, progress)?) };
        Ok(Outcome { isa, width, cut, needed, copied, findings, skipped })
    }

    /// How many threads a graph of one column needs with these kernels, where fewer than all are clearly enough.
    fn needed_threads(&self, ours: (Isa, Cut), progress: &Progress) -> Result<Option<usize>> {
        if threads::cells(self.threads) == 0 {
            return Ok(None);
        }
        self.sides(ours, Some(ours))?.threads_of_one_column(self.threads, progress)
    }

    /// What copies of weights on huge pages gain with these kernels; the inner error is why that cannot be told.
    fn copied(&self, ours: (Isa, Cut), start: Instant, progress: &Progress) -> Result<Result<Copied, String>> {
        // Beside the calibration: on the disk of this user. Models are on the same kind of file system more often than not.
        let temporary = std::env::temp_dir();
        let folder = match weights::folder(&[&self.home, &temporary, Path::new("/var/tmp")], self.bytes as u64) {
            Ok(folder) => folder,
            Err(error) => {
                progress.skip(copies::cells(self.threads));
                return Ok(Err(format!("no folder can hold a file like a model: {error}")));
            }
        };
        if start.elapsed() >= LAST_START {
            progress.skip(copies::cells(self.threads));
            return Ok(Err(Skipped::Late.to_string()));
        }
        let mut sides = self.workers(ours, Some(ours))?;
        sides.begin(self.threads, self.bytes, Some(folder))?;
        let gains = sides.gains_of_copies(self.threads, progress)?;
        Ok(gains.map(|gains| Copied { gains, folder: folder.to_owned() }))
    }

    /// The built-in cut, or those of [`CUTS`] that are clearly faster.
    fn best_cut(&self, isa: Isa, progress: &Progress) -> Result<Cut> {
        let mut best = Cut::default();
        let fetches_ahead = fetches_ahead(isa);
        for cut in CUTS {
            if cut.ahead.is_some() && !fetches_ahead {
                progress.skip(BLOCKING_CELLS);
                continue;
            }
            let tried = Cut {
                panel: cut.panel.or(best.panel),
                prefetch: cut.prefetch.or(best.prefetch),
                ahead: cut.ahead.or(best.ahead),
            };
            let mut sides = self.sides((isa, tried), Some((isa, best)))?;
            if sides.is_faster(cut.ahead.is_some(), progress)? {
                best = tried;
            }
        }
        Ok(best)
    }

    /// Kernels of `ours`, and those of another tier or cut or, with `None`, the program's own; both on huge pages.
    fn sides(&self, ours: (Isa, Cut), other: Option<(Isa, Cut)>) -> Result<Sides> {
        let mut sides = self.workers(ours, other)?;
        sides.begin(self.threads, self.bytes, None)?;
        Ok(sides)
    }

    /// The same, before they have threads and memory.
    fn workers(&self, ours: (Isa, Cut), other: Option<(Isa, Cut)>) -> Result<Sides> {
        let stock = match other {
            Some(other) => self.arm("second", Some(other))?,
            None => self.arm("stock", None)?,
        };
        Ok(Sides {
            ours: self.arm("our", Some(ours))?,
            stock,
            record: self.jsonl.as_deref().map(Jsonl::open).transpose()?,
            repacked: false,
        })
    }

    /// A worker with our kernels taking everything over, or nothing.
    fn arm(&self, name: &'static str, ours: Option<(Isa, Cut)>) -> Result<Arm> {
        let kernels = match ours.map(|(isa, _)| isa) {
            None => KernelChoice::Off,
            Some(Isa::Scalar) => KernelChoice::Scalar,
            Some(Isa::Avx2) => KernelChoice::Avx2,
            Some(Isa::Vnni256) => KernelChoice::Avx512Narrow,
            Some(Isa::Avx512) => KernelChoice::Avx512,
        };
        let (isa, cut) = ours.unwrap_or((Isa::Scalar, Cut::default()));
        let file = self.everything(name, isa, cut)?;
        // A graph of one column gets its threads also while others use the CPUs. Weights lie where the worker puts them.
        let variables: [(&str, OsString); 5] = [
            ("ZEN5TURBO_KERNELS", kernels.as_str().into()),
            ("ZEN5TURBO_TUNE", file.into()),
            ("ZEN5TURBO_THREADS", "off".into()),
            ("ZEN5TURBO_HUGEPAGES", "off".into()),
            ("ZEN5TURBO_NUMA", "off".into()),
        ];
        let start = Start {
            name,
            backend: &self.build.backend,
            preload: Some(&self.library),
            variables: &variables,
            ours: ours.is_some(),
            stop: self.stop,
        };
        Ok(Arm::start(&start)?.0)
    }

    /// A calibration file that has the shim take everything over, whatever its own table says, and cut it like this.
    fn everything(&self, name: &str, isa: Isa, cut: Cut) -> Result<PathBuf> {
        let all = |weight| {
            Regime::ALL.map(|regime| Measured {
                weight,
                regime,
                choice: Choice::Ours,
                ours: 1,
                plain: 1,
                repacked: None,
            })
        };
        let calibration = Calibration {
            cpu: self.cpu.clone(),
            ggml: self.build.identity.clone(),
            isa,
            width: None,
            cut,
            threads: None,
            copies: None,
            made: None,
            measured: WeightType::ALL.into_iter().flat_map(all).collect(),
        };
        let path = self.scratch.path().join(format!("{name}-{}.txt", isa.name()));
        store::write(&path, &TuneFile { calibrations: vec![calibration] })?;
        Ok(path)
    }
}

/// A brand as it stands in the file.
fn or_none(brand: String) -> String {
    if brand.is_empty() { "-".to_owned() } else { brand }
}

/// Physical cores that this process may use, and the last-level caches among them.
fn cores() -> (usize, usize) {
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let of = |topology: Topology| {
        let nodes: Vec<usize> = topology.nodes.iter().map(|node| node.id).collect();
        let cores = topology.spread_cores(&affinity().ok()?, &nodes);
        let mut caches: Vec<_> = cores.iter().map(|core| core.domain).collect();
        caches.dedup();
        let distinct = caches.iter().enumerate().filter(|(i, cache)| !caches[..*i].contains(cache)).count();
        // A quota of the control group may allow fewer.
        (!cores.is_empty()).then_some((cores.len().min(all), distinct.max(1)))
    };
    Topology::read(Path::new(SYSFS)).and_then(of).unwrap_or((all, 1))
}

/// How many threads a graph of one column needs on this CPU, as the calibration file says that the shim reads.
pub fn threads_of(cpu: &str) -> Option<usize> {
    store::read(&store::quiet_place()?).ok()??.threads(cpu)
}
