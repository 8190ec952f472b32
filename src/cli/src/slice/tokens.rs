//! A tokenizer for a model whose own is not there: every byte is a token, the others are never met in a text. llama.cpp
//! reads, splits and joins texts with it as with any other of the kind `gpt2`, so that perplexity and servers work.

use super::gguf::Value;

/// The least number of tokens that it can have: the bytes, a pair of them, and the end of a text.
pub const FEWEST: u32 = 258;

/// llama.cpp's numbers of the kinds of tokens.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const UNUSED: i32 = 5;

/// The pairs of a file for `n` tokens, [`FEWEST`] at least.
pub fn pairs(n: u32) -> Vec<(&'static str, Value)> {
    let end = n - 1;
    let mut tokens: Vec<String> = (0..=255).map(|byte| letter(byte).to_string()).collect();
    // A file has to have a merge.
    tokens.push(format!("{}t", letter(b' ')));
    tokens.extend((tokens.len() as u32..end).map(|i| format!("<|unused {i}|>")));
    tokens.push("<|end|>".to_owned());
    let kinds = (0..n).map(|i| match i {
        _ if i == end => CONTROL,
        0..=256 => NORMAL,
        _ => UNUSED,
    });
    vec![
        ("tokenizer.ggml.model", Value::Text("gpt2".to_owned())),
        ("tokenizer.ggml.pre", Value::Text("gpt-2".to_owned())),
        ("tokenizer.ggml.token_type", Value::I32s(kinds.collect())),
        ("tokenizer.ggml.tokens", Value::Texts(tokens)),
        ("tokenizer.ggml.merges", Value::Texts(vec![format!("{} t", letter(b' '))])),
        ("tokenizer.ggml.bos_token_id", Value::U32(end)),
        ("tokenizer.ggml.eos_token_id", Value::U32(end)),
        ("tokenizer.ggml.add_bos_token", Value::Bool(false)),
    ]
}

/// The letter that stands for a byte in the tokens of GPT-2: itself where it can be printed, else the next of those from
/// U+0100 on.
fn letter(byte: u8) -> char {
    let printed = |b: &u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if printed(&byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|b| !printed(b)).count() as u32;
    char::from_u32(0x100 + before).unwrap_or(' ')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn bytes_are_written_as_gpt_2_writes_them() {
        assert_eq!((letter(b'A'), letter(b' '), letter(b'\n'), letter(0xad)), ('A', 'Ġ', 'Ċ', 'Ń'));
    }

    #[test]
    fn there_are_as_many_different_tokens_as_asked_for() {
        for n in [FEWEST, 1000] {
            let pairs = pairs(n);
            let tokens = pairs.iter().find_map(|(key, value)| match value {
                Value::Texts(list) if key.ends_with("tokens") => Some(list),
                _ => None,
            });
            let tokens = tokens.unwrap();
            assert_eq!(tokens.len() as u32, n);
            assert_eq!(tokens.iter().collect::<HashSet<_>>().len() as u32, n);
        }
    }
}
