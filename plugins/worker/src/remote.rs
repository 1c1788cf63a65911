//! The context of an attempt in a worker: every question goes to the runner.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use headstart_protocol::{ArtifactRef, Context, Digest, Failure, Manifest, Progress, RowCache};
use rustix::process::{Signal, getpid, kill_process};

use crate::wire::{self, ASKED, FromWorker, HEADER, ROWS, Task, ToWorker, Vectors};

/// Progress is sent at most this often.
const PROGRESS: Duration = Duration::from_millis(50);

/// The worker's end of the socket.
pub(crate) struct Calls {
    reader: BufReader<UnixStream>,
}

impl Calls {
    pub(crate) fn new(socket: UnixStream) -> Self {
        Self { reader: BufReader::with_capacity(16 << 10, socket) }
    }

    /// The next message of the runner.
    ///
    /// # Errors
    /// If the runner is gone.
    pub(crate) fn next(&mut self) -> io::Result<ToWorker> {
        let mut length = [0; HEADER];
        self.reader.read_exact(&mut length)?;
        let mut body = vec![0; u32::from_le_bytes(length) as usize];
        self.reader.read_exact(&mut body)?;
        wire::message(&body).map_err(io::Error::other)
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// If the runner is gone.
    pub(crate) fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        self.reader.get_mut().write_all(frame)
    }
}

/// Ends this process at once, without waiting for what runs.
pub(crate) fn end() -> ! {
    let _ = kill_process(getpid(), Signal::KILL);
    // Not reached, but where a process may not signal itself.
    std::process::exit(1)
}

/// The context of an attempt.
pub(crate) struct Remote<'a> {
    task: &'a Task,
    calls: Mutex<&'a mut Calls>,
    /// The attempt that was told to stop last.
    told: &'a AtomicU64,
    scratch: OnceLock<PathBuf>,
    counters: Mutex<BTreeMap<String, u64>>,
    reported: Mutex<Option<Instant>>,
}

impl<'a> Remote<'a> {
    pub(crate) fn new(task: &'a Task, calls: &'a mut Calls, told: &'a AtomicU64) -> Self {
        Self {
            task,
            calls: Mutex::new(calls),
            told,
            scratch: OnceLock::new(),
            counters: Mutex::default(),
            reported: Mutex::default(),
        }
    }

    /// What was counted.
    pub(crate) fn counters(&self) -> BTreeMap<String, u64> {
        std::mem::take(&mut *self.counters.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn calls(&self) -> MutexGuard<'_, &'a mut Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says something that needs no answer.
    fn tell(&self, message: &FromWorker) {
        let frame = wire::frame(message);
        if self.calls().send(&frame).is_err() {
            end();
        }
    }

    /// Asks, and waits for the answer.
    fn ask(&self, message: &FromWorker) -> ToWorker {
        let frame = wire::frame(message);
        let mut calls = self.calls();
        match calls.send(&frame).and_then(|()| calls.next()) {
            Ok(answer) => answer,
            // The runner is gone, and with it all for whom the attempt is made.
            Err(_) => end(),
        }
    }
}

impl Context for Remote<'_> {
    fn manifest(&self, artifact: &ArtifactRef) -> Result<Manifest, Failure> {
        match self.ask(&FromWorker::Manifest(artifact.clone())) {
            ToWorker::Manifest(manifest) => manifest,
            _ => end(),
        }
    }

    fn open(&self, artifact: &ArtifactRef) -> Result<PathBuf, Failure> {
        match self.ask(&FromWorker::Open(artifact.clone())) {
            ToWorker::Opened(folder) => folder.map(|at| at.0),
            _ => end(),
        }
    }

    fn scratch(&self) -> &Path {
        self.scratch.get_or_init(|| match self.ask(&FromWorker::Scratch) {
            ToWorker::Path(at) => at.0,
            _ => end(),
        })
    }

    fn resume_dir(&self) -> Option<PathBuf> {
        match self.ask(&FromWorker::Resume) {
            ToWorker::Folder(at) => at.map(|at| at.0),
            _ => end(),
        }
    }

    fn path(&self, path: &str) -> PathBuf {
        match self.ask(&FromWorker::Path(path.to_owned())) {
            ToWorker::Path(at) => at.0,
            _ => end(),
        }
    }

    fn rows(&self) -> &dyn RowCache {
        self
    }

    fn progress(&self, progress: Progress) {
        let due = {
            let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
            let due = reported.is_none_or(|last| last.elapsed() >= PROGRESS);
            if due {
                *reported = Some(Instant::now());
            }
            due
        };
        if due || progress.total == Some(progress.done) {
            self.tell(&FromWorker::Progress(progress));
        }
    }

    fn count(&self, counter: &str, n: u64) {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        match counters.get_mut(counter) {
            Some(known) => *known += n,
            None => drop(counters.insert(counter.to_owned(), n)),
        }
    }

    fn log(&self, line: &str) {
        self.tell(&FromWorker::Log(line.to_owned()));
    }

    fn cancelled(&self) -> bool {
        self.told.load(Ordering::Acquire) == self.task.number
    }

    fn threads(&self) -> usize {
        self.task.threads
    }

    fn memory(&self) -> Option<u64> {
        self.task.memory
    }

    fn is_private(&self) -> bool {
        self.task.private
    }

    fn least_rows(&self) -> usize {
        self.task.least_rows
    }
}

/// In pieces, so that no frame is large.
impl RowCache for Remote<'_> {
    fn embeddings(&self, space: &Digest, texts: &[Digest]) -> Vec<Option<Vec<f32>>> {
        let mut all = Vec::with_capacity(texts.len());
        for texts in texts.chunks(ASKED) {
            let asked = FromWorker::Embeddings { space: *space, texts: texts.to_owned() };
            match self.ask(&asked) {
                ToWorker::Embeddings(vectors) => all.extend(vectors.all().unwrap_or_default()),
                _ => end(),
            }
        }
        // A cache may forget anything.
        all.resize(texts.len(), None);
        all
    }

    fn put_embeddings(&self, space: &Digest, rows: &[(Digest, Vec<f32>)]) {
        for rows in pieces(rows, |(_, vector)| vector.len() * size_of::<f32>()) {
            let texts = rows.iter().map(|(text, _)| *text).collect();
            let vectors = Vectors::of(rows.iter().map(|(_, vector)| Some(&vector[..])));
            self.tell(&FromWorker::PutEmbeddings { space: *space, texts, vectors });
        }
    }

    fn responses(&self, model: &Digest, settings: &Digest, prompts: &[Digest]) -> Vec<Option<String>> {
        let mut all = Vec::with_capacity(prompts.len());
        for prompts in prompts.chunks(ASKED) {
            let (model, settings) = (*model, *settings);
            match self.ask(&FromWorker::Responses { model, settings, prompts: prompts.to_owned() }) {
                ToWorker::Responses(known) => all.extend(known),
                _ => end(),
            }
        }
        all.resize(prompts.len(), None);
        all
    }

    fn put_responses(&self, model: &Digest, settings: &Digest, rows: &[(Digest, String)]) {
        for rows in pieces(rows, |(_, text)| text.len()) {
            let (model, settings) = (*model, *settings);
            self.tell(&FromWorker::PutResponses { model, settings, rows: rows.to_owned() });
        }
    }
}

/// Rows in pieces of about [`ROWS`] bytes, without those that are too large for a frame.
fn pieces<T>(rows: &[T], bytes: impl Fn(&T) -> usize) -> Vec<&[T]> {
    /// What a row takes beside its content.
    const ROW: usize = 80;
    let mut all = Vec::new();
    let (mut from, mut held) = (0, 0);
    for (at, row) in rows.iter().enumerate() {
        let bytes = bytes(row) + ROW;
        let alone = bytes > wire::LARGEST / 2;
        if from < at && (alone || held + bytes > ROWS) {
            all.push(&rows[from..at]);
            (from, held) = (at, 0);
        }
        if alone {
            (from, held) = (at + 1, 0);
        } else {
            held += bytes;
        }
    }
    if from < rows.len() {
        all.push(&rows[from..]);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_sent_in_pieces_without_what_is_too_large() {
        let sizes = [10, ROWS - 300, 200, wire::LARGEST, 5, ROWS + 7, 3];
        let rows: Vec<&[usize]> = pieces(&sizes, |n| *n);
        assert_eq!(rows, [&sizes[..2], &sizes[2..3], &sizes[4..5], &sizes[5..6], &sizes[6..]]);
        assert!(pieces(&[], |n: &usize| *n).is_empty());
    }
}
