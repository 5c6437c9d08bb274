//! The guest's display: QEMU serves it as VNC on a socket in its own directory, and one client at a time is let in.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::UnixStream;
use tokio::sync::{Mutex, oneshot};

use crate::qemu_socket;

/// The way to a display. Clones share who has it.
#[derive(Debug, Clone)]
pub(crate) struct Display(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    socket: PathBuf,
    /// Dropped to put off the client that has the display; closed when that one has gone by itself. Locked while QEMU is
    /// asked to let the next one in.
    holder: Mutex<Option<oneshot::Sender<()>>>,
}

/// Why a client is not let in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DisplayError {
    /// There is none, or no machine.
    #[error("the machine has no display: {0}")]
    Missing(io::Error),
    /// Another client has it, who is not to be put off.
    #[error("Active VNC connection. Request denied.")]
    Busy,
}

/// A client's time at the display.
#[derive(Debug)]
pub(crate) struct Session {
    stream: UnixStream,
    put_off: oneshot::Receiver<()>,
}

impl Display {
    /// That which is served on `socket`, once a machine runs that has one.
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self(Arc::new(Inner { socket, holder: Mutex::default() }))
    }

    /// Lets a client in, which puts off another unless that is to be preserved.
    pub(crate) async fn connect(&self, preserve: bool) -> Result<Session, DisplayError> {
        let mut holder = self.0.holder.lock().await;
        if preserve && holder.as_ref().is_some_and(|holder| !holder.is_closed()) {
            return Err(DisplayError::Busy);
        }
        let stream = qemu_socket::connect(&self.0.socket).await.map_err(DisplayError::Missing)?;
        let (sender, put_off) = oneshot::channel();
        *holder = Some(sender);
        Ok(Session { stream, put_off })
    }
}

impl Session {
    /// Carries bytes until either side ends, or another client is let in.
    pub(crate) async fn carry(mut self, mut client: impl AsyncRead + AsyncWrite + Unpin) {
        tokio::select! {
            // Never sent: it comes when the sender is dropped.
            _ = &mut self.put_off => {}
            // Whoever failed is gone, and the other one sees that its stream ends.
            _ = copy_bidirectional(&mut client, &mut self.stream) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn one_client_has_the_display_and_the_next_puts_it_off_unless_it_is_preserved() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("vnc.sock");
        let display = Display::new(socket.clone());
        assert!(matches!(display.connect(false).await, Err(DisplayError::Missing(_))));
        let listener = UnixListener::bind(&socket).unwrap();
        let server = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.write_all(b"RFB").await.unwrap();
                // Held until the test is over.
                tokio::spawn(async move { stream.read_to_end(&mut Vec::new()).await });
            }
        });
        let client = async |preserve| {
            let session = display.connect(preserve).await?;
            let (mut near, far) = duplex(64);
            tokio::spawn(session.carry(far));
            let mut greeting = [0; 3];
            near.read_exact(&mut greeting).await.unwrap();
            assert_eq!(&greeting, b"RFB");
            Ok::<_, DisplayError>(near)
        };
        let mut first = client(true).await.unwrap();
        assert!(matches!(client(true).await, Err(DisplayError::Busy)));
        let second = client(false).await.unwrap();
        assert_eq!(first.read(&mut [0; 8]).await.unwrap(), 0, "the first is put off");
        assert!(matches!(client(true).await, Err(DisplayError::Busy)));
        drop(second);
        // Its going is noticed in a moment.
        while matches!(display.connect(true).await, Err(DisplayError::Busy)) {
            tokio::task::yield_now().await;
        }
        server.abort();
    }
}
