//! On which NUMA node every page of a process lies, seen from outside and without touching it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::PREFIX;

/// A mapping of a process as it was at one moment.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    /// First address.
    pub start: usize,
    /// First address after it.
    pub end: usize,
    /// The file, or the kernel's name in brackets, or empty.
    pub path: String,
    /// Memory policy as numa_maps writes it, e.g. `default` or `interleave:0-1`.
    pub policy: String,
    /// Size in KiB of what `nodes` counts: 4, or the size of the mapping's hugetlb pages.
    pub page_kib: usize,
    /// How much of it is on transparent huge pages of anonymous memory, in KiB.
    pub thp_kib: usize,
    /// One character for each page: the digit of its node, `.` where there is none, `?` for a refusal.
    pub nodes: String,
}

impl Mapping {
    /// Whether every page is there.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.nodes.bytes().all(|c| c.is_ascii_digit())
    }

    /// How many pages are on each node, and how many are absent (`.`).
    #[must_use]
    pub fn count(&self) -> BTreeMap<char, usize> {
        let mut counts = BTreeMap::new();
        for node in self.nodes.chars() {
            *counts.entry(node).or_default() += 1;
        }
        counts
    }

    /// The nodes in address order with how many pages in a row are there: `0x12 1x12`.
    #[must_use]
    pub fn runs(&self) -> String {
        let runs = self.nodes.as_bytes().chunk_by(|a, b| a == b);
        runs.map(|run| format!("{}x{}", char::from(run[0]), run.len())).collect::<Vec<_>>().join(" ")
    }

    /// Whether it maps this file, which may be named by a link.
    #[must_use]
    pub fn is_of(&self, file: &Path) -> bool {
        file.canonicalize().is_ok_and(|real| real == Path::new(&self.path))
    }
}

/// With a summary of the nodes, which are thousands.
impl std::fmt::Debug for Mapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { start, end, path, policy, page_kib, thp_kib, .. } = self;
        write!(f, "{start:x}-{end:x} {path} {policy}, pages of {page_kib} KiB by node {:?}", self.count())?;
        write!(f, ", {thp_kib} KiB on transparent huge pages")
    }
}

/// Where copies of mapped weights lie, as a program with `ZEN5TURBO_LOG=debug` says on stderr: the address of the first
/// page of each mapping that has a copy, and that of its copy.
#[must_use]
pub fn copies(stderr: &str) -> Vec<(usize, usize)> {
    let address = |text: &str| usize::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    let of_line = |line: &str| {
        let rest = line.strip_prefix(PREFIX)?.strip_prefix("copies of what is mapped at ")?;
        let (of, at) = rest.split_once(" lie at ")?;
        Some((address(of)?, address(at)?))
    };
    stderr.lines().filter_map(of_line).collect()
}

/// Address and bytes, in whole MiB, of the large buffers that a program with `ZEN5TURBO_LOG=debug` got from the shim.
#[must_use]
pub fn buffers(stderr: &str) -> Vec<(usize, usize)> {
    let of_line = |line: &str| {
        let (mib, rest) = line.strip_prefix(PREFIX)?.strip_prefix("a buffer of ")?.split_once(" MiB on ")?;
        let (_, at) = rest.split_once(" pages at 0x")?;
        Some((usize::from_str_radix(at, 16).ok()?, mib.parse::<usize>().ok()? << 20))
    };
    stderr.lines().filter_map(of_line).collect()
}

/// The mappings of a process at one moment, those of at least some size.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    /// Milliseconds since the process was started.
    pub ms: u64,
    /// In the order of their addresses.
    pub mappings: Vec<Mapping>,
}

impl Snapshot {
    /// What process `pid` has mapped in pieces of at least `min` bytes. `pid` is of the same user, or
    /// the caller is root. An error when the process is gone.
    pub fn take(pid: u32, min: usize, ms: u64) -> io::Result<Self> {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let policies = std::fs::read_to_string(proc.join("numa_maps")).unwrap_or_default();
        let policies: BTreeMap<usize, &str> = policies.lines().filter_map(policy).collect();
        let mut mappings = Vec::new();
        for mut mapping in parse_smaps(&std::fs::read_to_string(proc.join("smaps"))?) {
            if mapping.end - mapping.start < min {
                continue;
            }
            mapping.policy = policies.get(&mapping.start).copied().unwrap_or_default().to_owned();
            mapping.nodes = nodes(pid, mapping.start, mapping.end, mapping.page_kib * 1024)?;
            mappings.push(mapping);
        }
        Ok(Self { ms, mappings })
    }

    /// Whether the page at an address lies on some node.
    #[must_use]
    pub fn has(&self, at: usize) -> bool {
        let mapping = self.mappings.iter().find(|mapping| (mapping.start..mapping.end).contains(&at));
        mapping.is_some_and(|m| m.nodes.as_bytes()[(at - m.start) / (m.page_kib * 1024)].is_ascii_digit())
    }

    /// Reads a file that the program page-nodes has written, one snapshot a line.
    #[must_use]
    pub fn read_all(file: &Path) -> Vec<Self> {
        let text = std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        text.lines().map(|line| serde_json::from_str(line).expect("page-nodes writes snapshots")).collect()
    }
}

/// How many pages of 4 KiB of a file are in the page cache, of how many; the file is not read for it.
pub fn cached(file: &Path) -> io::Result<(usize, usize)> {
    let file = std::fs::File::open(file)?;
    let len = usize::try_from(file.metadata()?.len()).expect("64 bits");
    let mut seen = vec![0_u8; len.div_ceil(4096)];
    // SAFETY: a mapping of its own, which nobody touches; mincore writes one byte for each of its pages.
    let failed = unsafe {
        let at = libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0);
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let failed = libc::mincore(at, len, seen.as_mut_ptr());
        libc::munmap(at, len);
        failed
    };
    if failed != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((seen.iter().filter(|&&byte| byte & 1 != 0).count(), seen.len()))
}

/// Start and policy of a line of numa_maps: `7f00 interleave:0-1 anon=4 ...`.
fn policy(line: &str) -> Option<(usize, &str)> {
    let mut words = line.split(' ');
    Some((usize::from_str_radix(words.next()?, 16).ok()?, words.next()?))
}

/// The mappings of an smaps file, without policy and nodes.
fn parse_smaps(text: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in text.lines() {
        if let Some(mapping) = header(line) {
            mappings.push(mapping);
        } else if let (Some(mapping), Some((name, value))) = (mappings.last_mut(), line.split_once(':')) {
            let kib = value.trim().strip_suffix(" kB").and_then(|n| n.parse().ok());
            match (name, kib) {
                ("KernelPageSize", Some(kib)) => mapping.page_kib = kib,
                ("AnonHugePages", Some(kib)) => mapping.thp_kib = kib,
                _ => {}
            }
        }
    }
    mappings
}

/// The line that begins a mapping: `START-END rw-p OFFSET DEVICE INODE   PATH`.
fn header(line: &str) -> Option<Mapping> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    let path = rest.splitn(5, ' ').nth(4).unwrap_or_default().trim_start().to_owned();
    Some(Mapping { start, end, path, policy: String::new(), page_kib: 4, thp_kib: 0, nodes: String::new() })
}

/// The node of every page of a range, as [`Mapping::nodes`].
fn nodes(pid: u32, start: usize, end: usize, page: usize) -> io::Result<String> {
    let pages: Vec<*mut libc::c_void> = (start..end).step_by(page).map(|at| at as *mut libc::c_void).collect();
    let mut status = vec![0_i32; pages.len()];
    // SAFETY: both arrays have `pages.len()` elements; without target nodes the kernel only looks the
    // addresses up in the other process and writes to `status`.
    let failed = unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            pid as libc::pid_t,
            pages.len(),
            pages.as_ptr(),
            std::ptr::null::<i32>(),
            status.as_mut_ptr(),
            0,
        )
    };
    if failed < 0 {
        return Err(io::Error::last_os_error());
    }
    let letter = |status: i32| match status {
        0..=9 => char::from(b'0' + status as u8),
        // No page, and the kernel's page of zeroes.
        _ if status == -libc::ENOENT || status == -libc::EFAULT => '.',
        _ => '?',
    };
    Ok(status.into_iter().map(letter).collect())
}
