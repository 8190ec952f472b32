//! Pages that are read ahead: at a cold start, and of a model that is larger than memory.

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use zen5turbo_tests::{MemoryGroup, Outcome, Program, Refusal, cached, gemma, llama, synthetic_q4_k, work_dir};

/// Less than the synthetic model of 257 MiB needs beside buffers of some 50 MiB.
const LITTLE_MEMORY: u64 = 216 << 20;

/// A copy of a model, so that nobody else has its pages in memory.
struct Cold {
    file: PathBuf,
    _dir: tempfile::TempDir,
}

impl Cold {
    fn new(model: &Path) -> Self {
        let dir = work_dir();
        let file = dir.path().join("model.gguf");
        std::fs::copy(model, &file).unwrap();
        // Also for the user that a refusal turns the program into.
        let mode = |bits| std::os::unix::fs::PermissionsExt::from_mode(bits);
        std::fs::set_permissions(dir.path(), mode(0o755)).unwrap();
        std::fs::set_permissions(&file, mode(0o644)).unwrap();
        std::fs::File::open(&file).unwrap().sync_all().unwrap(); // dirty pages stay in the cache
        Cold { file, _dir: dir }
    }

    /// Takes the file out of the page cache; false where its file system keeps it in memory.
    fn drop_pages(&self) -> bool {
        let file = std::fs::File::open(&self.file).unwrap();
        // SAFETY: no memory is accessed.
        assert_eq!(unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) }, 0);
        let (resident, pages) = cached(&self.file).unwrap();
        resident < pages / 10
    }

    fn generation(&self, program: Program) -> Program {
        let program = program.arg("-m").arg(&self.file);
        program.args("-no-cnv --no-warmup --temp 0 --seed 1 -c 512 -b 64 -ub 64 -t 2 -n 8 -p Berlin")
    }

    /// With the shim and this value of its knob, from a cold cache.
    fn run(&self, prefetch: &str) -> Outcome {
        self.drop_pages();
        self.generation(Program::engaged(llama("llama-completion"))).knob("PREFETCH", prefetch).run().success()
    }
}

#[test]
fn a_cold_model_is_read_ahead_and_a_warm_one_is_not() {
    let model = Cold::new(&gemma());
    let off = model.run("off");
    assert_eq!(off.stats().number("/memory/prefetch/bytes"), 0);
    for knob in ["pages", "auto"] {
        let is_cold = model.drop_pages();
        let cold = model.run(knob);
        cold.stats().assert_healthy();
        assert_eq!((cold.shim_lines(), &cold.stdout), (vec![], &off.stdout));
        let bytes = cold.stats().number("/memory/prefetch/bytes");
        let size = std::fs::metadata(&model.file).unwrap().len();
        assert!(!is_cold || bytes > size / 4, "{bytes} of {size}\n{}", cold.stats());
        assert_eq!(cold.stats().number("/memory/prefetch/released"), 0);
    }
    std::fs::read(&model.file).unwrap();
    let warm = model.generation(Program::engaged(llama("llama-completion"))).knob("PREFETCH", "pages").run().success();
    assert_eq!(warm.stats().number("/memory/prefetch/bytes"), 0, "{}", warm.stats());
    assert_eq!(warm.stdout, off.stdout);
}

#[test]
fn a_model_larger_than_memory_stays_within_it_and_answers_the_same() {
    let model = Cold::new(&synthetic_q4_k());
    let free = model.run("off");
    let Some(group) = MemoryGroup::new(LITTLE_MEMORY) else {
        println!("no control group can be made here; the page cache has no other limit");
        return;
    };
    let is_cold = model.drop_pages();
    let inside = Refusal::new().unprivileged().in_group(&group);
    let run = model.generation(Program::engaged(llama("llama-completion"))).knob("PREFETCH", "pages");
    let run = run.inside(&inside).run().success();
    run.stats().assert_healthy();
    assert_eq!(run.stdout, free.stdout);
    if is_cold {
        let stats = run.stats();
        assert_eq!(stats.events("model_larger_than_memory"), 1, "{stats}");
        assert!(stats.number("/memory/prefetch/bytes") > 0, "{stats}");
        assert!(stats.number("/memory/prefetch/released") > 0, "{stats}");
        assert_eq!(stats.number("/memory/weights/wanted"), 0, "nothing is copied to pages of our own\n{stats}");
    }
}

#[test]
fn mappings_that_are_refused_end_the_reading_and_nothing_else() {
    let model = Cold::new(&gemma());
    let off = model.run("off");
    let is_cold = model.drop_pages();
    // MAP_SHARED | MAP_FIXED, with or without MAP_POPULATE, of 8 MiB: what only the reader maps.
    let rules = ["mmap:ENOMEM:arg1=0x800000:arg3=0x11", "mmap:ENOMEM:arg1=0x800000:arg3=0x8011"];
    let refusal = Refusal::new().unprivileged().calls(&rules);
    let run = model.generation(Program::engaged(llama("llama-completion"))).knob("PREFETCH", "pages");
    let run = run.inside(&refusal).run().success();
    assert_eq!(run.stdout, off.stdout);
    assert_eq!(run.shim_lines(), [""; 0]);
    assert!(!is_cold || run.stats().events("read_ahead_refused") == 1, "{}", run.stats());
}
