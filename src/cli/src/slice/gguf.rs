//! GGUF files as far as a slice needs them: headers written and read, data moved as bytes.
//!
//! The format: ggml/include/gguf.h of llama.cpp. Magic, version, number of tensors and of pairs; the pairs (key, type,
//! value); for each tensor name, dimensions with the row length first, type and offset; then, from the next multiple of
//! [`ALIGNMENT`] on, the data, each tensor at such a multiple.

use anyhow::{Context, Result, ensure};

/// Where data begin: a multiple of this. The format's default.
pub const ALIGNMENT: u64 = 32;

const MAGIC: &[u8; 4] = b"GGUF";
const VERSION: u32 = 3;

/// ggml's numbers of the types that are written here.
pub const F32: u32 = 0;
/// Half precision.
pub const F16: u32 = 1;

/// The value of a pair.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
    Texts(Vec<String>),
}

/// The format's number of a type of values.
mod number {
    pub const I32: u32 = 5;
    pub const U32: u32 = 4;
    pub const F32: u32 = 6;
    pub const BOOL: u32 = 7;
    pub const TEXT: u32 = 8;
    pub const ARRAY: u32 = 9;
}

/// Pairs as they stand in a file.
#[derive(Clone, Debug, Default)]
pub struct Pairs {
    bytes: Vec<u8>,
    count: u64,
}

impl Pairs {
    /// Adds one more.
    pub fn add(&mut self, key: &str, value: &Value) {
        let out = &mut self.bytes;
        text(out, key);
        match value {
            Value::U32(n) => {
                word(out, number::U32);
                word(out, *n);
            }
            Value::F32(x) => {
                word(out, number::F32);
                word(out, x.to_bits());
            }
            Value::Bool(b) => {
                word(out, number::BOOL);
                out.push(u8::from(*b));
            }
            Value::Text(t) => {
                word(out, number::TEXT);
                text(out, t);
            }
            Value::I32s(list) => {
                word(out, number::ARRAY);
                word(out, number::I32);
                long(out, list.len() as u64);
                list.iter().for_each(|n| out.extend(n.to_le_bytes()));
            }
            Value::F32s(list) => {
                word(out, number::ARRAY);
                word(out, number::F32);
                long(out, list.len() as u64);
                list.iter().for_each(|x| out.extend(x.to_le_bytes()));
            }
            Value::Texts(list) => {
                word(out, number::ARRAY);
                word(out, number::TEXT);
                long(out, list.len() as u64);
                list.iter().for_each(|t| text(out, t));
            }
        }
        self.count += 1;
    }
}

/// A tensor of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub name: String,
    /// The length of a row first.
    pub dims: Vec<u64>,
    /// ggml's number of its type.
    pub kind: u32,
    /// Bytes without padding. In a header that was read: up to the next tensor, so with it.
    pub size: u64,
}

impl Tensor {
    /// Rows in all.
    pub fn rows(&self) -> u64 {
        self.dims.iter().skip(1).product()
    }
}

fn word(out: &mut Vec<u8>, n: u32) {
    out.extend(n.to_le_bytes());
}

fn long(out: &mut Vec<u8>, n: u64) {
    out.extend(n.to_le_bytes());
}

fn text(out: &mut Vec<u8>, text: &str) {
    long(out, text.len() as u64);
    out.extend(text.as_bytes());
}

/// The zeros after `size` bytes.
pub fn padding(size: u64) -> &'static [u8] {
    &[0; ALIGNMENT as usize][..(size.next_multiple_of(ALIGNMENT) - size) as usize]
}

/// Everything in front of the data, padded. The data have to follow in the order of `tensors`, each padded.
pub fn header(pairs: &Pairs, tensors: &[Tensor]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    word(&mut out, VERSION);
    long(&mut out, tensors.len() as u64);
    long(&mut out, pairs.count);
    out.extend(&pairs.bytes);
    let mut offset = 0;
    for tensor in tensors {
        text(&mut out, &tensor.name);
        word(&mut out, tensor.dims.len() as u32);
        tensor.dims.iter().for_each(|&n| long(&mut out, n));
        word(&mut out, tensor.kind);
        long(&mut out, offset);
        offset += tensor.size.next_multiple_of(ALIGNMENT);
    }
    let end = padding(out.len() as u64);
    out.extend(end);
    out
}

/// A file in memory, taken apart.
#[derive(Debug)]
pub struct File<'a> {
    pub pairs: Pairs,
    /// Each with its data, to which padding belongs.
    pub tensors: Vec<(Tensor, &'a [u8])>,
}

/// Reads a file with the default alignment.
///
/// # Errors
/// It is cut, or no such file.
pub fn read(file: &[u8]) -> Result<File<'_>> {
    let mut at = Reader { file, at: 0 };
    ensure!(at.take(4)? == MAGIC && at.word()? == VERSION, "no GGUF file of version {VERSION}");
    let (tensors, count) = (at.long()?, at.long()?);
    let begin = at.at;
    for _ in 0..count {
        at.text()?;
        let kind = at.word()?;
        at.skip(kind)?;
    }
    let pairs = Pairs { bytes: file[begin..at.at].to_vec(), count };
    let mut found = Vec::new();
    for _ in 0..tensors {
        let name = at.text()?;
        let n = at.word()?;
        ensure!(n <= 4, "{name} has {n} dimensions");
        let dims = (0..n).map(|_| at.long()).collect::<Result<Vec<_>>>()?;
        let kind = at.word()?;
        found.push((Tensor { name, dims, kind, size: 0 }, at.long()?));
    }
    let data = file.get(at.at.next_multiple_of(ALIGNMENT as usize)..).unwrap_or_default();
    let ends: Vec<u64> = found.iter().skip(1).map(|(_, offset)| *offset).chain([data.len() as u64]).collect();
    let tensors = found
        .into_iter()
        .zip(ends)
        .map(|((mut tensor, offset), end)| {
            let bytes = data.get(offset as usize..end as usize).with_context(|| format!("{} is cut", tensor.name))?;
            tensor.size = bytes.len() as u64;
            Ok((tensor, bytes))
        })
        .collect::<Result<_>>()?;
    Ok(File { pairs, tensors })
}

struct Reader<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: u64) -> Result<&'a [u8]> {
        let end = usize::try_from(n).ok().and_then(|n| self.at.checked_add(n)).context("a length is absurd")?;
        let bytes = self.file.get(self.at..end).context("the file is cut")?;
        self.at = end;
        Ok(bytes)
    }

    fn word(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.take(4)?.try_into()?))
    }

    fn long(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.take(8)?.try_into()?))
    }

    fn text(&mut self) -> Result<String> {
        let n = self.long()?;
        Ok(String::from_utf8_lossy(self.take(n)?).into_owned())
    }

    /// Passes over a value of a type.
    fn skip(&mut self, kind: u32) -> Result<()> {
        if kind == number::ARRAY {
            let (of, n) = (self.word()?, self.long()?);
            ensure!(of != number::ARRAY, "an array of arrays");
            return match width(of) {
                Some(width) => self.take(n.saturating_mul(width)).map(drop),
                None => (0..n).try_for_each(|_| self.skip(of)),
            };
        }
        match width(kind) {
            Some(width) => self.take(width).map(drop),
            None => {
                ensure!(kind == number::TEXT, "a value has the unknown type {kind}");
                self.text().map(drop)
            }
        }
    }
}

/// Bytes of a value of the types whose values are all as long.
fn width(kind: u32) -> Option<u64> {
    Some(match kind {
        0 | 1 | number::BOOL => 1,
        2 | 3 => 2,
        4..=6 => 4,
        10..=12 => 8,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Vec<u8> {
        let mut pairs = Pairs::default();
        for value in [
            Value::U32(7),
            Value::F32(0.5),
            Value::Bool(true),
            Value::Text("text".into()),
            Value::I32s(vec![1, -2]),
            Value::F32s(vec![0.5]),
            Value::Texts(vec!["a".into(), String::new()]),
        ] {
            pairs.add("key", &value);
        }
        let tensor = |name: &str, dims: &[u64], size| Tensor { name: name.into(), dims: dims.into(), kind: F16, size };
        let tensors = [tensor("a", &[4, 3], 24), tensor("b", &[2], 4)];
        let mut file = header(&pairs, &tensors);
        for (tensor, byte) in tensors.iter().zip([1, 2]) {
            file.extend(vec![byte; tensor.size as usize]);
            file.extend(padding(tensor.size));
        }
        file
    }

    #[test]
    fn what_was_written_is_read_and_written_again_alike() {
        let file = example();
        let read = read(&file).unwrap();
        assert_eq!(read.pairs.count, 7);
        let [(a, first), (b, second)] = &read.tensors[..] else { panic!("two tensors") };
        assert_eq!((a.name.as_str(), &a.dims[..], a.rows(), first[23]), ("a", &[4, 3][..], 3, 1));
        assert_eq!((b.name.as_str(), second[3], second.len()), ("b", 2, 32));
        let tensors: Vec<Tensor> = read.tensors.iter().map(|(tensor, _)| tensor.clone()).collect();
        let again = header(&read.pairs, &tensors);
        assert_eq!(again, file[..again.len()]);
    }

    #[test]
    fn a_cut_file_is_an_error_wherever_it_ends() {
        let file = example();
        for end in 0..file.len() - 32 {
            assert!(read(&file[..end]).is_err(), "{end}");
        }
    }
}
