//! The list of kernels.

use super::data::is_float;
use super::every_kernel;
use crate::formats::{Codes, FLOAT_RECORD, WeightType};
use crate::isa::{DataPath, Isa};
use crate::kernel::{Blocking, FLOAT_PANEL, MAX_TILE, pair_bytes};
use crate::registry::{kernel_on, kernels};
use zen5turbo_skip::{Need, skip};

#[test]
fn every_weight_type_has_a_kernel_in_every_isa() {
    assert!(Isa::Scalar.available());
    for isa in Isa::ALL {
        assert_eq!(kernels(isa).is_some(), isa.available(), "{isa:?}");
        for t in WeightType::ALL.into_iter().filter(|_| isa.available()) {
            for path in [DataPath::Full, DataPath::Split] {
                let k = kernel_on(path, isa, t, (256, usize::MAX)).expect("a kernel");
                assert_eq!((k.isa, k.weight), (isa, t));
                let shape = t.shape_on(isa == Isa::Avx2);
                assert!(k.shape == shape || t == WeightType::Bf16);
                let bf16 = if k.shape == shape { "" } else { "+bf16" };
                let pair = if path == DataPath::Full && isa == Isa::Avx512 { "+32rows" } else { "" };
                assert_eq!(k.name(), format!("{}{bf16}{pair}/{}", isa.name(), t.ggml_name()));
                assert!((1..=MAX_TILE).contains(&k.widest_tile()));
                for columns in 1..20 {
                    let k = kernel_on(path, isa, t, (256, columns)).expect("a kernel");
                    assert!(k.weight == t && k.domain.contains(path, 256, columns));
                }
            }
        }
    }
}

/// Every test of kernels takes the instruction sets that this CPU has: what it lacks is said here, once for each set. An
/// emulator that lacks the features would otherwise pass.
#[test]
fn kernels_of_every_instruction_set_are_tested() {
    if !Isa::Avx2.available() {
        skip(Need::Avx2, "kernels for AVX2: this CPU has none");
    }
    if !(Isa::Avx512.available() && Isa::Vnni256.available()) {
        skip(Need::Avx512, "kernels for AVX-512 VNNI: this CPU has none");
    }
}

#[test]
fn names_are_ggmls_and_unique() {
    for t in WeightType::ALL {
        assert_eq!(WeightType::from_ggml_name(t.ggml_name()), Some(t));
    }
    assert_eq!(WeightType::from_ggml_name("f64"), None);
}

/// The sizes from the fields of ggml-common.h's structs.
#[test]
fn blocks_have_ggmls_sizes() {
    const HALF: usize = 2;
    for t in WeightType::ALL {
        let want = match t {
            WeightType::Q4_0 | WeightType::Iq4Nl => (32, HALF + 16),
            WeightType::Q4_1 => (32, 2 * HALF + 16),
            WeightType::Q5_0 => (32, HALF + 4 + 16),
            WeightType::Q5_1 => (32, 2 * HALF + 4 + 16),
            WeightType::Q8_0 => (32, HALF + 32),
            WeightType::Mxfp4 => (32, 1 + 16),
            WeightType::Q2K => (256, 16 + 64 + 2 * HALF),
            WeightType::Q3K => (256, 32 + 64 + 12 + HALF),
            WeightType::Q4K => (256, 2 * HALF + 12 + 128),
            WeightType::Q5K => (256, 2 * HALF + 12 + 32 + 128),
            WeightType::Q6K => (256, 128 + 64 + 16 + HALF),
            WeightType::Iq4Xs => (256, HALF + 2 + 4 + 128),
            WeightType::Iq2Xxs => (256, HALF + 2 * 256 / 8),
            WeightType::Iq2Xs => (256, HALF + 2 * 256 / 8 + 256 / 32),
            WeightType::Iq2S => (256, HALF + 256 / 4 + 256 / 16),
            WeightType::Iq3Xxs => (256, HALF + 3 * 256 / 8),
            WeightType::Iq3S => (256, HALF + 13 * 256 / 32 + 256 / 64),
            WeightType::Iq1S => (256, HALF + 32 + 16),
            WeightType::Iq1M => (256, 32 + 16 + 8),
            WeightType::Tq1_0 => (256, 48 + 4 + HALF),
            WeightType::Tq2_0 => (256, 64 + HALF),
            WeightType::Nvfp4 => (64, 4 + 32),
            WeightType::Q1_0 => (128, HALF + 16),
            WeightType::Q2_0 => (64, HALF + 16),
            WeightType::F16 | WeightType::Bf16 => (1, HALF),
            WeightType::F32 => (1, 4),
        };
        assert_eq!(t.block(), want, "{t:?}");
        let shape = t.shape();
        let of_activations = match want.0 {
            1 => FLOAT_RECORD,
            256 => 256,
            _ => 32,
        };
        assert_eq!(shape.block, of_activations);
        assert_eq!(shape.panel_record(true) % 4, 0);
    }
}

/// The 16-bit accumulators of AVX2, from the values that codes can take: the bounds at [`Codes`].
#[test]
fn the_code_classes_are_safe_for_16_bit_sums() {
    for t in WeightType::ALL {
        let (s, most) = (
            t.shape(),
            match t {
                WeightType::Q2K => 3,
                WeightType::Q3K => 7,
                WeightType::Q4_0 | WeightType::Q4_1 | WeightType::Q4K => 15,
                WeightType::Mxfp4 => 24,
                WeightType::Q5_0 | WeightType::Q5_1 | WeightType::Q5K => 31,
                WeightType::Q6K => 63,
                WeightType::Iq1S | WeightType::Iq1M => 25,
                // two bits, though the largest value is not used
                WeightType::Tq1_0 | WeightType::Tq2_0 | WeightType::Q2_0 => 3,
                WeightType::Nvfp4 => 24,
                WeightType::Q1_0 => 16,
                WeightType::Q8_0 | WeightType::Iq4Nl | WeightType::Iq4Xs => continue,
                WeightType::Iq2Xxs | WeightType::Iq2Xs | WeightType::Iq2S => continue,
                WeightType::Iq3Xxs | WeightType::Iq3S => continue,
                WeightType::F16 | WeightType::Bf16 | WeightType::F32 => continue,
            },
        );
        let steps = match s.codes {
            Codes::Wide => 8,
            Codes::Narrow => 4,
            Codes::Whole => 64,
            Codes::Signed | Codes::Folded | Codes::Float(_) | Codes::Bf16Pairs => unreachable!("{t:?}"),
        };
        // a single vpmaddubsw saturates; the sum of `steps` of them, less the offset, must not wrap
        assert!(2 * 127 * most <= 32767, "{t:?}");
        assert!(2 * 127 * steps * s.offset.max(most - s.offset) <= 32767, "{t:?}");
        // an offset is seeded once per sub-block: one accumulator must hold it all
        assert!(s.offset == 0 || s.sub == 4 * steps as usize, "{t:?}");
    }
}

#[test]
fn scratch_holds_a_panel_of_any_length() {
    for kernel in every_kernel() {
        for blocks in [1, 2, 3, 40, 1000] {
            for panel_bytes in [0, 1 << 10, 20 << 10, usize::MAX] {
                let blocking = Blocking { panel_bytes, prefetch_bytes: 0, ..Blocking::MEASURED };
                let bytes = kernel.scratch_bytes(blocks * kernel.block(), &blocking);
                let record = kernel.panel_record;
                // at least a record and a copy of its rows; no more panel than asked for
                let rows = 16 * kernel.weight.row_bytes(kernel.block());
                assert!(bytes >= record + rows);
                let factor = if is_float(kernel.weight) { FLOAT_PANEL } else { 1 };
                let most = panel_bytes.saturating_mul(factor);
                let most = if kernel.pair.is_empty() { most } else { pair_bytes(most) };
                assert!(bytes / (record + rows) <= (most / record).max(1));
            }
        }
    }
}
