//! `zen5turbo top` on a terminal: what it draws, and that it leaves the terminal as it was.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use zen5turbo_tests::command;

/// `zen5turbo top` on a terminal of its own.
struct Screen {
    child: Child,
    /// The side of the terminal where a person would sit.
    terminal: File,
    before: libc::termios,
    drawn: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
    /// Keeps the terminal open when the program has ended.
    side: OwnedFd,
}

fn settings(fd: &impl AsRawFd) -> libc::termios {
    // SAFETY: zeros are a valid record, which the call fills.
    unsafe {
        let mut settings: libc::termios = std::mem::zeroed();
        assert_eq!(libc::tcgetattr(fd.as_raw_fd(), &raw mut settings), 0);
        settings
    }
}

impl Screen {
    fn start() -> Self {
        let (mut master, mut slave) = (-1, -1);
        let size = libc::winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
        let (name, none) = (std::ptr::null_mut(), std::ptr::null());
        // SAFETY: fills two locals with descriptors that are then this test's.
        let (terminal, side) = unsafe {
            assert_eq!(libc::openpty(&raw mut master, &raw mut slave, name, none, &raw const size), 0);
            (File::from_raw_fd(master), OwnedFd::from_raw_fd(slave))
        };
        let before = settings(&side);
        let stdio = || Stdio::from(side.try_clone().expect("a descriptor is free"));
        let mut top = Command::new(command());
        top.args(["top", "--interval", "0.1"]).env("TERM", "xterm").stdin(stdio()).stdout(stdio()).stderr(stdio());
        let child = top.spawn().expect("the command can be started");
        let drawn = Arc::new(Mutex::new(String::new()));
        let (to, mut from) = (Arc::clone(&drawn), terminal.try_clone().expect("a descriptor is free"));
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = from.read(&mut bytes) {
                to.lock().expect("a lock").push_str(&String::from_utf8_lossy(&bytes[..n]));
            }
        });
        let screen = Self { child, terminal, before, drawn, reader, side };
        screen.wait_for("q quit");
        screen
    }

    fn wait_for(&self, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(100);
        while !self.drawn.lock().expect("a lock").contains(text) {
            assert!(Instant::now() < deadline, "{text:?} was not drawn: {:?}", self.drawn);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for its end: the terminal must be as before, and the first screen be shown with its cursor.
    fn end(mut self) -> ExitStatus {
        let status = self.child.wait().expect("a child");
        let after = settings(&self.side);
        let flags = |t: &libc::termios| [t.c_iflag, t.c_oflag, t.c_cflag, t.c_lflag];
        assert_eq!(flags(&after), flags(&self.before));
        self.wait_for("\x1b[?1049l");
        self.wait_for("\x1b[?25h");
        drop(self.side);
        self.reader.join().expect("the reader ends with the terminal");
        status
    }
}

#[test]
fn q_and_ctrl_c_end_it() {
    for key in [b"q", b"\x03"] {
        let mut screen = Screen::start();
        assert_eq!(settings(&screen.side).c_lflag & libc::ICANON, 0, "keys come at once");
        screen.wait_for("\x1b[?1049h");
        screen.terminal.write_all(b"h").expect("a terminal takes keys");
        screen.terminal.write_all(key).expect("a terminal takes keys");
        assert_eq!(screen.end().code(), Some(0));
    }
}

#[test]
fn a_signal_ends_it_and_the_terminal_is_as_it_was() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        let screen = Screen::start();
        // SAFETY: a child that is not waited for yet.
        assert_eq!(unsafe { libc::kill(screen.child.id() as libc::pid_t, signal) }, 0);
        assert_eq!(screen.end().signal(), Some(signal));
    }
}
