//! A child in the place of this command: it gets its signals, and this command ends as it ended.

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::origin::WithOrigin;
use signal_hook::low_level::siginfo::Cause;

use crate::process::wait_without_reaping;
use crate::root::field;

/// What another process may send to this command and mean the child.
const FORWARDED: [i32; 6] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2];

/// A child that has ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub wall: Duration,
}

/// Runs it to its end; stdin, stdout and stderr are this command's.
///
/// # Errors
/// It could not be started, or not be waited for.
pub fn run(command: &mut Command) -> io::Result<Ended> {
    let mut signals = SignalsInfo::<WithOrigin>::new(heeded())?;
    let parent = std::process::id();
    // SAFETY: prctl, getppid and kill may be called between fork and exec; nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            // A command that is killed must not leave its child behind. Had it gone already, the request
            // came too late.
            if libc::prctl(libc::PR_SET_PDEATHSIG, SIGKILL) != 0 || libc::getppid() as u32 == parent {
                return Ok(());
            }
            Err(io::ErrorKind::Interrupted.into())
        });
    }
    let start = Instant::now();
    let mut child = command.spawn()?;
    let pid = child.id();
    let handle = signals.handle();
    let forwarding = thread::spawn(move || {
        for origin in &mut signals {
            // What the kernel sends goes to the whole foreground group of the terminal: the child has it.
            if origin.cause != Cause::Kernel {
                // SAFETY: kill touches no memory; the child is not reaped before this thread has ended.
                unsafe { libc::kill(pid as libc::pid_t, origin.signal) };
            }
        }
    });
    let waited = wait_without_reaping(pid as libc::pid_t);
    let wall = start.elapsed();
    handle.close();
    let _ = forwarding.join();
    waited?;
    Ok(Ended { status: child.wait()?, wall })
}

/// Those that are not ignored: a handler would make the child heed what nohup wants ignored.
fn heeded() -> Vec<i32> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = field(&status, "SigIgn").and_then(|mask| u64::from_str_radix(&mask, 16).ok()).unwrap_or(0);
    FORWARDED.into_iter().filter(|signal| ignored >> (signal - 1) & 1 == 0).collect()
}

/// Ends this process by the signal that ended the child; its exit code otherwise.
pub fn end_like(status: ExitStatus) -> ExitCode {
    if let Some(signal) = status.signal() {
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the limit is a local; raising a signal whose handler is the default one ends this
        // process. The child's core, if any, is the one of interest.
        unsafe {
            libc::setrlimit(libc::RLIMIT_CORE, &none);
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        }
        return ExitCode::from(128u8.wrapping_add(signal as u8));
    }
    ExitCode::from(status.code().unwrap_or(1) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_waited_for_with_its_status_and_time() {
        let mut command = Command::new("sh");
        command.args(["-c", "exit 7"]);
        let ended = run(&mut command).unwrap();
        assert_eq!(ended.status.code(), Some(7));
        assert!(ended.wall < Duration::from_secs(60));
        assert!(run(&mut Command::new("/no/such/program")).is_err());
    }

    #[test]
    fn a_test_program_heeds_its_signals() {
        assert!(heeded().contains(&SIGTERM));
    }
}
