//! Model files: what is checked before anything runs, and the page cache that holds them.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail, ensure};
use zen5turbo_host::memory::map::{self, SMALL_PAGE};

use crate::page_cache;

/// The first bytes of a GGUF file, and the versions of the format that llama.cpp reads.
const MAGIC: &[u8; 4] = b"GGUF";
const VERSIONS: std::ops::RangeInclusive<u32> = 1..=3;

/// A model: one GGUF file, or all parts of a split one.
#[derive(Clone, Debug)]
pub struct Model {
    /// What llama.cpp is given.
    pub path: PathBuf,
    parts: Vec<PathBuf>,
    /// Bytes of all parts.
    pub size: u64,
}

impl Model {
    /// Checks that `path` is a GGUF file that can be read, and finds its other parts.
    pub fn check(path: &Path) -> Result<Model> {
        let parts = parts(path);
        let mut size = 0;
        for part in &parts {
            size += check_part(part)?;
        }
        Ok(Model { path: path.to_owned(), parts, size })
    }

    /// Without its folder.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Reads the whole model, so that it is in the page cache as far as memory allows. Ends early when
    /// `stop` becomes true.
    pub fn warm(&self, stop: &AtomicBool) -> Result<()> {
        let mut buffer = vec![0; 4 << 20];
        for part in &self.parts {
            let what = || format!("cannot read the model {}", part.display());
            let mut file = File::open(part).with_context(what)?;
            while !stop.load(Ordering::Relaxed) && file.read(&mut buffer).with_context(what)? > 0 {}
        }
        Ok(())
    }

    /// Asks the kernel to drop the model from the page cache.
    pub fn cool(&self) -> Result<()> {
        for part in &self.parts {
            let what = || format!("cannot drop the model {} from the page cache", part.display());
            let file = File::open(part).with_context(what)?;
            page_cache::forget(&file).with_context(what)?;
        }
        Ok(())
    }

    /// How much of the model is in the page cache, bytes; `None` where the kernel does not tell.
    pub fn cached(&self) -> Option<u64> {
        self.parts.iter().map(|part| cached(part).ok()).sum()
    }
}

fn check_part(path: &Path) -> Result<u64> {
    let shown = path.display();
    let remedy = "name a GGUF file with --model";
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            bail!("the model {shown} does not exist; expected a GGUF file: {remedy}")
        }
        Err(e) => {
            bail!("the model {shown} cannot be opened ({e}); expected a GGUF file that this user may read: {remedy}")
        }
    };
    let facts = file.metadata().with_context(|| format!("cannot ask for the size of {shown}"))?;
    ensure!(!facts.is_dir(), "the model {shown} is a folder; expected a GGUF file: name the file in it with --model");
    let mut head = Vec::new();
    file.by_ref().take(8).read_to_end(&mut head).map_err(|e| {
        anyhow::anyhow!("the model {shown} cannot be read ({e}); expected a GGUF file: check the disk, or {remedy}")
    })?;
    check_head(path, &head)?;
    Ok(facts.len())
}

/// The first eight bytes of a file, or as many as it has.
fn check_head(path: &Path, head: &[u8]) -> Result<()> {
    let shown = path.display();
    let remedy = "name a GGUF file with --model";
    ensure!(!head.is_empty(), "the model {shown} is empty; expected a GGUF file: fetch it again, or {remedy}");
    ensure!(
        head.len() == 8 && head.starts_with(MAGIC),
        "the model {shown} is not a GGUF file: found {:?} at its start, expected \"GGUF\"; convert it with llama.cpp's convert_hf_to_gguf.py, or {remedy}",
        String::from_utf8_lossy(&head[..head.len().min(4)])
    );
    let version = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    ensure!(
        VERSIONS.contains(&version),
        "the model {shown} is GGUF version {version}; expected {} to {}: it is damaged or newer than this command",
        VERSIONS.start(),
        VERSIONS.end()
    );
    Ok(())
}

/// What a fuzzer calls: the name of a model, and the head of its file.
#[cfg(feature = "fuzzing")]
pub fn fuzz(name: &str, head: &[u8]) {
    let path = Path::new(name);
    let parts = parts(path);
    assert!(!parts.is_empty() && parts.len() < 100_000);
    let head = &head[..head.len().min(8)];
    assert_eq!(
        check_head(path, head).is_ok(),
        head.len() == 8 && head.starts_with(MAGIC) && matches!(head[4..], [1..=3, 0, 0, 0])
    );
}

/// All parts of a split model (`NAME-00001-of-00003.gguf`), else the file alone.
fn parts(path: &Path) -> Vec<PathBuf> {
    let all = || {
        let name = path.file_name()?.to_str()?;
        let (stem, rest) = name.rsplit_once("-of-")?;
        let digits = rest.strip_suffix(".gguf").filter(|n| n.len() == 5 && n.bytes().all(|b| b.is_ascii_digit()))?;
        let total = digits.parse::<u32>().ok().filter(|&n| n > 0)?;
        let stem = stem.strip_suffix("-00001")?;
        Some((1..=total).map(|i| path.with_file_name(format!("{stem}-{i:05}-of-{total:05}.gguf"))).collect())
    };
    all().unwrap_or_else(|| vec![path.to_owned()])
}

fn cached(path: &Path) -> io::Result<u64> {
    let file = File::open(path)?;
    let len = file.metadata()?.len() as usize;
    if len == 0 {
        return Ok(0);
    }
    // SAFETY: a new mapping at an address of the kernel's choice; it is only asked about, never read.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let seen = map::resident(at as usize..at as usize + len);
    let error = io::Error::last_os_error();
    // SAFETY: the mapping made above, used by nobody else.
    unsafe { libc::munmap(at, len) };
    let (resident, _) = seen.ok_or(error)?;
    Ok((resident * SMALL_PAGE) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn refused(path: &Path) -> String {
        format!("{:#}", Model::check(path).unwrap_err())
    }

    #[test]
    fn what_is_not_a_model_is_refused_with_what_was_found_expected_and_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.gguf");
        assert!(refused(&file).contains("does not exist; expected a GGUF file"));
        assert!(refused(dir.path()).contains("is a folder; expected"));
        fs::write(&file, "").unwrap();
        assert!(refused(&file).contains("is empty; expected"));
        fs::write(&file, "PK\x03\x04 and more").unwrap();
        assert!(
            refused(&file).contains("is not a GGUF file: found \"PK\\u{3}\\u{4}\" at its start, expected \"GGUF\"")
        );
        fs::write(&file, "GGUF\x09\0\0\0").unwrap();
        assert!(refused(&file).contains("is GGUF version 9; expected 1 to 3"));
        // Opens, but gives an input/output error when it is read, even to root.
        assert!(refused(Path::new("/proc/self/mem")).contains("cannot be read (Input/output error"));
        fs::write(&file, "GGUF\x03\0\0\0").unwrap();
        assert_eq!(Model::check(&file).unwrap().size, 8);
    }

    #[test]
    fn all_parts_of_a_split_model_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let part = |i| dir.path().join(format!("big-0000{i}-of-00002.gguf"));
        fs::write(part(1), "GGUF\x03\0\0\0").unwrap();
        assert!(refused(&part(1)).contains("big-00002-of-00002.gguf does not exist"));
        fs::write(part(2), "GGUF\x03\0\0\0").unwrap();
        let model = Model::check(&part(1)).unwrap();
        assert_eq!((model.parts.len(), model.size), (2, 16));
    }

    #[test]
    fn a_name_that_says_it_has_no_parts_is_a_file_like_others() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["big-00001-of-00000.gguf", "big-00001-of-+0002.gguf"] {
            assert!(refused(&dir.path().join(name)).contains("does not exist"), "{name}");
        }
    }

    #[test]
    fn a_warm_model_is_in_the_page_cache_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.gguf");
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.resize(1 << 20, 7);
        fs::write(&file, bytes).unwrap();
        let model = Model::check(&file).unwrap();
        model.warm(&AtomicBool::new(false)).unwrap();
        assert_eq!(model.cached(), Some(1 << 20));
        model.cool().unwrap();
    }
}
