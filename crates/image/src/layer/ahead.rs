//! Decompression on a thread of its own, ahead of whoever reads: decompressing and hashing take about as long.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

/// Bytes that are decompressed at once.
const PIECE_BYTES: usize = 128 << 10;

/// Pieces that may wait to be read; bounds memory.
const WAITING_PIECES: usize = 4;

/// What the reader gets: a part of the data, its end (empty), or why there is no more.
type Piece = io::Result<Vec<u8>>;

/// Lets `consume` read what `source` yields, which is read ahead of it.
pub(super) fn read_ahead<T>(source: impl Read + Send, consume: impl FnOnce(Ahead) -> T) -> T {
    thread::scope(|scope| {
        let (filled, pieces) = sync_channel(WAITING_PIECES);
        let (used, emptied) = channel();
        scope.spawn(move || fill(source, &filled, &emptied));
        // Consumed or not, dropping the reader ends the thread.
        consume(Ahead { pieces, used, piece: Vec::new(), position: 0, is_over: false })
    })
}

/// Sends pieces until the end, an error, or nobody wants more.
fn fill(mut source: impl Read, filled: &SyncSender<Piece>, emptied: &Receiver<Vec<u8>>) {
    loop {
        let mut piece = emptied.try_recv().unwrap_or_default();
        piece.resize(PIECE_BYTES, 0);
        let mut length = 0;
        let mut failure = None;
        while length < piece.len() {
            match source.read(&mut piece[length..]) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        let is_over = length < piece.len();
        piece.truncate(length);
        let mut is_wanted = length == 0 || filled.send(Ok(piece)).is_ok();
        if let Some(error) = failure {
            is_wanted &= filled.send(Err(error)).is_ok();
        }
        if is_over || !is_wanted {
            return;
        }
    }
}

/// The reader's end.
pub(super) struct Ahead {
    pieces: Receiver<Piece>,
    used: Sender<Vec<u8>>,
    piece: Vec<u8>,
    position: usize,
    is_over: bool,
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position == self.piece.len() {
            if self.is_over {
                return Ok(0);
            }
            match self.pieces.recv() {
                Ok(Ok(piece)) => {
                    // Nobody takes it once everything is decompressed.
                    let _ = self.used.send(std::mem::replace(&mut self.piece, piece));
                    self.position = 0;
                }
                Ok(Err(error)) => {
                    self.is_over = true;
                    return Err(error);
                }
                Err(_) => {
                    self.is_over = true;
                    return Ok(0);
                }
            }
        }
        let count = buffer.len().min(self.piece.len() - self.position);
        buffer[..count].copy_from_slice(&self.piece[self.position..self.position + count]);
        self.position += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// Yields its bytes in small parts, then an error if there is one.
    struct Source(Vec<u8>, Option<io::Error>);

    impl Read for Source {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return self.1.take().map_or(Ok(0), Err);
            }
            let count = self.0.len().min(buffer.len()).min(1000);
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0.drain(..count);
            Ok(count)
        }
    }

    #[test]
    fn all_that_comes_is_read_and_then_the_end_or_the_error() {
        let content: Vec<u8> = (0..PIECE_BYTES * 2 + 7).map(|at| (at % 251) as u8).collect();
        for length in [0, 1, PIECE_BYTES, content.len()] {
            let mut read = Vec::new();
            read_ahead(Source(content[..length].to_vec(), None), |mut ahead| ahead.read_to_end(&mut read))
                .unwrap();
            assert_eq!(read, &content[..length]);
            let mut read = Vec::new();
            let source = Source(content[..length].to_vec(), Some(io::Error::other("broken")));
            let error = read_ahead(source, |mut ahead| ahead.read_to_end(&mut read)).unwrap_err();
            assert_eq!((error.to_string().as_str(), read.as_slice()), ("broken", &content[..length]));
        }
    }

    #[test]
    fn whoever_has_read_enough_ends_it() {
        let mut first = [0; 3];
        read_ahead(io::repeat(7), |mut ahead| ahead.read_exact(&mut first)).unwrap();
        assert_eq!(first, [7; 3]);
    }
}
