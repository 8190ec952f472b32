//! Logarithm and power of single numbers. The C library's are not used, because this library would then need libm.

use std::f64::consts::{LN_2, LOG2_E};

/// The natural logarithm of a normal number above zero.
#[inline(always)]
pub fn ln(y: f32) -> f32 {
    ln64(y.into()) as f32
}

/// `base` to the power of `exponent`, of a normal number above zero, where the result is a normal number.
pub fn power(base: f32, exponent: f32) -> f32 {
    let y = ln64(base.into()) * f64::from(exponent);
    let turns = y * LOG2_E;
    let n = (if turns < 0.0 { turns - 0.5 } else { turns + 0.5 }) as i64;
    let r = y - n as f64 * LN_2;
    // the series of the exponential: with a magnitude of `r` up to 0.35, the next term is below 1e-16
    let sum = (1..=13).rev().fold(1.0, |sum, k| 1.0 + sum * r / f64::from(k));
    (sum * f64::from_bits(((n + 1023) as u64) << 52)) as f32
}

/// `2 atanh(s)` of the fraction, with `s` below 0.172: the next term is below `s^17 / 17`, which is less than 1e-14.
#[inline(always)]
fn ln64(y: f64) -> f64 {
    let bits = y.to_bits();
    // the exponent where the fraction is from about 0.707 to 1.414
    let exponent = (bits.wrapping_add((1 << 52) - 0x6_a09e_667f_3bcd) >> 52) as i64 - 1023;
    let fraction = f64::from_bits(bits.wrapping_sub((exponent as u64) << 52));
    let s = (fraction - 1.0) / (fraction + 1.0);
    let sum = (0..8).rev().fold(0.0, |sum, k| sum * s * s + 1.0 / f64::from(2 * k + 1));
    2.0 * s * sum + exponent as f64 * LN_2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_right_to_the_last_place() {
        for i in 0..100_000 {
            let y = ((i as f32) / 2500.0 - 20.0).exp();
            let (got, expected) = (ln(y), f64::from(y).ln());
            assert!((f64::from(got) - expected).abs() <= expected.abs() / (1u64 << 24) as f64 + 1e-14, "{y}: {got}");
        }
    }

    #[test]
    fn powers_of_rotary_bases_are_those_of_the_c_library() {
        for base in [1e4f32, 2.5e4, 1e5, 1.5e5, 5e5, 1e6, 5e6, 1e7, 8e6, 1.1e7] {
            for dims in [16, 32, 64, 80, 96, 128, 192, 256, 512] {
                let exponent = -2.0 / dims as f32;
                assert_eq!(power(base, exponent), base.powf(exponent), "{base} {dims}");
            }
        }
    }
}
