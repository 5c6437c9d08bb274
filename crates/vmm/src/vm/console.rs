//! The reading end of the guest's console.
//!
//! QEMU's serial port writes one byte a system call, so a reader that is always ready is woken for nearly
//! every byte: 12,000 times while a Debian kernel boots (measured 2026-11), each time with all that follows a
//! read. A reader that waits a moment after each short read sees the same bytes in some 200 pieces, at most
//! [`GATHERING_TIME`] later.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::process::ChildStdout;
use tokio::time::{Instant, Sleep, sleep_until};

/// How long bytes may gather before they are read; far below what a person at a terminal notices.
const GATHERING_TIME: Duration = Duration::from_millis(2);

/// What the guest writes to its serial console.
///
/// Reading is cancel safe: bytes are taken only when they are returned.
#[derive(Debug)]
pub struct ConsoleReader {
    stream: Gathered<ChildStdout>,
}

impl ConsoleReader {
    pub(super) fn new(stream: ChildStdout) -> Self {
        Self { stream: Gathered::new(stream) }
    }
}

impl AsyncRead for ConsoleReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

/// A stream that is not read again for a moment after it had less to give than was asked for.
#[derive(Debug)]
struct Gathered<R> {
    stream: R,
    /// Present during that moment.
    pause: Option<Pin<Box<Sleep>>>,
}

impl<R> Gathered<R> {
    fn new(stream: R) -> Self {
        Self { stream, pause: None }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Gathered<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(context));
            self.pause = None;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let ended = buffer.filled().len() == before;
        if !ended && buffer.remaining() > 0 {
            self.pause = Some(Box::pin(sleep_until(Instant::now() + GATHERING_TIME)));
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// The next read if there is something to read at once.
    async fn read_now(reader: &mut Gathered<impl AsyncRead + Unpin>, most: usize) -> Option<Vec<u8>> {
        let mut buffer = vec![0; most];
        tokio::select! {
            biased;
            length = reader.read(&mut buffer) => {
                buffer.truncate(length.unwrap());
                Some(buffer)
            }
            () = std::future::ready(()) => None,
        }
    }

    #[tokio::test]
    async fn bytes_gather_after_a_short_read_and_none_is_lost() {
        let (mut writer, stream) = tokio::io::duplex(64);
        let mut reader = Gathered::new(stream);
        writer.write_all(b"a").await.unwrap();
        let began = Instant::now();
        assert_eq!(read_now(&mut reader, 10).await.unwrap(), b"a");
        writer.write_all(b"b").await.unwrap();
        let mut rest = [0; 10];
        let length = reader.read(&mut rest).await.unwrap();
        assert_eq!(&rest[..length], b"b");
        assert!(began.elapsed() >= GATHERING_TIME);
        drop(writer);
        assert_eq!(reader.read(&mut rest).await.unwrap(), 0);
        assert_eq!(read_now(&mut reader, 10).await.unwrap(), b"", "the end is not waited for twice");
    }

    #[tokio::test]
    async fn a_full_buffer_is_followed_by_the_next_at_once() {
        let (mut writer, stream) = tokio::io::duplex(64);
        let mut reader = Gathered::new(stream);
        writer.write_all(b"aabbc").await.unwrap();
        assert_eq!(read_now(&mut reader, 2).await.unwrap(), b"aa");
        assert_eq!(read_now(&mut reader, 2).await.unwrap(), b"bb");
        assert_eq!(read_now(&mut reader, 2).await.unwrap(), b"c");
    }
}
