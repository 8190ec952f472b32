//! The server's log: kept in a file, and counted line by line as it comes.

use std::fs::File;
use std::io::{self, BufRead, BufReader, PipeReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use zen5turbo_tests::PREFIX;

/// A log of this size is renamed to `NAME.old`, and a new one begun: 24 hours are some hundred MB.
const LARGEST: u64 = 64 << 20;

/// What was seen so far.
#[derive(Clone, Default)]
pub struct Seen {
    /// Tasks that were given a slot.
    pub launched: u64,
    /// Tasks that left their slot.
    pub released: u64,
    /// Context shifts.
    pub shifts: u64,
    /// Lines of the shim.
    pub shim: Vec<String>,
    /// The last line had no end.
    pub torn: bool,
}

/// Reads a log in a thread of its own until its writers are gone.
pub struct Log {
    seen: Arc<Mutex<Seen>>,
    reader: std::thread::JoinHandle<io::Result<()>>,
}

impl Log {
    /// Of `pipe`, into the file `path`.
    pub fn start(pipe: PipeReader, path: PathBuf) -> Self {
        let seen = Arc::<Mutex<Seen>>::default();
        let shared = seen.clone();
        let reader = std::thread::spawn(move || copy(pipe, &path, &shared));
        Self { seen, reader }
    }

    /// What was seen up to now.
    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Everything, after the writers are gone.
    pub fn finish(self) -> io::Result<Seen> {
        self.reader.join().map_err(|_| io::Error::other("the reader of the log panicked"))??;
        Ok(self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

fn copy(pipe: PipeReader, path: &Path, seen: &Mutex<Seen>) -> io::Result<()> {
    let mut pipe = BufReader::new(pipe);
    let mut file = File::create(path)?;
    let mut size = 0;
    let mut line = Vec::new();
    while pipe.read_until(b'\n', &mut line)? > 0 {
        file.write_all(&line)?;
        size += line.len() as u64;
        count(&mut seen.lock().unwrap_or_else(PoisonError::into_inner), &line);
        line.clear();
        if size > LARGEST {
            std::fs::rename(path, path.with_extension("log.old"))?;
            file = File::create(path)?;
            size = 0;
        }
    }
    Ok(())
}

fn count(seen: &mut Seen, line: &[u8]) {
    let line = String::from_utf8_lossy(line);
    seen.torn = !line.ends_with('\n');
    seen.launched += u64::from(line.contains(" launch_slot_: ") && line.contains("processing task"));
    seen.released += u64::from(line.contains(" release: ") && line.contains("stop processing"));
    seen.shifts += u64::from(line.contains("slot context shift"));
    if line.starts_with(PREFIX) {
        seen.shim.push(line.trim_end().to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_tasks_and_of_the_shim_are_counted() {
        let mut seen = Seen::default();
        for line in [
            "0.01.371.647 I slot launch_slot_: id  1 | task 0 | processing task, is_child = 0\n",
            "0.01.371.650 W slot   pre_decode: id  1 | task 0 | slot context shift, n_keep = 0, n_left = 9\n",
            "0.01.529.672 I slot      release: id  1 | task 0 | stop processing: n_tokens = 20, truncated = 0\n",
            "zen5turbo: something\n",
            "0.01.5",
        ] {
            count(&mut seen, line.as_bytes());
        }
        assert_eq!((seen.launched, seen.released, seen.shifts, seen.torn), (1, 1, 1, true));
        assert_eq!(seen.shim, ["zen5turbo: something"]);
    }
}
