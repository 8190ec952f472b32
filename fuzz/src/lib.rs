//! One function for each target: takes arbitrary bytes, panics at a defect. `fuzz_targets` calls them from libFuzzer,
//! `tests/replay.rs` with the inputs that are kept.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use zen5turbo_calibration::{Machine, parse};
use zen5turbo_config::{Config, KNOBS};
use zen5turbo_kernels::isa::Isa;

/// What a target does with an input.
pub type Target = fn(&[u8]);

/// Every target, by the name of its file and of its corpus.
pub const TARGETS: [(&str, Target); 14] = [
    ("environment", environment),
    ("calibration", calibration),
    ("host_texts", host_texts),
    ("cli_texts", cli_texts),
    ("json", json),
    ("elf", elf),
    ("loader_cache", loader_cache),
    ("segment", segment),
    ("fake_root", fake_root),
    ("stats_json", stats_json),
    ("kernel_product", kernel_product),
    ("kernel_quantise", kernel_quantise),
    ("kernel_copy", kernel_copy),
    ("kernel_attention", kernel_attention),
];

/// Environment variables: any bytes are a value, what is understood is said back alike. Entries `NAME=VALUE` end with a
/// NUL; a name that begins with a digit stands for a setting of the list.
pub fn environment(data: &[u8]) {
    let config = Config::from_vars(data.split(|&b| b == 0).filter_map(|entry| {
        let at = entry.iter().position(|&b| b == b'=')?;
        let (name, value) = (&entry[..at], OsString::from_vec(entry[at + 1..].to_vec()));
        let knob = name.first().and_then(|b| KNOBS.get(usize::from(b.wrapping_sub(b'0'))));
        Some((knob.map_or_else(|| OsString::from_vec(name.to_vec()), |knob| knob.name.into()), value))
    }));
    for knob in KNOBS {
        let value = knob.value(&config);
        let again = Config::from_vars([(knob.name.into(), value.clone().into())]);
        if !value.contains(char::REPLACEMENT_CHARACTER) {
            assert_eq!((knob.value(&again), again.complaints.len()), (value, 0), "{}", knob.name);
        }
    }
}

/// The calibration file: what is understood is written again as the same.
pub fn calibration(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Ok(file) = parse(&text) else { return };
    let again = parse(&file.to_string());
    assert_eq!(again.as_ref(), Ok(&file), "{text}");
    for calibration in &file.calibrations {
        let here = Machine { cpu: &calibration.cpu, ggml: &calibration.ggml, isa: calibration.isa };
        assert!(file.fitting(&here).is_ok());
        let _ = file.width(&calibration.cpu);
        if let Err(misfit) = file.fitting(&Machine { cpu: "x", isa: Isa::Scalar, ..here }) {
            let _ = misfit.to_string();
        }
    }
}

/// Texts of `/proc` and `/sys` that the shim reads.
pub fn host_texts(data: &[u8]) {
    zen5turbo_host::fuzzing::texts(data);
}

/// Texts that the command reads: of `/proc`, of llama-bench and llama-perplexity, names and heads of models.
pub fn cli_texts(data: &[u8]) {
    zen5turbo_cli::fuzzing::texts(data);
}

/// JSON that the command reads: statistics, records.
pub fn json(data: &[u8]) {
    zen5turbo_cli::fuzzing::json(data);
}

/// ELF files that `doctor` reads.
pub fn elf(data: &[u8]) {
    zen5turbo_cli::fuzzing::elf(data);
}

/// The loader's cache.
pub fn loader_cache(data: &[u8]) {
    zen5turbo_cli::fuzzing::loader_cache(data);
}

/// The live statistics of another process.
pub fn segment(data: &[u8]) {
    zen5turbo_cli::fuzzing::segment(data);
}

/// The files of the kernel, as `doctor`, `bios` and the shim's budget read them.
pub fn fake_root(data: &[u8]) {
    zen5turbo_cli::fuzzing::fake_root(data);
}

/// The shim's writer of JSON, and the path it writes to.
pub fn stats_json(data: &[u8]) {
    let text = zen5turbo::fuzzing::json(data);
    let value: serde_json::Value = serde_json::from_str(&text).expect("what is written is JSON");
    assert!(value.is_object());
    zen5turbo::fuzzing::stats_path(data);
}

/// Products of weights of any bytes, on every kernel that this CPU runs, against the reference.
pub fn kernel_product(data: &[u8]) {
    zen5turbo_kernels::fuzzing::product(data);
}

/// Quantisation of columns of any bits, every version against the reference.
pub fn kernel_quantise(data: &[u8]) {
    zen5turbo_kernels::fuzzing::quantise(data);
}

/// The streaming copy, and the cutting of columns into tiles.
pub fn kernel_copy(data: &[u8]) {
    zen5turbo_kernels::fuzzing::copy(data);
}

/// Attention over keys and values of any bytes, on every instruction set of this CPU, against its definition.
pub fn kernel_attention(data: &[u8]) {
    zen5turbo_kernels::fuzzing::attention(data);
}
