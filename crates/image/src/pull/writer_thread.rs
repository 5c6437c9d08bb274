//! Hashing and writing beside the network: the task that receives a blob hands its bytes to a thread.
//!
//! The program's runtime may have one thread only, and hashing takes longer than receiving on a fast network.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use tokio::task::JoinHandle;

use super::PullError;
use super::transfer::Context;
use crate::client::BlobSink;
use crate::store::BlobWriter;

/// Bytes handed over at once. Below the size at which the allocator asks the kernel for each buffer.
const PIECE_BYTES: usize = 64 << 10;

/// Pieces that may wait: bounds memory, and lets the network wait for the disk.
const WAITING_PIECES: usize = 8;

enum Message {
    Piece(Vec<u8>),
    Restart,
}

/// A blob's writer on a thread of its own. Dropped, it writes what was handed over and keeps it for a resume.
pub(super) struct WriterThread {
    sender: SyncSender<Message>,
    running: JoinHandle<(BlobWriter, io::Result<()>)>,
    piece: Vec<u8>,
    received_bytes: u64,
}

impl WriterThread {
    pub(super) fn start(writer: BlobWriter) -> Self {
        let (sender, receiver) = sync_channel(WAITING_PIECES);
        let received_bytes = writer.received_bytes();
        let running = tokio::task::spawn_blocking(move || write_all(writer, &receiver));
        Self { sender, running, piece: Vec::new(), received_bytes }
    }

    fn send(&self, message: Message) -> io::Result<()> {
        // The thread ends before its sender only when writing failed; `finish` tells how.
        self.sender.send(message).map_err(|_| io::Error::other("writing to the image store failed"))
    }

    fn send_piece(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::take(&mut self.piece);
        self.send(Message::Piece(piece))
    }

    /// Waits until everything is written. The second part tells whether writing failed.
    pub(super) async fn finish(
        mut self,
        context: &Context,
    ) -> Result<(BlobWriter, io::Result<()>), PullError> {
        // A failure to hand over is the thread's failure, told below.
        let _ = self.send_piece();
        let Self { sender, running, .. } = self;
        drop(sender);
        match running.await {
            Ok(ended) => Ok(ended),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(PullError::Interrupted { reference: context.reference.to_string() }),
        }
    }
}

impl BlobSink for WriterThread {
    fn received(&self) -> u64 {
        self.received_bytes
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.piece.len() + bytes.len() > PIECE_BYTES {
            self.send_piece()?;
        }
        if bytes.len() >= PIECE_BYTES {
            self.send(Message::Piece(bytes.to_vec()))?;
        } else {
            self.piece.reserve_exact(PIECE_BYTES - self.piece.len());
            self.piece.extend_from_slice(bytes);
        }
        self.received_bytes += bytes.len() as u64;
        Ok(())
    }

    fn restart(&mut self) -> io::Result<()> {
        self.piece.clear();
        self.received_bytes = 0;
        self.send(Message::Restart)
    }
}

fn write_all(mut writer: BlobWriter, receiver: &Receiver<Message>) -> (BlobWriter, io::Result<()>) {
    while let Ok(message) = receiver.recv() {
        let written = match message {
            Message::Piece(bytes) => BlobSink::write(&mut writer, &bytes),
            Message::Restart => writer.restart(),
        };
        if written.is_err() {
            return (writer, written);
        }
    }
    (writer, Ok(()))
}
