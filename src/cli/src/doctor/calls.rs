//! The system calls that the shim makes, tried out in this process, and what decides on them: seccomp
//! filters and capabilities. A program started from here inherits both.

use std::io;

use zen5turbo_host::cpuset;
use zen5turbo_host::memory::map::{HUGE_PAGE, Region};
use zen5turbo_host::memory::{Pages, Thp};
use zen5turbo_host::numa::{self, Policy};

use super::check::Check;
use crate::root::{Root, field};

/// A call, what it is for, and what came of it.
struct Tried {
    call: &'static str,
    purpose: &'static str,
    /// Whether it is of use only with several memory nodes.
    nodes: bool,
    result: io::Result<()>,
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
        Some("2") => Check::ok(ID, "a filter; the calls below tell what it refuses"),
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

fn attempts() -> Vec<Tried> {
    let mut tried = Vec::new();
    let mut add = |call, purpose, nodes, result: io::Result<()>| tried.push(Tried { call, purpose, nodes, result });
    match Region::new(HUGE_PAGE, Pages::Transparent) {
        Err(error) => add("mmap", "room for copies of weights", false, Err(error)),
        Ok(region) => {
            add("mmap", "room for copies of weights", false, Ok(()));
            add("madvise_populate", "a missing page is an error instead of a signal", false, region.populate());
            let range = region.range();
            let here = cpuset::current_node().unwrap_or(0);
            let bound = numa::apply(range.start, range.len(), Policy::Preferred(here));
            add("mbind", "weights on the node that reads them", true, bound);
            add("move_pages", "to see where pages lie", true, numa::nodes_of(&[range.start]).map(drop));
        }
    }
    add("get_mempolicy", "to respect numactl", true, numa::thread_policy_is_default().map(drop));
    // Only where it changes nothing.
    if numa::thread_policy_is_default().unwrap_or(false) {
        add("set_mempolicy", "weights on the node that reads them", true, numa::set_thread_policy(Policy::Default));
    }
    let pinned = cpuset::affinity().and_then(|set| cpuset::set_affinity(&set));
    add("sched_setaffinity", "to pin threads", false, pinned);
    tried
}

fn judge(tried: &Tried, nodes: usize) -> Check {
    let id = format!("call:{}", tried.call);
    let error = match &tried.result {
        Ok(()) => return Check::ok(&id, "permitted"),
        Err(error) => error,
    };
    let found = match error.raw_os_error() {
        Some(libc::EPERM) => "refused (EPERM), by a seccomp filter or for want of a capability".to_owned(),
        Some(libc::ENOSYS) => "not there (ENOSYS), or refused by a seccomp filter".to_owned(),
        _ => format!("failed: {error}"),
    };
    if tried.nodes && nodes <= 1 {
        return Check::ok(&id, format!("{found}; not needed on one memory node"));
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
        Tried { call, purpose: "a purpose", nodes, result: Err(io::Error::from_raw_os_error(code)) }
    }

    #[test]
    fn a_refusal_is_limited_where_the_call_is_needed() {
        let one = judge(&refused("mbind", true, libc::EPERM), 1);
        assert!(one.status == Status::Ok && one.found.contains("not needed"), "{one:?}");
        let two = judge(&refused("mbind", true, libc::EPERM), 2);
        assert_eq!(two.status, Status::Limited);
        assert!(two.found.contains("EPERM") && two.remedy.unwrap().contains("SYS_NICE"));
        assert_eq!(judge(&refused("mremap", false, libc::ENOSYS), 1).status, Status::Limited);
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
    fn the_calls_are_tried_here_and_leave_nothing_behind() {
        let before = cpuset::affinity().unwrap();
        let tried = attempts();
        assert!(tried.len() >= 6);
        assert!(tried.iter().find(|t| t.call == "mremap").unwrap().result.is_ok());
        assert_eq!(cpuset::affinity().unwrap(), before);
    }
}
