//! Models that are not in the page cache.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::{Fixture, Need, Program, cached, skip, work_dir};

/// A copy of a model, so that nobody else has its pages in memory.
pub struct Cold {
    files: Vec<PathBuf>,
    _dir: TempDir,
}

impl Cold {
    /// A copy in one file.
    #[must_use]
    pub fn new(model: &Path) -> Self {
        let dir = work_dir();
        let file = dir.path().join("model.gguf");
        fs::copy(model, &file).expect("there is room for a copy");
        Self::of(vec![file], dir)
    }

    /// A copy in so many files, as llama-gguf-split makes them.
    #[must_use]
    pub fn split(model: &Path, parts: usize) -> Self {
        let dir = work_dir();
        let split = Fixture::new("split_model").linked_with_ggml().build(&dir, "split");
        let _ = Program::new(split).arg(model).arg(dir.path().join("model")).arg(parts.to_string()).run().success();
        let name = |part| dir.path().join(format!("model-{part:05}-of-{parts:05}.gguf"));
        Self::of((1..=parts).map(name).collect(), dir)
    }

    fn of(files: Vec<PathBuf>, dir: TempDir) -> Self {
        // Also for the user that a refusal turns the program into.
        let mode = |path: &Path, bits| fs::set_permissions(path, PermissionsExt::from_mode(bits)).expect("it is ours");
        mode(dir.path(), 0o755);
        for file in &files {
            mode(file, 0o644);
            // Dirty pages stay in the cache.
            fs::File::open(file).and_then(|file| file.sync_all()).expect("it can be written to the disk");
        }
        Self { files, _dir: dir }
    }

    /// The file that programs are given: the first one.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.files[0]
    }

    /// Bytes of all files.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.files.iter().map(|file| file.metadata().expect("it is there").len()).sum()
    }

    /// Takes the files out of the page cache. False where their file system keeps them in memory, and then the test is
    /// skipped, or what it says of a cold model.
    #[must_use]
    pub fn drop_pages(&self) -> bool {
        let is_cold = self.try_drop_pages();
        if !is_cold {
            skip(Need::PageCache, "the file system keeps its files in memory");
        }
        is_cold
    }

    fn try_drop_pages(&self) -> bool {
        self.files.iter().all(|path| {
            let file = fs::File::open(path).expect("it is there");
            // SAFETY: no memory is accessed.
            let failed = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
            assert_eq!(failed, 0);
            let (resident, pages) = cached(path).expect("a file of ours");
            resident < pages / 10
        })
    }

    /// A greedy generation of so many tokens with two threads. Also without the library the model is not copied into a
    /// layout of ggml's own.
    #[must_use]
    pub fn generation(&self, program: Program, tokens: u32) -> Program {
        let program = program.arg("-m").arg(self.file()).arg("-n").arg(tokens.to_string());
        program.args("--no-repack -no-cnv --no-warmup --temp 0 --seed 1 -c 512 -b 64 -ub 64 -t 2 -p Berlin")
    }
}
