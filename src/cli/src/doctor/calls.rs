//! The system calls that the shim makes, tried out, and what decides on them: seccomp
//! filters and capabilities. A program started from here inherits both.
//!
//! Each call is tried in a child of its own, since a filter may kill at it.

use std::io;

use zen5turbo_host::cpuset;
use zen5turbo_host::memory::map::{HUGE_PAGE, Region};
use zen5turbo_host::memory::{Pages, Thp};
use zen5turbo_host::numa::{self, Policy};

use super::check::Check;
use crate::root::{Root, field};

/// What came of a call.
#[derive(Debug)]
enum Answer {
    Permitted,
    Refused(io::Error),
    /// By this signal.
    Killed(i32),
}

/// A call, what it is for, and what came of it.
struct Tried {
    call: &'static str,
    purpose: &'static str,
    /// Whether it is of use only with several NUMA nodes.
    nodes: bool,
    answer: Answer,
}

/// Seccomp and capabilities by their files, the calls by trying them.
pub fn checks(root: &Root, nodes: usize) -> Vec<Check> {
    let mut checks = vec![seccomp(root), capabilities(root), thp_of_process(Thp::detect())];
    checks.extend(attempts().iter().map(|tried| judge(tried, nodes)));
    checks
}

/// Whether the effective capabilities of a `/proc/PID/status` have this one.
pub fn capability(status: &str, number: u32) -> bool {
    field(status, "CapEff").and_then(|mask| u64::from_str_radix(&mask, 16).ok()).is_some_and(|m| m >> number & 1 == 1)
}

fn seccomp(root: &Root) -> Check {
    const ID: &str = "seccomp";
    match root.field("proc/self/status", "Seccomp").as_deref() {
        Some("0") => Check::ok(ID, "no filter"),
        Some("2") => Check::ok(
            ID,
            "a filter, which may kill: the shim makes only calls that every program makes, and those that were asked for; \
             the calls below tell what it does",
        ),
        Some(mode) => {
            let found = format!("mode {mode}");
            Check::limited(ID, found, "no filter, or one that lets the calls below pass", "use another seccomp profile")
        }
        None => Check::ok(ID, "not told"),
    }
}

/// Those that matter, linux/capability.h.
const CAPABILITIES: [(u32, &str); 2] = [(23, "CAP_SYS_NICE"), (14, "CAP_IPC_LOCK")];

fn capabilities(root: &Root) -> Check {
    let status = root.read("proc/self/status").unwrap_or_default();
    let list = CAPABILITIES.map(|(n, name)| format!("{name} {}", if capability(&status, n) { "yes" } else { "no" }));
    Check::ok("capabilities", list.join(", "))
}

fn thp_of_process(thp: Thp) -> Check {
    const ID: &str = "call:prctl_thp";
    match thp {
        Thp::OffForProcess => Check::limited(
            ID,
            "transparent huge pages are switched off for this process and what it starts (PR_SET_THP_DISABLE)",
            "not switched off",
            "start from another shell or service manager",
        ),
        _ => Check::ok(ID, "transparent huge pages are not switched off for this process"),
    }
}

/// Ends a child whose call failed without an error of the kernel.
const NO_NUMBER: i32 = 255;

/// Tries a call in a child, which inherits filters and rights, and ends with the number of the error.
fn probe(call: impl FnOnce() -> io::Result<()>) -> Answer {
    // SAFETY: this process has one thread here; the child only makes the call and ends, without handlers.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let end = call().map_or_else(|error| error.raw_os_error().unwrap_or(NO_NUMBER), |()| 0);
        // SAFETY: no preconditions.
        unsafe { libc::_exit(end) };
    }
    let mut status = 0;
    loop {
        // SAFETY: a child of ours, and a local.
        if child < 0 || unsafe { libc::waitpid(child, &raw mut status, 0) } < 0 {
            let error = io::Error::last_os_error();
            if child > 0 && error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Answer::Refused(error);
        }
        break;
    }
    match (libc::WIFSIGNALED(status), libc::WEXITSTATUS(status)) {
        (true, _) => Answer::Killed(libc::WTERMSIG(status)),
        (false, 0) => Answer::Permitted,
        (false, NO_NUMBER) => Answer::Refused(io::ErrorKind::Unsupported.into()),
        (false, number) => Answer::Refused(io::Error::from_raw_os_error(number)),
    }
}

fn attempts() -> Vec<Tried> {
    let region = || Region::new(HUGE_PAGE, Pages::Transparent);
    let mut tried = Vec::new();
    let mut add = |call, purpose, nodes, answer| tried.push(Tried { call, purpose, nodes, answer });
    add("mmap", "room for copies of weights", false, probe(|| region().map(drop)));
    add("madvise_populate", "a missing page is an error instead of a signal", false, probe(|| region()?.populate()));
    let bind = || {
        let (region, here) = (region()?, cpuset::current_node().unwrap_or(0));
        numa::apply(region.range().start, region.range().len(), Policy::Preferred(here))
    };
    add("mbind", "weights on the node that reads them", true, probe(bind));
    let look = || {
        let region = region()?;
        let _ = region.populate();
        numa::nodes_of(&[region.range().start]).map(drop)
    };
    add("move_pages", "to see where pages lie", true, probe(look));
    add("get_mempolicy", "to respect numactl", true, probe(|| numa::thread_policy_is_default().map(drop)));
    let place = || numa::set_thread_policy(Policy::Default);
    add("set_mempolicy", "weights on the node that reads them", true, probe(place));
    let pin = || cpuset::affinity().and_then(|set| cpuset::set_affinity(&set));
    add("sched_setaffinity", "to pin threads, and to keep background threads off them", false, probe(pin));
    // SAFETY: no memory is accessed; the child's own niceness, to what it is.
    let nice = || match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, libc::getpriority(libc::PRIO_PROCESS, 0)) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    add("setpriority", "background threads yield to the program", false, probe(nice));
    add("memfd_create", "live statistics", false, probe(memfd));
    add("preadv2", "to see what of a model file is in memory", false, probe(read_at_once));
    tried
}

/// A memfd, which ends with the child.
fn memfd() -> io::Result<()> {
    // SAFETY: a C string.
    let fd = unsafe { libc::syscall(libc::SYS_memfd_create, c"zen5turbo-doctor".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A read that must not wait.
fn read_at_once() -> io::Result<()> {
    const RWF_NOWAIT: i32 = 8;
    let file = std::fs::File::open("/proc/self/exe")?;
    let mut byte = 0_u8;
    let part = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
    // SAFETY: one buffer of one byte, which lives until the call returns.
    let n = unsafe { libc::syscall(libc::SYS_preadv2, fd, &raw const part, 1, 0, 0, RWF_NOWAIT) };
    let error = io::Error::last_os_error();
    // Not in memory, or a file system that cannot tell: the call was let through.
    let through = n >= 0 || matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EOPNOTSUPP));
    if through { Ok(()) } else { Err(error) }
}

fn judge(tried: &Tried, nodes: usize) -> Check {
    let id = format!("call:{}", tried.call);
    let found = match &tried.answer {
        Answer::Permitted => return Check::ok(&id, "permitted"),
        Answer::Killed(signal) => {
            let found = format!("killed (signal {signal}), by a seccomp filter");
            let expected = format!("permitted, or refused with an error: {}", tried.purpose);
            let todo = "SystemCallErrorNumber=EPERM in the unit, or another profile; the shim makes the call only where it was asked for";
            return Check::limited(&id, found, expected, todo);
        }
        Answer::Refused(error) => match error.raw_os_error() {
            Some(libc::EPERM) => "refused (EPERM), by a seccomp filter or for want of a capability".to_owned(),
            Some(libc::ENOSYS) => "not there (ENOSYS), or refused by a seccomp filter".to_owned(),
            _ => format!("failed: {error}"),
        },
    };
    if tried.nodes && nodes <= 1 {
        return Check::ok(&id, format!("{found}; not needed on one NUMA node"));
    }
    let todo = match tried.call {
        "mbind" | "set_mempolicy" | "get_mempolicy" => {
            "docker run --cap-add SYS_NICE, or a seccomp profile that allows it"
        }
        "move_pages" => "a seccomp profile that allows it; without, placement works and is not reported",
        "madvise_populate" => "Linux 5.14 or later; reserved huge pages are not used without it",
        _ => "use a seccomp profile that allows it",
    };
    Check::limited(&id, found, format!("permitted: {}", tried.purpose), todo)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::check::Status;
    use crate::root::tests::tree;

    fn refused(call: &'static str, nodes: bool, code: i32) -> Tried {
        Tried { call, purpose: "a purpose", nodes, answer: Answer::Refused(io::Error::from_raw_os_error(code)) }
    }

    #[test]
    fn a_refusal_is_limited_where_the_call_is_needed() {
        let one = judge(&refused("mbind", true, libc::EPERM), 1);
        assert!(one.status == Status::Ok && one.found.contains("not needed"), "{one:?}");
        let two = judge(&refused("mbind", true, libc::EPERM), 2);
        assert_eq!(two.status, Status::Limited);
        assert!(two.found.contains("EPERM") && two.remedy.unwrap().contains("SYS_NICE"));
        assert_eq!(judge(&refused("mmap", false, libc::ENOSYS), 1).status, Status::Limited);
        assert_eq!(thp_of_process(Thp::OffForProcess).status, Status::Limited);
        assert_eq!(thp_of_process(Thp::Never).status, Status::Ok, "memory.thp tells that");
    }

    #[test]
    fn filters_and_capabilities_are_read_from_status() {
        let (_folder, root) = tree(&[("proc/self/status", "CapEff:\t0000000000800000\nSeccomp:\t2\n")]);
        assert!(seccomp(&root).found.starts_with("a filter"));
        assert_eq!(capabilities(&root).found, "CAP_SYS_NICE yes, CAP_IPC_LOCK no");
    }

    #[test]
    fn what_comes_of_a_call_in_a_child_is_told() {
        assert!(matches!(probe(|| Ok(())), Answer::Permitted));
        let refused = probe(|| Err(io::Error::from_raw_os_error(libc::EPERM)));
        assert!(matches!(&refused, Answer::Refused(e) if e.raw_os_error() == Some(libc::EPERM)), "{refused:?}");
        let failed = probe(|| Err(io::ErrorKind::Unsupported.into()));
        assert!(matches!(&failed, Answer::Refused(e) if e.kind() == io::ErrorKind::Unsupported), "{failed:?}");
        // SAFETY: no preconditions; the child's own.
        let killed =
            probe(|| unsafe { libc::raise(libc::SIGKILL) }.eq(&1).then_some(()).ok_or(io::Error::last_os_error()));
        assert!(matches!(killed, Answer::Killed(libc::SIGKILL)), "{killed:?}");
        let tried = Tried { call: "setpriority", purpose: "a purpose", nodes: false, answer: killed };
        let check = judge(&tried, 1);
        assert!(check.status == Status::Limited && check.found.contains("killed (signal 9)"), "{check:?}");
    }

    #[test]
    fn the_calls_are_tried_here_and_leave_nothing_behind() {
        let before = cpuset::affinity().unwrap();
        let tried = attempts();
        assert!(tried.len() >= 6);
        let mmap = &tried.iter().find(|t| t.call == "mmap").unwrap().answer;
        assert!(matches!(mmap, Answer::Permitted), "{mmap:?}");
        assert_eq!(cpuset::affinity().unwrap(), before);
    }
}
