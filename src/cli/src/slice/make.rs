//! Making the file: a few rows of every matrix, quantised by llama-quantize, then repeated to the full size.
//!
//! Which type a matrix gets, llama-quantize decides by its name, its layer, the length of its rows and the pairs of the file,
//! never by the number of rows. So it gets a file with all that and [`SEED_ROWS`] rows of each matrix, which takes seconds
//! instead of minutes. The rows are then repeated, each time turned by some blocks, so that few are alike. Speed does not
//! depend on the values of weights.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::gguf::{self, F16, F32, Pairs, Tensor, Value};
use super::table::{Fill, Gives, Model, Shape};
use super::tokens;
use crate::interrupt::Interrupted;
use crate::process::{self, Watch};
use crate::{page_cache, shim, text};

/// Rows of a matrix that are quantised.
const SEED_ROWS: u64 = 256;
/// Experts among them, where a matrix has experts.
const SEED_EXPERTS: u64 = 8;

/// Blocks of all types that llama-quantize gives to rows of such a multiple fit into it.
const SPANS: [u64; 3] = [256, 64, 32];

/// Mixes for which llama-quantize asks how important each input is.
const NEED_IMPORTANCE: [&str; 4] = ["IQ1", "IQ2", "IQ3", "Q2_K_S"];

/// llama-quantize takes seconds here; one that hangs is ended.
const LIMIT: Duration = Duration::from_secs(1800);

/// What is to be made.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    pub model: &'static Model,
    pub layers: u32,
    /// A file type of llama-quantize.
    pub mix: &'a str,
}

impl Job<'_> {
    /// All pairs of the file.
    pub fn pairs(&self) -> Vec<(String, Value)> {
        let mut pairs = self.model.pairs(self.layers);
        if self.model.gives == Gives::ImageVectors {
            return pairs;
        }
        let tokens = tokens::pairs(self.model.tokens(self.layers));
        pairs.extend(tokens.into_iter().map(|(key, value)| (key.to_owned(), value)));
        pairs
    }

    /// Makes the file `to`, in whose folder everything else lies meanwhile. Without `quantize` matrices stay in half
    /// precision. Ends early when `stop` becomes true.
    ///
    /// # Errors
    /// llama-quantize refuses the mix, there is no room, or `stop`.
    pub fn make(&self, quantize: Option<&Path>, to: &Path, stop: &'static AtomicBool) -> Result<()> {
        let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let cannot =
            || format!("cannot write into {}; expected a folder with room: name another file", folder.display());
        fs::create_dir_all(folder).with_context(cannot)?;
        // Removed with what is in it, however this ends.
        let scratch = tempfile::Builder::new().prefix(".slice-").tempdir_in(folder).with_context(cannot)?;
        let at = |name: &str| scratch.path().join(name);
        let whole = at("whole.gguf");
        let shapes = self.model.tensors(self.layers);
        let mut seed = self.seed(&shapes);
        if let Some(quantize) = quantize {
            seed = self.quantised(quantize, &seed, &shapes, scratch.path(), stop)?;
        }
        grow(&seed, &shapes, &whole, stop)?;
        fs::rename(&whole, to).with_context(|| format!("cannot write {}", to.display()))
    }

    /// What llama-quantize makes of the seed.
    fn quantised(
        &self,
        quantize: &Path,
        seed: &[u8],
        shapes: &[Shape],
        scratch: &Path,
        stop: &'static AtomicBool,
    ) -> Result<Vec<u8>> {
        let cannot =
            || format!("cannot write into {}; expected a folder with room: name another file", scratch.display());
        let (from, to) = (scratch.join("seed.gguf"), scratch.join("small.gguf"));
        fs::write(&from, seed).with_context(cannot)?;
        let mut command = Command::new(quantize);
        shim::without_shim(&mut command);
        if NEED_IMPORTANCE.iter().any(|mix| self.mix.starts_with(mix)) {
            let file = scratch.join("importance.gguf");
            fs::write(&file, importance(shapes)).with_context(cannot)?;
            command.arg("--imatrix").arg(file);
        }
        command.arg(&from).arg(&to).arg(self.mix);
        let done = process::run_watched(command, &Watch { limit: LIMIT, stop: Some(stop), sample: None })?;
        if done.stopped || stop.load(Ordering::Relaxed) {
            return Err(Interrupted.into());
        }
        ensure!(
            done.status.success() && to.is_file(),
            "{} {} on the mix {} (\"{}\"); expected a type of its --help, such as Q4_K_M",
            quantize.display(),
            done.ending(),
            self.mix,
            done.last_words(1)
        );
        fs::read(&to).with_context(|| format!("cannot read {}", to.display()))
    }

    /// The file that llama-quantize gets.
    fn seed(&self, shapes: &[Shape]) -> Vec<u8> {
        let mut pairs = Pairs::default();
        self.pairs().iter().for_each(|(key, value)| pairs.add(key, value));
        let tensors: Vec<Tensor> = shapes.iter().map(seed_tensor).collect();
        let mut file = gguf::header(&pairs, &tensors);
        let mut random = fastrand::Rng::with_seed(1);
        for (shape, tensor) in shapes.iter().zip(&tensors) {
            let scale = (tensor.dims[0] as f32).powf(-0.5);
            let values = tensor.dims.iter().product::<u64>();
            for _ in 0..values {
                let x = normal(&mut random);
                match shape.fill {
                    Fill::Weights => file.extend(half(x * scale).to_le_bytes()),
                    Fill::Plain => file.extend((x * scale).to_le_bytes()),
                    Fill::Ones => file.extend(1.0f32.to_le_bytes()),
                    Fill::Small => file.extend((x * 0.1).to_le_bytes()),
                    Fill::Decay => file.extend((-0.1 - x.abs()).to_le_bytes()),
                }
            }
            file.extend(gguf::padding(tensor.size));
        }
        file
    }
}

/// The tensor as it stands in the seed.
fn seed_tensor(shape: &Shape) -> Tensor {
    let mut dims = shape.dims.clone();
    if shape.fill == Fill::Weights {
        if let Some(experts) = dims.get_mut(2) {
            *experts = (*experts).min(SEED_EXPERTS);
            dims[1] = dims[1].min(SEED_ROWS / SEED_EXPERTS);
        } else {
            dims[1] = dims[1].min(SEED_ROWS);
        }
    }
    let values: u64 = dims.iter().product();
    let (kind, width) = if shape.fill == Fill::Weights { (F16, 2) } else { (F32, 4) };
    Tensor { name: shape.name.clone(), dims, kind, size: values * width }
}

/// An importance matrix that calls all inputs as important, as llama-imatrix writes it: sums of squares and counts.
fn importance(shapes: &[Shape]) -> Vec<u8> {
    let mut pairs = Pairs::default();
    pairs.add("general.type", &Value::Text("imatrix".to_owned()));
    pairs.add("imatrix.datasets", &Value::Texts(vec!["none".to_owned()]));
    pairs.add("imatrix.chunk_count", &Value::U32(1));
    pairs.add("imatrix.chunk_size", &Value::U32(1));
    let mut tensors = Vec::new();
    for shape in shapes.iter().filter(|shape| shape.fill == Fill::Weights) {
        let experts = seed_tensor(shape).dims.get(2).copied().unwrap_or(1);
        for (suffix, width) in [("in_sum2", shape.dims[0]), ("counts", 1)] {
            let name = format!("{}.{suffix}", shape.name);
            tensors.push(Tensor { name, dims: vec![width, experts], kind: F32, size: 4 * width * experts });
        }
    }
    let mut file = gguf::header(&pairs, &tensors);
    for tensor in &tensors {
        (0..tensor.size / 4).for_each(|_| file.extend(1.0f32.to_le_bytes()));
        file.extend(gguf::padding(tensor.size));
    }
    file
}

/// Writes the quantised seed with every matrix at its full size.
fn grow(small: &[u8], shapes: &[Shape], to: &Path, stop: &AtomicBool) -> Result<()> {
    let small = gguf::read(small).context("llama-quantize wrote a file that is not understood")?;
    let mut whole = Vec::new();
    for (tensor, _) in &small.tensors {
        let shape = shapes.iter().find(|shape| shape.name == tensor.name);
        let shape = shape.with_context(|| format!("llama-quantize wrote {}, which it did not get", tensor.name))?;
        let full = Tensor { dims: shape.dims.clone(), ..tensor.clone() };
        // A tensor with fewer rows than there are bytes of padding never grows.
        let size = if full.dims == tensor.dims { tensor.size } else { tensor.size / tensor.rows() * full.rows() };
        whole.push(Tensor { size, ..full });
    }
    let header = gguf::header(&small.pairs, &whole);
    let bytes = header.len() as u64 + whole.iter().map(|t| t.size.next_multiple_of(gguf::ALIGNMENT)).sum::<u64>();
    let folder = to.parent().unwrap_or(Path::new("."));
    if let Some(free) = free_space(folder) {
        ensure!(
            free > bytes,
            "{} has {} left; the slice needs {}: make room, or name another file",
            folder.display(),
            text::bytes(free),
            text::bytes(bytes)
        );
    }
    let what = || format!("cannot write {}", to.display());
    let mut out = BufWriter::with_capacity(8 << 20, File::create(to).with_context(what)?);
    out.write_all(&header).with_context(what)?;
    for ((seed, data), full) in small.tensors.iter().zip(&whole) {
        if stop.load(Ordering::Relaxed) {
            return Err(Interrupted.into());
        }
        if seed.dims == full.dims {
            out.write_all(data).with_context(what)?;
        } else {
            repeat(seed, data, full, &mut out).with_context(what)?;
        }
        out.write_all(gguf::padding(full.size)).with_context(what)?;
    }
    let file = out.into_inner().map_err(std::io::IntoInnerError::into_error).with_context(what)?;
    // What is written lies in small pages, and what is read in large ones, from which weights are read up to a third faster
    // (Zen 4, Linux 6.18, 2026-11-30: 136 tokens/s instead of 100). So the first reader has to read it from the disk.
    file.sync_all().and_then(|()| page_cache::forget(&file)).with_context(what)
}

/// Writes the rows of `seed` until there are as many as `full` has. Each time they come again they are turned by one span
/// more, so that rows are the same only after as many times as there are spans in one.
fn repeat(seed: &Tensor, data: &[u8], full: &Tensor, out: &mut impl Write) -> std::io::Result<()> {
    let (width, rows) = (seed.dims[0], seed.rows());
    let row = (seed.size / rows) as usize;
    let span = SPANS.into_iter().find(|&span| width.is_multiple_of(span)).unwrap_or(width);
    let spans = (width / span) as usize;
    let step = row / spans;
    for n in 0..full.rows() {
        let from = (n % rows) as usize * row;
        let bytes = &data[from..from + row];
        let turn = (n / rows) as usize % spans * step;
        out.write_all(&bytes[turn..])?;
        out.write_all(&bytes[..turn])?;
    }
    Ok(())
}

/// Bytes that this user can write in a folder's file system.
fn free_space(folder: &Path) -> Option<u64> {
    let path = std::ffi::CString::new(folder.as_os_str().as_bytes()).ok()?;
    // SAFETY: all zeros is a value of this plain structure.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends with a zero byte, and the structure is this function's own.
    let failed = unsafe { libc::statvfs(path.as_ptr(), &raw mut found) };
    (failed == 0).then(|| found.f_bavail.saturating_mul(found.f_frsize))
}

/// About a normal number: the sum of four of equal distribution, with mean 0 and variance 1.
fn normal(random: &mut fastrand::Rng) -> f32 {
    let bits = random.u64(..);
    let sum: u32 = (0..4).map(|i| (bits >> (16 * i)) as u32 & 0xffff).sum();
    // Four numbers below 2^16 have the standard deviation 2^16 * (4 / 12) ^ 0.5.
    (sum as f32 - 131_070.0) / 37_837.2
}

/// The nearest number of half precision towards zero; what is smaller than its normal numbers is 0.
fn half(x: f32) -> u16 {
    let bits = x.to_bits();
    let exponent = (bits >> 23 & 0xff) as i32 - 127;
    if exponent < -14 {
        return 0;
    }
    // Nothing here comes near the largest number.
    let exponent = (exponent.min(15) + 15) as u32;
    (bits >> 16 & 0x8000 | exponent << 10 | bits >> 13 & 0x3ff) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_precision_is_right_for_what_is_written() {
        for (x, bits) in [(0.0, 0), (1.0, 0x3c00), (-2.0, 0xc000), (0.099_975_586, 0x2e66), (1e-6, 0)] {
            assert_eq!(half(x), bits, "{x}");
        }
    }

    #[test]
    fn random_numbers_have_mean_0_and_variance_1() {
        let mut random = fastrand::Rng::with_seed(1);
        let values: Vec<f64> = (0..100_000).map(|_| f64::from(normal(&mut random))).collect();
        let mean = values.iter().sum::<f64>() / 1e5;
        let variance = values.iter().map(|x| x * x).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
    }

    /// Rows of two blocks of 256 weights, a byte each.
    #[test]
    fn rows_are_repeated_and_turned_by_blocks() {
        let tensor = |rows| Tensor { name: "a".into(), dims: vec![512, rows], kind: 0, size: 512 * rows };
        let mut data = vec![1; 256];
        data.extend([2; 256]);
        data.extend([3; 512]);
        let mut out = Vec::new();
        repeat(&tensor(2), &data, &tensor(5), &mut out).unwrap();
        let blocks: Vec<u8> = out.chunks(256).map(|block| block[0]).collect();
        assert_eq!(blocks, [1, 2, 3, 3, 2, 1, 3, 3, 1, 2]);
    }

    #[test]
    fn a_file_grows_to_the_shapes_of_the_model() {
        let job = Job { model: Model::find("bge-base").unwrap(), layers: 1, mix: "F16" };
        let shapes = job.model.tensors(1);
        let seed = job.seed(&shapes);
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("x.gguf");
        grow(&seed, &shapes, &to, &AtomicBool::new(false)).unwrap();
        let bytes = fs::read(&to).unwrap();
        let file = gguf::read(&bytes).unwrap();
        assert_eq!(file.tensors.len(), shapes.len());
        for ((tensor, data), shape) in file.tensors.iter().zip(&shapes) {
            let width = if shape.fill == Fill::Weights { 2 } else { 4 };
            assert_eq!(tensor.dims, shape.dims, "{}", tensor.name);
            let size = shape.dims.iter().product::<u64>() * width;
            assert_eq!(data.len() as u64, size.next_multiple_of(gguf::ALIGNMENT), "{}", tensor.name);
        }
        let error = grow(&seed, &shapes, &to, &AtomicBool::new(true)).unwrap_err();
        assert!(error.is::<Interrupted>());
    }

    #[test]
    fn importance_is_known_for_every_matrix() {
        let model = Model::find("qwen3-30b-a3b").unwrap();
        let bytes = importance(&model.tensors(1));
        let file = gguf::read(&bytes).unwrap();
        let experts = file.tensors.iter().find(|(t, _)| t.name == "blk.0.ffn_down_exps.weight.in_sum2").unwrap();
        assert_eq!(experts.0.dims, [768, SEED_EXPERTS]);
    }
}
