//! Where memory lies: policies and pages of NUMA nodes.
//!
//! Raw system calls, without libnuma. Under Docker's default seccomp filter mbind and get_mempolicy
//! fail with `EPERM` and so does move_pages; a kernel without NUMA answers `ENOSYS`. Both are normal.

use std::io;

use libc::c_void;

use crate::cpuset::parse_list;
use crate::proc::read_text;

/// Nodes that a [`NodeMask`] can hold. The largest x86 servers have 32 (every L3 a node, two sockets).
pub const MAX_NODES: usize = 64;

/// Words of a mask that is large enough for every kernel (`MAX_NUMNODES` is at most 1024).
const KERNEL_WORDS: usize = 1024 / 64;

// linux/mempolicy.h
const MPOL_DEFAULT: i32 = 0;
const MPOL_PREFERRED: i32 = 1;
const MPOL_INTERLEAVE: i32 = 3;
const MPOL_F_NODE: u64 = 1;
const MPOL_F_ADDR: u64 = 2;

/// A set of NUMA nodes below [`MAX_NODES`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeMask(u64);

impl NodeMask {
    /// Reads `Mems_allowed_list` of a `/proc/PID/status`, or another list of the kernel's format.
    /// Nodes that a mask cannot hold are left out; `None` when it is not such a list.
    #[must_use]
    pub fn parse(list: &str) -> Option<Self> {
        parse_list(list).map(Self::from_iter)
    }

    /// Whether `node` is in the set.
    #[must_use]
    pub fn contains(self, node: usize) -> bool {
        node < MAX_NODES && self.0 >> node & 1 == 1
    }

    /// How many nodes.
    #[must_use]
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<usize> for NodeMask {
    fn from_iter<I: IntoIterator<Item = usize>>(nodes: I) -> Self {
        Self(nodes.into_iter().filter(|&node| node < MAX_NODES).fold(0, |mask, node| mask | 1 << node))
    }
}

/// Where the pages of a range are to lie once they are touched. There is no binding policy: with a
/// full node it ends in the out-of-memory killer, while a preferred node only loses locality.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Where the thread runs that touches them first.
    Default,
    /// Page after page over these nodes. The kernel counts pages from the place of the range in its
    /// mapping, so a mapping of a single page always gets the same node.
    Interleave(NodeMask),
    /// On this node while it has room.
    Preferred(usize),
}

/// Sets the policy of the pages of `start..start + len` that are not there yet. Pages that are stay
/// where they are.
///
/// # Errors
/// `EINVAL` when `start` is not on a page boundary or a node does not exist or is not allowed,
/// `EFAULT` when the range is not mapped, `ENOMEM`, and `EPERM` or `ENOSYS` where it is refused.
pub fn apply(start: usize, len: usize, policy: Policy) -> io::Result<()> {
    bind(start, len, policy, 0)
}

/// The same, and moves the pages that are there already, as far as that is possible.
///
/// # Errors
/// As [`apply`].
pub fn move_to(start: usize, len: usize, policy: Policy) -> io::Result<()> {
    const MPOL_MF_MOVE: u64 = 2;
    bind(start, len, policy, MPOL_MF_MOVE)
}

fn bind(start: usize, len: usize, policy: Policy, flags: u64) -> io::Result<()> {
    let (mode, mask) = kernel_words(policy)?;
    let (nodes, bits) = pointer(&mask);
    // SAFETY: neither a policy nor a move changes the contents of memory; the mask outlives the call.
    let got = unsafe { libc::syscall(libc::SYS_mbind, start, len, mode, nodes, bits, flags) };
    if got < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets the policy of the calling thread: for the pages that it touches first, in memory that has no
/// policy of its own, and for the threads that it starts. Unlike [`apply`] it leaves a mapping in one piece.
///
/// # Errors
/// `EINVAL` when a node does not exist or is not allowed, `EPERM` or `ENOSYS` where it is refused.
pub fn set_thread_policy(policy: Policy) -> io::Result<()> {
    let (mode, mask) = kernel_words(policy)?;
    let (nodes, bits) = pointer(&mask);
    // SAFETY: the mask outlives the call.
    let got = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, nodes, bits) };
    if got < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn kernel_words(policy: Policy) -> io::Result<(i32, NodeMask)> {
    Ok(match policy {
        Policy::Default => (MPOL_DEFAULT, NodeMask::default()),
        Policy::Interleave(mask) => (MPOL_INTERLEAVE, mask),
        Policy::Preferred(node) if node < MAX_NODES => (MPOL_PREFERRED, NodeMask::from_iter([node])),
        Policy::Preferred(_) => return Err(io::ErrorKind::InvalidInput.into()),
    })
}

/// The mask as the kernel takes it: where, and how many bits, of which it takes one off.
fn pointer(mask: &NodeMask) -> (*const u64, usize) {
    if mask.is_empty() { (std::ptr::null(), 0) } else { (&raw const mask.0, MAX_NODES + 1) }
}

/// Whether the calling thread has the default policy: nobody, such as numactl, has set another one.
///
/// # Errors
/// `EPERM` or `ENOSYS` where it is refused.
pub fn thread_policy_is_default() -> io::Result<bool> {
    let (mut mode, mut mask) = (0i32, [0u64; KERNEL_WORDS]);
    // SAFETY: the kernel writes one integer and a mask of the size given; without an address it reads
    // no memory.
    let got = unsafe { get_mempolicy(&mut mode, Some(&mut mask), 0, 0) };
    got.map(|()| mode == MPOL_DEFAULT)
}

/// The node that holds the page at `address`, which is read for it and so must be mapped.
///
/// # Errors
/// `EFAULT` when it is not mapped, `EPERM` or `ENOSYS` where it is refused.
pub fn node_of(address: usize) -> io::Result<usize> {
    let mut node = 0i32;
    // SAFETY: the kernel writes one integer and reads the page at `address` only if it can.
    unsafe { get_mempolicy(&mut node, None, address, MPOL_F_NODE | MPOL_F_ADDR) }?;
    Ok(node as usize)
}

unsafe fn get_mempolicy(
    mode: &mut i32,
    mask: Option<&mut [u64; KERNEL_WORDS]>,
    address: usize,
    flags: u64,
) -> io::Result<()> {
    let (mask, bits) = mask.map_or((std::ptr::null_mut(), 0), |m| (m.as_mut_ptr(), KERNEL_WORDS * 64));
    // SAFETY: by the callers.
    let got = unsafe { libc::syscall(libc::SYS_get_mempolicy, &raw mut *mode, mask, bits, address, flags) };
    if got < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The nodes of the pages at these addresses; `None` for a page that is not there. Touches nothing.
///
/// # Errors
/// `EPERM` or `ENOSYS` where move_pages is refused.
pub fn nodes_of(addresses: &[usize]) -> io::Result<Vec<Option<usize>>> {
    let mut status = vec![0i32; addresses.len()];
    let pages: *const *const c_void = addresses.as_ptr().cast();
    let nowhere = std::ptr::null::<i32>();
    // SAFETY: without target nodes the call only writes `status`, of the length given.
    let got =
        unsafe { libc::syscall(libc::SYS_move_pages, 0, addresses.len(), pages, nowhere, status.as_mut_ptr(), 0) };
    if got < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(status.into_iter().map(|node| usize::try_from(node).ok()).collect())
}

/// The NUMA nodes that this process may allocate on; `None` when procfs does not tell.
#[must_use]
pub fn allowed_nodes() -> Option<NodeMask> {
    allowed_in(&read_text("/proc/self/status").ok()?)
}

pub(crate) fn allowed_in(status: &str) -> Option<NodeMask> {
    NodeMask::parse(status.lines().find_map(|line| line.strip_prefix("Mems_allowed_list:"))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zen5turbo_skip::{Need, skip};

    /// An anonymous page, not touched.
    struct Page(usize);

    impl Page {
        fn new() -> Self {
            let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            // SAFETY: a new mapping.
            let p = unsafe { libc::mmap(std::ptr::null_mut(), 4096, prot, flags, -1, 0) };
            assert_ne!(p, libc::MAP_FAILED);
            Self(p as usize)
        }
    }

    impl Drop for Page {
        fn drop(&mut self) {
            // SAFETY: the mapping is its own.
            unsafe { libc::munmap(self.0 as *mut c_void, 4096) };
        }
    }

    #[test]
    fn masks_are_read_from_status() {
        let status = "Name:\tx\nMems_allowed:\t00000000,00000003\nMems_allowed_list:\t0-1,5\n";
        assert_eq!(allowed_in(status), Some([0, 1, 5].into_iter().collect()));
        assert_eq!(allowed_in("Name:\tx\n"), None);
        let mask = NodeMask::parse("2,70").unwrap();
        assert!(mask.contains(2) && !mask.contains(70) && mask.len() == 1 && !mask.is_empty());
    }

    /// What every machine answers: success, or a refusal, but never a wrong node.
    #[test]
    fn a_page_lies_where_its_policy_says() {
        let Some(node) = allowed_nodes().and_then(|mask| (0..MAX_NODES).find(|&n| mask.contains(n))) else {
            return skip(Need::Numa, "procfs does not tell the NUMA nodes");
        };
        for policy in [Policy::Default, Policy::Preferred(node), Policy::Interleave(NodeMask::from_iter([node]))] {
            let page = Page::new();
            if let Err(e) = apply(page.0, 4096, policy) {
                return skip(Need::Numa, format!("mbind: {e}"));
            }
            assert_eq!(nodes_of(&[page.0]).unwrap(), [None]);
            // SAFETY: a mapped, writable page.
            unsafe { (page.0 as *mut u8).write_volatile(1) };
            let place = node_of(page.0).unwrap();
            assert_eq!(nodes_of(&[page.0]).unwrap(), [Some(place)]);
            assert!(policy == Policy::Default || place == node);
        }
        assert!(thread_policy_is_default().unwrap());
    }

    #[test]
    fn the_policy_of_a_thread_is_its_own() {
        std::thread::spawn(|| {
            let here = crate::cpuset::current_node().unwrap();
            if let Err(e) = set_thread_policy(Policy::Preferred(here)) {
                return skip(Need::Numa, format!("set_mempolicy: {e}"));
            }
            assert!(!thread_policy_is_default().unwrap());
            set_thread_policy(Policy::Default).unwrap();
            assert!(thread_policy_is_default().unwrap());
        })
        .join()
        .unwrap();
    }

    #[test]
    fn what_cannot_be_is_an_error() {
        let page = Page::new();
        assert!(apply(page.0, 4096, Policy::Preferred(MAX_NODES)).is_err());
        assert!(apply(page.0, 4096, Policy::Preferred(MAX_NODES - 1)).is_err());
        assert!(apply(page.0 + 1, 4096, Policy::Default).is_err());
        assert!(node_of(0).is_err());
    }
}
