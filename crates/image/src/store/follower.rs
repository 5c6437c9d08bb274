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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::thread;

    use crate::client::BlobSink;
    use crate::digest::Digest;
    use crate::store::{BlobWriter, Download, Lease, Store};

    use super::*;

    fn start(store: &Store, lease: &Lease, content: &[u8]) -> BlobWriter {
        match store.begin_download(lease, &Digest::sha256_of(content), content.len() as u64).unwrap() {
            Download::Start(writer) => *writer,
            Download::Present | Download::Busy => panic!("it is to be downloaded"),
        }
    }

    fn opened() -> (tempfile::TempDir, Store, Lease) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let lease = store.lease().unwrap();
        (directory, store, lease)
    }

    #[test]
    fn a_download_is_read_along_to_its_end() {
        let (_directory, store, lease) = opened();
        // The first part is there from an interrupted download.
        BlobSink::write(&mut start(&store, &lease, b"0123456789"), b"0123").unwrap();
        let mut writer = start(&store, &lease, b"0123456789");
        let mut follower = writer.follow().unwrap().unwrap();
        let mut first = [0; 4];
        follower.read_exact(&mut first).unwrap();
        let reader = thread::spawn(move || {
            let mut rest = Vec::new();
            follower.read_to_end(&mut rest).map(|_| rest)
        });
        for part in [b"45", b"67", b"89"] {
            BlobSink::write(&mut writer, part).unwrap();
        }
        writer.commit().unwrap();
        assert_eq!((&first, reader.join().unwrap().unwrap().as_slice()), (b"0123", &b"456789"[..]));
    }

    #[test]
    fn whoever_reads_along_hears_of_the_end_before_time() {
        let (_directory, store, lease) = opened();
        let mut writer = start(&store, &lease, b"0123456789");
        let mut follower = writer.follow().unwrap().unwrap();
        BlobSink::write(&mut writer, b"0123").unwrap();
        let reader = thread::spawn(move || follower.read_to_end(&mut Vec::new()));
        drop(writer);
        assert_eq!(reader.join().unwrap().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);

        let mut writer = start(&store, &lease, b"0123456789");
        let mut follower = writer.follow().unwrap().unwrap();
        writer.restart().unwrap();
        BlobSink::write(&mut writer, b"0123456789").unwrap();
        assert_eq!(follower.read_to_end(&mut Vec::new()).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
