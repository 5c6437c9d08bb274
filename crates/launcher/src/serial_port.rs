//! The guest's serial port for those who attach to it from outside.
//!
//! ```text
//!  session ──► record ──► ring ──┬──► the session that types ──► input ──► guest
//!                 ▲              └──► viewers, who only look
//!                 └ waits while the one that types would lose bytes
//! ```
//!
//! What the guest says is kept in a ring, so that who comes late can see the boot. As with KubeVirt one client types: the
//! next one takes its place. The guest waits for that one, as it would for a terminal, but no longer than
//! [`STALL_LIMIT`]; a viewer that is too slow is let go instead.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// Bytes of the console that are kept: some ten boots of a Linux kernel.
pub const RING_BYTES: usize = 1 << 20;

/// How long the guest waits for the client that types. What does not read for so long is stuck.
pub const STALL_LIMIT: Duration = Duration::from_secs(10);

/// Most bytes that are handed on at a time.
const PIECE_BYTES: usize = 64 << 10;

/// Pieces of input that wait for the guest.
const INPUT_PIECES: usize = 4;

/// How to attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attach {
    /// Only look: nobody is put off, and nothing can be typed.
    pub read_only: bool,
    /// Begin with what is kept of this boot, not with what comes next.
    pub replay: bool,
}

/// Why an attachment is over while the machine is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detached {
    /// Another client types now, or this one did not read for too long.
    PutOff,
    /// The guest has said more than is kept since the last read.
    Behind,
}

/// The port. Clones are the same port.
#[derive(Debug, Clone)]
pub struct SerialPort {
    state: Arc<watch::Sender<State>>,
    input: mpsc::Sender<Vec<u8>>,
    patience: Duration,
}

#[derive(Debug, Default)]
struct State {
    ring: VecDeque<u8>,
    /// How many bytes the guest has said.
    end: u64,
    /// How many it had said when this boot began.
    boot: u64,
    typist: Option<Typist>,
    /// How many clients have typed; their numbers.
    typists: u64,
    /// Nothing more will be said.
    is_over: bool,
}

/// The client that types.
#[derive(Debug, Clone, Copy)]
struct Typist {
    number: u64,
    /// How many bytes it has taken, counted as [`State::end`].
    position: u64,
}

impl State {
    /// The first byte that is kept.
    fn start(&self) -> u64 {
        self.end - self.ring.len() as u64
    }

    /// Whether `length` bytes can be kept without a loss to the one that types.
    fn has_room(&self, length: usize) -> bool {
        self.typist.is_none_or(|typist| self.end - typist.position + length as u64 <= RING_BYTES as u64)
    }

    fn push(&mut self, bytes: &[u8]) {
        let surplus = (self.ring.len() + bytes.len()).saturating_sub(RING_BYTES);
        self.ring.drain(..surplus);
        self.ring.extend(bytes);
        self.end += bytes.len() as u64;
    }

    /// What follows `position`, at most [`PIECE_BYTES`]; `None` when that is not kept any more.
    fn after(&self, position: u64) -> Option<Bytes> {
        let from = usize::try_from(position.checked_sub(self.start())?).ok()?;
        let to = self.ring.len().min(from + PIECE_BYTES);
        Some(self.ring.range(from..to).copied().collect())
    }

    fn is_typed_by(&self, number: u64) -> bool {
        self.typist.is_some_and(|typist| typist.number == number)
    }
}

impl SerialPort {
    /// A port, and what is typed on it.
    pub fn new() -> (Self, mpsc::Receiver<Vec<u8>>) {
        Self::with_patience(STALL_LIMIT)
    }

    fn with_patience(patience: Duration) -> (Self, mpsc::Receiver<Vec<u8>>) {
        let (input, typed) = mpsc::channel(INPUT_PIECES);
        (Self { state: Arc::default(), input, patience }, typed)
    }

    /// Takes what the guest says, at most [`RING_BYTES`] at a time. Waits for the client that types, as the module says.
    pub async fn record(&self, bytes: &[u8]) {
        if !self.state.borrow().has_room(bytes.len()) {
            let mut state = self.state.subscribe();
            let taken = timeout(self.patience, state.wait_for(|state| state.has_room(bytes.len()))).await;
            if taken.is_err() {
                tracing::warn!("a client of the console does not read and is let go");
                self.state.send_modify(|state| state.typist = None);
            }
        }
        self.state.send_modify(|state| state.push(bytes));
    }

    /// The guest has restarted: a replay begins here.
    pub fn begin_boot(&self) {
        self.state.send_modify(|state| state.boot = state.end);
    }

    /// The guest has said its last.
    pub fn close(&self) {
        self.state.send_modify(|state| state.is_over = true);
    }

    /// Attaches. Who typed until now is put off.
    pub fn attach(&self, how: Attach) -> Attachment {
        let (mut position, mut number) = (0, None);
        self.state.send_modify(|state| {
            position = if how.replay { state.boot.max(state.start()) } else { state.end };
            if !how.read_only {
                state.typists += 1;
                number = Some(state.typists);
                state.typist = Some(Typist { number: state.typists, position });
            }
        });
        Attachment { port: self.clone(), watched: self.state.subscribe(), position, number }
    }
}

/// One client's end of the port. Dropping it detaches.
#[derive(Debug)]
pub struct Attachment {
    port: SerialPort,
    watched: watch::Receiver<State>,
    position: u64,
    /// For the one that types.
    number: Option<u64>,
}

impl Attachment {
    /// What the guest says next; `None` when it has said its last. Cancel safe.
    ///
    /// # Errors
    /// [`Detached`]; nothing follows.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Detached> {
        let (number, position) = (self.number, self.position);
        let is_put_off = |state: &State| number.is_some_and(|number| !state.is_typed_by(number));
        let bytes = {
            let waited = self
                .watched
                .wait_for(|state| state.end > position || state.is_over || is_put_off(state))
                .await;
            // The port, which sends, is a part of this.
            let Ok(state) = waited else { return Ok(None) };
            if is_put_off(&state) {
                return Err(Detached::PutOff);
            }
            state.after(position).ok_or(Detached::Behind)?
        };
        if bytes.is_empty() {
            return Ok(None);
        }
        self.position += bytes.len() as u64;
        let (position, full) = (self.position, RING_BYTES as u64 / 2);
        if let Some(number) = number {
            self.port.state.send_if_modified(|state| {
                let Some(typist) = state.typist.as_mut().filter(|typist| typist.number == number) else {
                    return false;
                };
                // Only a guest that waits has to know.
                let may_wait = state.end - typist.position > full;
                typist.position = position;
                may_wait
            });
        }
        Ok(Some(bytes))
    }

    /// What types for this client.
    pub fn keyboard(&self) -> Keyboard {
        Keyboard { number: self.number, watched: self.watched.clone(), input: self.port.input.clone() }
    }
}

/// Types for one client.
#[derive(Debug)]
pub struct Keyboard {
    number: Option<u64>,
    watched: watch::Receiver<State>,
    input: mpsc::Sender<Vec<u8>>,
}

impl Keyboard {
    /// Types; waits while the guest does not read. What a viewer types, or one that was put off, goes nowhere. `false` when
    /// there is no guest any more.
    pub async fn write(&self, bytes: Vec<u8>) -> bool {
        let types = self.number.is_some_and(|number| self.watched.borrow().is_typed_by(number));
        !types || self.input.send(bytes).await.is_ok()
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        self.port.state.send_if_modified(|state| {
            let was_typed_by = state.is_typed_by(number);
            if was_typed_by {
                state.typist = None;
            }
            was_typed_by
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const TYPE: Attach = Attach { read_only: false, replay: false };
    const LOOK: Attach = Attach { read_only: true, replay: false };

    /// All that has been said, until nothing more is there.
    async fn read(attachment: &mut Attachment, length: usize) -> Vec<u8> {
        let mut said = Vec::new();
        while said.len() < length {
            said.extend(attachment.next().await.unwrap().unwrap());
        }
        said
    }

    #[tokio::test]
    async fn a_replay_begins_with_the_boot_and_others_with_what_comes() {
        let (port, _typed) = SerialPort::new();
        port.record(b"first boot\n").await;
        port.begin_boot();
        port.record(b"second boot\n").await;
        let mut replayed = port.attach(Attach { read_only: true, replay: true });
        let mut looked = port.attach(LOOK);
        let mut typed = port.attach(TYPE);
        port.record(b"more").await;
        assert_eq!(read(&mut replayed, 16).await, b"second boot\nmore");
        assert_eq!(read(&mut looked, 4).await, b"more");
        assert_eq!(read(&mut typed, 4).await, b"more");
        port.record(b"last").await;
        port.close();
        assert_eq!(read(&mut looked, 4).await, b"last");
        assert_eq!(looked.next().await, Ok(None));
        assert_eq!(port.attach(TYPE).next().await, Ok(None), "also for who comes then");
    }

    #[tokio::test]
    async fn one_types_and_the_next_takes_its_place() {
        let (port, mut typed) = SerialPort::new();
        let mut first = port.attach(TYPE);
        let mut viewer = port.attach(LOOK);
        assert!(first.keyboard().write(b"a".to_vec()).await);
        assert!(viewer.keyboard().write(b"no".to_vec()).await);
        let mut second = port.attach(TYPE);
        assert_eq!(first.next().await, Err(Detached::PutOff));
        assert!(first.keyboard().write(b"no".to_vec()).await);
        drop(first);
        assert!(second.keyboard().write(b"b".to_vec()).await);
        assert_eq!(typed.recv().await.unwrap(), b"a");
        assert_eq!(typed.recv().await.unwrap(), b"b");
        port.record(b"heard").await;
        assert_eq!(read(&mut second, 5).await, b"heard");
        assert_eq!(read(&mut viewer, 5).await, b"heard");
        drop(typed);
        assert!(!second.keyboard().write(b"c".to_vec()).await, "there is no guest any more");
    }

    #[tokio::test]
    async fn the_guest_waits_for_the_one_that_types_and_not_for_viewers() {
        let (port, _typed) = SerialPort::new();
        let mut viewer = port.attach(LOOK);
        let mut typist = port.attach(TYPE);
        let said: Vec<u8> = (0..RING_BYTES + 3000).map(|number| (number % 251) as u8).collect();
        let recording = tokio::spawn({
            let (port, said) = (port.clone(), said.clone());
            async move {
                for piece in said.chunks(1000) {
                    port.record(piece).await;
                }
            }
        });
        port.state.subscribe().wait_for(|state| !state.has_room(1000)).await.unwrap();
        assert!(!recording.is_finished());
        assert!(read(&mut typist, said.len()).await == said, "nothing is lost");
        recording.await.unwrap();
        assert_eq!(viewer.next().await, Err(Detached::Behind));
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_is_let_go() {
        let (port, _typed) = SerialPort::with_patience(Duration::from_millis(10));
        let mut stuck = port.attach(TYPE);
        for _ in 0..RING_BYTES / 1024 + 1 {
            port.record(&[b'x'; 1024]).await;
        }
        assert_eq!(stuck.next().await, Err(Detached::PutOff));
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(24))]

        /// Whatever is said, and however it is read: what is read is what was said, from where the reader began.
        #[test]
        fn nothing_is_changed_or_repeated(
            pieces in proptest::collection::vec(1usize..40_000, 1..60),
            boot in 0usize..60,
        ) {
            let (port, _typed) = SerialPort::new();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let (mut said, mut began) = (Vec::new(), 0);
                for (index, length) in pieces.iter().enumerate() {
                    if index == boot {
                        port.begin_boot();
                        began = said.len();
                    }
                    let piece: Vec<u8> = (0..*length).map(|number| (said.len() + number) as u8).collect();
                    port.record(&piece).await;
                    said.extend(piece);
                }
                let expected = &said[began.max(said.len().saturating_sub(RING_BYTES))..];
                let mut replayed = port.attach(Attach { read_only: true, replay: true });
                assert!(read(&mut replayed, expected.len()).await == expected);
            });
        }
    }
}
