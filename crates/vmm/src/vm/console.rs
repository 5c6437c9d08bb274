//! The reading end of the guest's console.
//!
//! QEMU's serial port writes one byte a system call, so a reader that is always ready is woken for nearly
//! every byte: 12,000 times while a Debian kernel boots (measured 2026-11). A runtime that merely waits for
//! the pipe is woken as often, whether it reads or not. So a thread reads, with plain blocking reads, and
//! sleeps a moment after each short one: the same bytes come in some 200 pieces, at most [`GATHERING_TIME`]
//! later, and nobody is woken in between.

use std::fs::File;
use std::io::{self, Read};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::thread;
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::process::ChildStdout;
use tokio::sync::mpsc;

/// How long bytes may gather before they are read; far below what a person at a terminal notices.
const GATHERING_TIME: Duration = Duration::from_millis(2);

/// Most bytes of one read: a quarter of what the pipe holds, so that the guest need not wait for the next.
const PIECE_BYTES: usize = 16 * 1024;

/// Pieces that are read ahead. When they are not taken, the pipe fills and the guest waits.
const PIECES: usize = 4;

/// What the guest writes to its serial console.
///
/// Reading is cancel safe: bytes are taken only when they are returned.
#[derive(Debug)]
pub struct ConsoleReader {
    pieces: mpsc::Receiver<io::Result<Vec<u8>>>,
    /// The piece that was begun, and how much of it was returned.
    piece: Vec<u8>,
    returned: usize,
}

impl ConsoleReader {
    pub(super) fn new(stream: ChildStdout) -> io::Result<Self> {
        // In blocking mode again from here on.
        Self::reading(File::from(stream.into_owned_fd()?))
    }

    fn reading(stream: impl Read + Send + 'static) -> io::Result<Self> {
        let (sender, pieces) = mpsc::channel(PIECES);
        // It ends with the stream, or with the first piece that nobody wants any more.
        thread::Builder::new().name("console".to_owned()).spawn(move || pass_on(stream, &sender))?;
        Ok(Self { pieces, piece: Vec::new(), returned: 0 })
    }
}

fn pass_on(mut stream: impl Read, pieces: &mpsc::Sender<io::Result<Vec<u8>>>) {
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        let piece = match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => Ok(buffer[..length].to_vec()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
        let (failed, short) = (piece.is_err(), piece.as_ref().is_ok_and(|piece| piece.len() < PIECE_BYTES));
        if pieces.blocking_send(piece).is_err() || failed {
            return;
        }
        if short {
            thread::sleep(GATHERING_TIME);
        }
    }
}

impl AsyncRead for ConsoleReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.returned == self.piece.len() {
            match ready!(self.pieces.poll_recv(context)) {
                None => return Poll::Ready(Ok(())),
                Some(piece) => self.piece = piece?,
            }
            self.returned = 0;
        }
        let rest = &self.piece[self.returned..];
        let length = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..length]);
        self.returned += length;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Write;
    use std::time::Instant;

    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn bytes_gather_after_a_short_read_and_none_is_lost() {
        let (stream, mut writer) = io::pipe().unwrap();
        let mut reader = ConsoleReader::reading(stream).unwrap();
        let mut buffer = [0; 100];
        writer.write_all(b"a").unwrap();
        let began = Instant::now();
        assert_eq!(reader.read(&mut buffer).await.unwrap(), 1);
        for byte in b"bcdef" {
            writer.write_all(&[*byte]).unwrap();
        }
        let mut rest = Vec::new();
        while rest.len() < 5 {
            let length = reader.read(&mut buffer).await.unwrap();
            rest.extend_from_slice(&buffer[..length]);
        }
        assert_eq!(rest, b"bcdef");
        assert!(began.elapsed() >= GATHERING_TIME);
        drop(writer);
        assert_eq!(reader.read(&mut buffer).await.unwrap(), 0);
        assert_eq!(reader.read(&mut buffer).await.unwrap(), 0, "the end stays the end");
    }

    #[tokio::test]
    async fn a_piece_is_returned_in_as_many_reads_as_it_takes() {
        let text: Vec<u8> = (0..PIECE_BYTES * 3).map(|number| (number % 251) as u8).collect();
        let mut reader = ConsoleReader::reading(io::Cursor::new(text.clone())).unwrap();
        let (mut buffer, mut read) = ([0; 1000], Vec::new());
        loop {
            match reader.read(&mut buffer).await.unwrap() {
                0 => break,
                length => read.extend_from_slice(&buffer[..length]),
            }
        }
        assert!(read == text);
    }

    #[tokio::test]
    async fn a_stream_that_fails_says_so_and_ends() {
        struct Fails;
        impl Read for Fails {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("broken"))
            }
        }
        let mut reader = ConsoleReader::reading(Fails).unwrap();
        assert_eq!(reader.read(&mut [0; 10]).await.unwrap_err().to_string(), "broken");
        assert_eq!(reader.read(&mut [0; 10]).await.unwrap(), 0);
    }
}
