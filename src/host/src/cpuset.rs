//! Sets of CPUs, and the affinity of threads.

use std::fmt;
use std::io;

/// CPUs that a [`CpuSet`] can hold: those of `cpu_set_t`. On a machine with more, the system calls
/// here fail with `EINVAL` and nothing is pinned.
pub const MAX_CPUS: usize = 1024;

/// A set of CPU numbers below [`MAX_CPUS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuSet([u64; MAX_CPUS / 64]);

impl CpuSet {
    /// No CPU.
    pub const EMPTY: Self = Self([0; MAX_CPUS / 64]);

    /// Reads a list of the kernel's format, `0-7,64-71`; an empty text is an empty set. `None` when it
    /// is not such a list, or names a CPU that a set cannot hold.
    #[must_use]
    pub fn parse(list: &str) -> Option<Self> {
        parse_list(list).map(Self::from_iter)
    }

    /// Adds a CPU; one that a set cannot hold is left out.
    pub fn insert(&mut self, cpu: usize) {
        if let Some(word) = self.0.get_mut(cpu / 64) {
            *word |= 1 << (cpu % 64);
        }
    }

    /// Whether `cpu` is in the set.
    #[must_use]
    pub fn contains(&self, cpu: usize) -> bool {
        self.0.get(cpu / 64).is_some_and(|word| word >> (cpu % 64) & 1 == 1)
    }

    /// The CPUs in both sets.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] & other.0[i]))
    }

    /// The CPUs of either.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] | other.0[i]))
    }

    /// How many CPUs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::EMPTY
    }

    /// The CPUs, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..MAX_CPUS).filter(|&cpu| self.contains(cpu))
    }
}

impl FromIterator<usize> for CpuSet {
    fn from_iter<I: IntoIterator<Item = usize>>(cpus: I) -> Self {
        let mut set = Self::EMPTY;
        cpus.into_iter().for_each(|cpu| set.insert(cpu));
        set
    }
}

impl fmt::Display for CpuSet {
    /// As the kernel writes it: `0-7,64-71`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        for first in self.iter().filter(|&cpu| cpu == 0 || !self.contains(cpu - 1)) {
            let last = (first..MAX_CPUS).take_while(|&cpu| self.contains(cpu)).last().unwrap_or(first);
            write!(f, "{comma}{first}")?;
            if last > first {
                write!(f, "-{last}")?;
            }
            comma = ",";
        }
        Ok(())
    }
}

/// The numbers of a list such as `8,0-3`, in the order given; an empty text is an empty list. `None`
/// when it is not such a list, or names a number from [`MAX_CPUS`] on.
#[must_use]
pub fn parse_list(list: &str) -> Option<Vec<usize>> {
    let list = list.trim();
    let mut numbers = Vec::new();
    if list.is_empty() {
        return Some(numbers);
    }
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<usize>().ok())?;
        let (first, last) = (number(first)?, number(last)?);
        if first > last || last >= MAX_CPUS {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

/// The CPUs that the calling thread may run on.
///
/// # Errors
/// That of sched_getaffinity: `EPERM` or `ENOSYS` under a filter, `EINVAL` on a machine with more than
/// [`MAX_CPUS`] CPUs.
pub fn affinity() -> io::Result<CpuSet> {
    affinity_of(0)
}

/// The same of thread `tid` of any process; 0 is the calling one.
fn affinity_of(tid: libc::pid_t) -> io::Result<CpuSet> {
    let mut set = CpuSet::EMPTY;
    // SAFETY: the kernel writes at most the size given, into a local of that size.
    let got = unsafe { libc::syscall(libc::SYS_sched_getaffinity, tid, size_of::<CpuSet>(), set.0.as_mut_ptr()) };
    if got < 0 { Err(io::Error::last_os_error()) } else { Ok(set) }
}

/// The CPUs on which any thread of this process may run: what the process was given, also where it has put some of its
/// threads on CPUs of their own. Without procfs those of the calling thread. `None` when the kernel does not tell.
#[must_use]
pub fn affinity_of_all_threads() -> Option<CpuSet> {
    let mut all = affinity().ok()?;
    for entry in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let tid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        // A thread may have ended meanwhile.
        if let Some(set) = tid.and_then(|tid| affinity_of(tid).ok()) {
            all = all.or(&set);
        }
    }
    Some(all)
}

/// Lets the calling thread run on these CPUs only.
///
/// # Errors
/// That of sched_setaffinity: `EINVAL` when no CPU of the set is allowed by the cpuset, `EPERM` or
/// `ENOSYS` under a filter.
pub fn set_affinity(set: &CpuSet) -> io::Result<()> {
    // The raw system call, as glibc's function could be hooked by another preloaded library.
    // SAFETY: the kernel reads the size given from a set of that size.
    let got = unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of::<CpuSet>(), set.0.as_ptr()) };
    if got < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The NUMA node of the CPU that the calling thread runs on now.
///
/// # Errors
/// That of getcpu: `ENOSYS` or `EPERM` under a filter.
pub fn current_node() -> io::Result<usize> {
    let (mut cpu, mut node) = (0u32, 0u32);
    // SAFETY: the kernel writes two integers; the third argument is unused since Linux 2.6.24.
    let got =
        unsafe { libc::syscall(libc::SYS_getcpu, &raw mut cpu, &raw mut node, std::ptr::null_mut::<libc::c_void>()) };
    if got < 0 { Err(io::Error::last_os_error()) } else { Ok(node as usize) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written_as_the_kernel_does() {
        for (text, cpus, shown) in [
            ("0-3\n", vec![0, 1, 2, 3], "0-3"),
            ("5", vec![5], "5"),
            ("64-66,2,0", vec![0, 2, 64, 65, 66], "0,2,64-66"),
            ("1023", vec![1023], "1023"),
            ("\n", vec![], ""),
        ] {
            let set = CpuSet::parse(text).unwrap();
            assert_eq!(set.iter().collect::<Vec<_>>(), cpus);
            assert_eq!(set.len(), cpus.len());
            assert_eq!(set.is_empty(), cpus.is_empty());
            assert_eq!(set.to_string(), shown);
        }
        for bad in ["x", "1-", "-1", "3-1", "0,,1", "1024", "+1", "0 1", "99999999999999999999"] {
            assert_eq!(CpuSet::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_order_of_a_list_is_kept() {
        assert_eq!(parse_list("8,0-2"), Some(vec![8, 0, 1, 2]));
    }

    #[test]
    fn what_two_sets_share() {
        let set = |list| CpuSet::parse(list).unwrap();
        assert_eq!(set("0-7,64-71").and(&set("4-66")), set("4-7,64-66"));
    }

    #[test]
    fn a_thread_is_moved_and_moved_back() {
        std::thread::spawn(|| {
            let before = affinity().unwrap();
            let one = before.iter().take(1).collect();
            set_affinity(&one).unwrap();
            assert_eq!(affinity().unwrap(), one);
            set_affinity(&before).unwrap();
            assert_eq!(affinity().unwrap(), before);
            assert!(set_affinity(&CpuSet::EMPTY).is_err());
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_pinned_thread_does_not_make_the_process_smaller() {
        let before = affinity_of_all_threads().unwrap();
        std::thread::spawn(move || {
            set_affinity(&before.iter().take(1).collect()).unwrap();
            assert_eq!(affinity_of_all_threads(), Some(before));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn this_thread_runs_on_a_node() {
        assert!(current_node().unwrap() < MAX_CPUS);
    }
}
