//! Reading a download while it is written.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// How far a download is.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Clone, Copy)]
struct State {
    written_bytes: u64,
    /// Nothing more comes, or what was read is void.
    is_over: bool,
}

/// The writer's end; dropped, it tells the follower that nothing more comes.
#[derive(Debug)]
pub(super) struct Publisher {
    shared: Arc<Shared>,
}

impl Publisher {
    fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.shared.changed.notify_all();
    }

    /// Bytes from the beginning that can be read.
    pub(super) fn publish(&self, written_bytes: u64) {
        self.update(|state| state.written_bytes = written_bytes);
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.update(|state| state.is_over = true);
    }
}

/// Reads the bytes of a download as they are written, waiting for those that are not there yet. They may turn out not to
/// be what the blob's digest names: whoever reads them must not believe anything before the download is complete.
#[derive(Debug)]
pub struct BlobFollower {
    shared: Arc<Shared>,
    file: File,
    size_bytes: u64,
    read_bytes: u64,
}

impl BlobFollower {
    /// The two ends of a download into `file`.
    pub(super) fn new(file: File, written_bytes: u64, size_bytes: u64) -> (Publisher, Self) {
        let state = Mutex::new(State { written_bytes, is_over: false });
        let shared = Arc::new(Shared { state, changed: Condvar::new() });
        (Publisher { shared: Arc::clone(&shared) }, Self { shared, file, size_bytes, read_bytes: 0 })
    }

    /// Length of the whole blob in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Waits for bytes that were not read; returns how many there are.
    fn wait(&self) -> io::Result<u64> {
        let state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self
            .shared
            .changed
            .wait_while(state, |state| state.written_bytes <= self.read_bytes && !state.is_over)
            .unwrap_or_else(PoisonError::into_inner);
        if state.written_bytes <= self.read_bytes {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the download was given up"));
        }
        Ok(state.written_bytes - self.read_bytes)
    }
}

impl Read for BlobFollower {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.read_bytes == self.size_bytes || buffer.is_empty() {
            return Ok(0);
        }
        let there_bytes = usize::try_from(self.wait()?).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(there_bytes);
        let count = self.file.read_at(&mut buffer[..wanted], self.read_bytes)?;
        if count == 0 {
            // The writer began anew and emptied the file.
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the download began anew"));
        }
        self.read_bytes += count as u64;
        Ok(count)
    }
}
