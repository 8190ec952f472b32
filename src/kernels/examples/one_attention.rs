//! Attention on one thread, to time it, to count its instructions or to profile it.
//!
//! usage: one_attention ISA KEYTYPE VALUETYPE KEYLEN VALUELEN HEADS SHARING TOKENS KEYS REPS
//!
//! ISA is a tier's name (`avx512vnni`, `avx512vnni-256`, `avx2`, `scalar`), the types are those of ggml. `HEADS` heads of keys and
//! values lie beside each other, as in llama.cpp's cache, each used by `SHARING` query heads; every token sees all keys. Prints the fastest
//! repetition, in multiply-adds.

mod common;

use std::process::ExitCode;
use std::time::Instant;

use common::{Random, aligned};
use zen5turbo_kernels::attention::{Attention, Query, Scale, Shared};
use zen5turbo_kernels::formats::WeightType;
use zen5turbo_kernels::isa::Isa;
use zen5turbo_kernels::width::DataPath;

/// Random keys or values.
fn bytes(n: usize) -> Vec<u8> {
    let mut random = Random(1);
    (0..n).map(|_| random.byte()).collect()
}

fn run(arguments: &[String]) -> Option<String> {
    let [isa, key_type, value_type, numbers @ ..] = arguments else { return None };
    let isa = Isa::ALL.into_iter().find(|i| i.name() == isa)?;
    let (key_type, value_type) = (WeightType::from_ggml_name(key_type)?, WeightType::from_ggml_name(value_type)?);
    let numbers: Vec<usize> = numbers.iter().map(|n| n.parse().ok()).collect::<Option<_>>()?;
    let [key_len, value_len, heads, sharing, tokens, keys, reps] = numbers[..] else { return None };
    let n = sharing * tokens;
    let attention = Attention::new((DataPath::Split, isa), (key_type, key_len), (value_type, value_len), n)?;
    let (key_bytes, value_bytes) = (key_type.row_bytes(key_len), value_type.row_bytes(value_len));
    let (k, v) = (bytes(keys * heads * key_bytes), bytes(keys * heads * value_bytes));
    let q: Vec<f32> = (0..n * key_len).map(|i| (i % 17) as f32 / 17.0 - 0.5).collect();
    let mut scratch = aligned(attention.scratch_bytes());
    let mut sums = vec![0f32; attention.most_queries() * attention.sums_len()];
    let mut result = vec![0f32; value_len];
    let scale = Scale { scale: 1.0 / (key_len as f32).sqrt(), cap: 0.0 };
    let (mut best, mut check) = (f64::MAX, 0.0);
    for _ in 0..reps {
        let started = Instant::now();
        for head in 0..heads {
            let shared = Shared {
                keys: (k[head * key_bytes..].as_ptr(), heads * key_bytes),
                values: (v[head * value_bytes..].as_ptr(), heads * value_bytes),
                scale,
            };
            for from in (0..n).step_by(attention.most_queries()) {
                let count = attention.most_queries().min(n - from);
                let query = |i: usize| Query {
                    elements: q[(from + i) * key_len..].as_ptr(),
                    mask: std::ptr::null(),
                    slope: 1.0,
                };
                // SAFETY: everything is as large as documented; the tier is available, or `new` had failed.
                unsafe {
                    attention.clear(count, sums.as_mut_ptr());
                    attention.add(&shared, 0..keys, count, query, sums.as_mut_ptr(), scratch.as_mut_ptr().cast());
                    for i in 0..count {
                        let sums = sums[i * attention.sums_len()..].as_ptr();
                        attention.finish(sums, 1, 0, None, result.as_mut_ptr());
                        check += f64::from(result[0]);
                    }
                }
            }
        }
        best = best.min(started.elapsed().as_secs_f64());
    }
    let macs = (heads * n * keys * (key_len + value_len)) as f64;
    let read = (heads * keys * (key_bytes + value_bytes)) as f64;
    Some(format!(
        "{:.3} ms, {:.1} GMAC/s, {:.1} GB/s (check {check:.3})",
        best * 1e3,
        macs / best / 1e9,
        read / best / 1e9
    ))
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Some(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        None => {
            eprintln!(
                "expected: one_attention ISA KEYTYPE VALUETYPE KEYLEN VALUELEN HEADS SHARING TOKENS KEYS REPS, with types and a \
                 tier that this CPU has, e.g. one_attention avx2 f16 f16 64 64 8 4 1 2048 100"
            );
            ExitCode::FAILURE
        }
    }
}
