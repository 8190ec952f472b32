//! Many clients at once: each request in a thread of its own, while the server is watched.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::client::{Answer, End, Signals};
use super::prompts::Request;
use super::server::Server;

/// How often the server is looked at.
const TICK: Duration = Duration::from_millis(20);

/// When requests are sent.
#[derive(Debug)]
pub enum Pace {
    /// Each after the answer to the one before.
    OneByOne,
    /// All at the start.
    AtOnce,
    /// Each at its time after the start.
    At(Vec<Duration>),
}

/// When a load is no use any more.
#[derive(Clone, Copy, Debug)]
pub struct Late {
    /// A request without a token after this time is late.
    pub first_token: Duration,
    /// So many late ones are one too many.
    pub too_many: usize,
}

/// What came of a load.
#[derive(Debug)]
pub struct Loaded {
    /// In the order of the requests.
    pub answers: Vec<Answer>,
    /// From the start to the last answer.
    pub wall_s: f64,
    /// Whether it ended early because requests were late.
    pub stopped: bool,
}

/// Sends all requests and waits for all answers.
///
/// # Errors
/// The server ended or is late, or this command is to end. The server is killed then, and no client waits any more.
pub fn run(server: &Server, requests: &[Request], pace: &Pace, late: Option<Late>, what: &str) -> Result<Loaded> {
    let hang_up = AtomicBool::new(false);
    let began: Vec<AtomicBool> = requests.iter().map(|_| AtomicBool::new(false)).collect();
    let client = server.client.clone();
    let begin = Instant::now();
    let due = |number: usize| match pace {
        Pace::At(times) => begin + times[number],
        _ => begin,
    };
    let ask = |number: usize, due: Instant| {
        sleep_until(due, &hang_up);
        if hang_up.load(Ordering::Relaxed) {
            return Answer::stopped();
        }
        client.ask(&requests[number], due, &Signals { began: &began[number], hang_up: &hang_up })
    };
    let mut answers: Vec<Option<Answer>> = requests.iter().map(|_| None).collect();
    let mut is_late = vec![false; requests.len()];
    let (mut wall, mut stopped, mut failed) = (begin, false, None);
    thread::scope(|scope| {
        let (done, arriving) = mpsc::channel();
        if let Pace::OneByOne = pace {
            let ask = &ask;
            scope.spawn(move || {
                (0..requests.len()).all(|number| done.send((number, ask(number, Instant::now()))).is_ok())
            });
        } else {
            for number in 0..requests.len() {
                let (done, ask, due) = (done.clone(), &ask, due(number));
                scope.spawn(move || done.send((number, ask(number, due))));
            }
            drop(done);
        }
        loop {
            match arriving.recv_timeout(TICK) {
                Ok((number, answer)) => {
                    answers[number] = Some(answer);
                    wall = Instant::now();
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if failed.is_none()
                && let Err(error) = server.watch(begin, what)
            {
                failed = Some(error);
                hang_up.store(true, Ordering::Relaxed);
                server.kill();
            }
            if let Some(late) = late.filter(|_| !stopped) {
                for number in 0..requests.len() {
                    let waits = !began[number].load(Ordering::Relaxed) && answers[number].is_none();
                    is_late[number] |= waits && due(number) + late.first_token < Instant::now();
                }
                stopped = is_late.iter().filter(|late| **late).count() >= late.too_many;
                hang_up.fetch_or(stopped, Ordering::Relaxed);
            }
        }
    });
    if let Some(error) = failed {
        return Err(error);
    }
    let answers: Vec<Answer> = answers.into_iter().map(|answer| answer.unwrap_or_else(Answer::stopped)).collect();
    if answers.iter().any(|answer| matches!(answer.end, End::Failed(_))) {
        // The connections of a server that dies close before it has ended.
        thread::sleep(10 * TICK);
        server.watch(begin, what)?;
    }
    Ok(Loaded { answers, wall_s: (wall - begin).as_secs_f64(), stopped })
}

/// Sleeps until `due`, or until the load is stopped.
fn sleep_until(due: Instant, hang_up: &AtomicBool) {
    loop {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() || hang_up.load(Ordering::Relaxed) {
            return;
        }
        thread::sleep(left.min(TICK));
    }
}
