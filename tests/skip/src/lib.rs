//! Tests that need what not every machine has: each says what it skips, is counted, and fails where the thing is demanded.
//!
//! A crate of its own, without dependencies, because unit tests in `src` and whole-program tests in `tests` both use it.
//!
//! - `ZEN5TURBO_SKIPPED=FILE`: each skip adds the line `PROGRAM::TEST: REASON` to this file. Cargo hides the output of a
//!   test that passes, so `scripts/test.sh` sets the variable and prints the lines at its end.
//! - `ZEN5TURBO_REQUIRE=avx512,cgroup,...`: the machine has these things (the names are those of [`Need::name`]); a test
//!   that would skip for one of them fails instead. `all` stands for every name but `old-cpu`.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write;

/// Names the file that gets one line for each skip.
const FILE: &str = "ZEN5TURBO_SKIPPED";

/// Lists what this machine has.
const REQUIRE: &str = "ZEN5TURBO_REQUIRE";

/// The word for all of them.
const ALL: &str = "all";

/// What a test may need and a machine may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A CPU with AVX2, FMA and F16C.
    Avx2,
    /// A CPU with AVX-512 VNNI.
    Avx512,
    /// A CPU without AVX-512 VNNI.
    OldCpu,
    /// Two CPUs that this process may use.
    Cpus,
    /// Transparent huge pages that a process can ask for.
    HugePages,
    /// A kernel and a file system that keep large files in huge pages of the page cache.
    FileHugePages,
    /// System calls about NUMA nodes, which container filters often refuse.
    Numa,
    /// A file system whose files can leave the page cache.
    PageCache,
    /// Control groups that this process can make, for memory and CPU time.
    Cgroup,
    /// A hard limit of locked memory that is high enough.
    Memlock,
    /// A `vm.max_map_count` that a test can reach.
    MapCount,
    /// The kernel's account of who waits for memory, `/proc/pressure`.
    Pressure,
    /// Mounts in a namespace of a test's own.
    Mount,
    /// The rights of root.
    Root,
    /// Containers, run by podman.
    Containers,
    /// A root of Debian that debootstrap can make.
    Debian,
    /// Node.js and npm.
    Node,
}

impl Need {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::Avx2,
        Self::Avx512,
        Self::OldCpu,
        Self::Cpus,
        Self::HugePages,
        Self::FileHugePages,
        Self::Numa,
        Self::PageCache,
        Self::Cgroup,
        Self::Memlock,
        Self::MapCount,
        Self::Pressure,
        Self::Mount,
        Self::Root,
        Self::Containers,
        Self::Debian,
        Self::Node,
    ];

    /// Its name in `ZEN5TURBO_REQUIRE`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::OldCpu => "old-cpu",
            Self::Cpus => "cpus",
            Self::HugePages => "hugepages",
            Self::FileHugePages => "file-hugepages",
            Self::Numa => "numa",
            Self::PageCache => "page-cache",
            Self::Cgroup => "cgroup",
            Self::Memlock => "memlock",
            Self::MapCount => "map-count",
            Self::Pressure => "pressure",
            Self::Mount => "mount",
            Self::Root => "root",
            Self::Containers => "containers",
            Self::Debian => "debian",
            Self::Node => "node",
        }
    }

    /// Whether a value of `ZEN5TURBO_REQUIRE` demands it.
    fn is_in(self, list: &str) -> bool {
        words(list).any(|word| word == self.name() || word == ALL && self != Self::OldCpu)
    }
}

fn words(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|word| !word.is_empty())
}

/// The words of a value of `ZEN5TURBO_REQUIRE` that name nothing.
fn unknown(list: &str) -> Vec<&str> {
    words(list).filter(|word| *word != ALL && Need::ALL.iter().all(|need| need.name() != *word)).collect()
}

/// A misspelt name would demand nothing.
fn assert_known(list: &str) {
    let names = Need::ALL.map(Need::name).join(", ");
    assert!(unknown(list).is_empty(), "{REQUIRE}={list}: expected {ALL} or some of {names}");
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

/// Says that the running test, or a part of it, is skipped because the machine lacks `need`. The caller returns, or goes
/// on with the other parts.
///
/// # Panics
/// Where `ZEN5TURBO_REQUIRE` demands the need, or holds a word that names none: this fails the test.
pub fn skip(need: Need, reason: impl Display) {
    let test = test_name();
    let demanded = variable(REQUIRE);
    assert_known(&demanded);
    assert!(!need.is_in(&demanded), "{test} needs {}, which {REQUIRE}={demanded} demands: {reason}", need.name());
    println!("skipped: {test}: {reason}");
    let file = variable(FILE);
    if !file.is_empty() {
        // One write, so that programs that run at the same time do not mix their lines.
        let line = format!("{test}: {}\n", reason.to_string().replace('\n', " "));
        let written =
            OpenOptions::new().append(true).create(true).open(&file).and_then(|mut f| f.write_all(line.as_bytes()));
        written.unwrap_or_else(|e| panic!("{FILE}={file}: {e}"));
    }
}

/// `PROGRAM::TEST`: the test harness names the thread of each test after it.
fn test_name() -> String {
    let program = std::env::current_exe().ok();
    let stem =
        program.as_ref().and_then(|path| path.file_stem()).map(|stem| stem.to_string_lossy()).unwrap_or_default();
    // Cargo appends a hash: `limits-6faf164c5fe8bbdf`.
    let program = stem.rsplit_once('-').map_or(&*stem, |(name, _)| name);
    let thread = std::thread::current();
    format!("{program}::{}", thread.name().unwrap_or("a thread of a test"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_demanded_of_this_machine_is_known() {
        assert_known(&variable(REQUIRE));
    }

    #[test]
    fn lists_are_read() {
        assert!(Need::Avx512.is_in("avx512") && Need::Avx512.is_in("cgroup, avx512") && Need::Root.is_in("all"));
        assert!(!Need::Avx512.is_in("") && !Need::Avx512.is_in("avx5") && !Need::OldCpu.is_in("all"));
        assert!(Need::OldCpu.is_in("all,old-cpu"));
        assert_eq!(unknown("all,cgroup,kgroup,"), ["kgroup"]);
    }

    #[test]
    fn names_are_unique() {
        for (i, need) in Need::ALL.into_iter().enumerate() {
            assert!(Need::ALL[..i].iter().all(|other| other.name() != need.name()), "{need:?}");
        }
    }

    #[test]
    fn a_test_knows_its_name() {
        assert_eq!(test_name(), "zen5turbo_skip::tests::a_test_knows_its_name");
    }
}
