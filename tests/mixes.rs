//! A model of several weight types, as llama-quantize makes the small quants that people download. (The results of
//! every type are compared with references in `operations`, and by ggml's own suite in `backend_ops`.)

use std::path::{Path, PathBuf};

use zen5turbo_tests::{Program, guest_model, llama, tiers, work_dir};

/// Matrices of the model by a part of their names, the types they get, and their columns.
const MIX: [(&str, &str, usize); 5] = [
    ("attn_q", "iq2_xxs", 512),
    ("attn_k", "iq2_xs", 512),
    ("attn_v", "iq2_s", 512),
    ("attn_output", "iq3_xxs", 512),
    ("ffn_down", "iq3_s", 6144),
];
const LAYERS: usize = 2;

/// An importance matrix in llama.cpp's old format, in which every column is as important as the others. IQ2_XXS and
/// IQ2_XS want one.
fn importance(dir: &Path) -> PathBuf {
    let word = |n: usize| (n as u32).to_le_bytes();
    let mut bytes = word(LAYERS * MIX.len()).to_vec();
    for layer in 0..LAYERS {
        for (part, _, columns) in MIX {
            let name = format!("blk.{layer}.{part}.weight");
            bytes.extend(word(name.len()));
            bytes.extend(name.as_bytes());
            bytes.extend(word(1));
            bytes.extend(word(columns));
            bytes.extend(1f32.to_le_bytes().repeat(columns));
        }
    }
    let file = dir.join("importance.dat");
    std::fs::write(&file, &bytes).expect("the folder is writable");
    file
}

#[test]
fn every_type_of_a_mix_is_taken_over_in_prompts_and_generation() {
    let dir = work_dir();
    let model = dir.path().join("mix.gguf");
    let quantize = Program::new(llama("llama-quantize")).arg("--allow-requantize");
    let quantize = quantize.arg("--imatrix").arg(importance(dir.path()));
    let quantize = MIX
        .into_iter()
        .fold(quantize, |program, (part, ty, _)| program.arg("--tensor-type").arg(format!("{part}={ty}")));
    let _ = quantize.arg(guest_model()).arg(&model).args("Q8_0 2").run().success();

    let bench = |options: &str| {
        // Without AVX-512 these types are unmeasured, and are taken over only where kernels are named.
        let best = tiers()[0].name;
        let kernels = if best == "avx512vnni" { "auto" } else { best };
        let program = Program::engaged(llama("llama-bench")).knob("KERNELS", kernels).arg("-m").arg(&model);
        program.args("-t 2 -r 1").args(options).run().success()
    };
    for options in ["-p 40 -n 0", "-p 0 -n 8"] {
        let run = bench(options);
        let stats = run.stats();
        for (_, ty, _) in MIX {
            assert!(stats.taken("MUL_MAT", Some(ty)) >= 2, "{ty} {options}\n{stats}");
            assert!(stats.declined("MUL_MAT", Some(ty)).is_empty(), "{ty} {options}\n{stats}");
        }
        stats.assert_healthy();
    }
}
