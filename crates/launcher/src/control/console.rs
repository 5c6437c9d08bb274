//! The serial port over a connection of its own: HTTP's upgrade, then the bytes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::server::Refused;
use super::upgrade::Upgrade;
use crate::serial_port::{Attach, Attachment, SerialPort};

/// How it is asked for.
pub(super) const UPGRADE: Upgrade = Upgrade { path: "/v1/console", protocol: "ferrovirt-console" };

/// Bytes of input that are read at a time.
const INPUT_BYTES: usize = 16 << 10;

/// Path and query of a request.
pub(super) fn uri(how: Attach) -> String {
    format!("{}?readOnly={}&replay={}", UPGRADE.path, how.read_only, how.replay)
}

fn read_query(query: &str) -> Result<Attach, String> {
    let mut how = Attach::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let wrong = || format!("`{pair}` is not `readOnly=BOOL` or `replay=BOOL`");
        let (name, value) = pair.split_once('=').ok_or_else(wrong)?;
        let place = match name {
            "readOnly" => &mut how.read_only,
            "replay" => &mut how.replay,
            _ => return Err(wrong()),
        };
        *place = value.parse().map_err(|_| wrong())?;
    }
    Ok(how)
}

/// A console that was granted; it begins once the answer is out.
pub(super) struct Granted {
    upgrade: OnUpgrade,
    attachment: Attachment,
}

/// Answers a request for the console.
///
/// # Errors
/// The code and the reason of a refusal.
pub(super) fn grant(
    request: &mut Request<Incoming>,
    port: &SerialPort,
) -> Result<(Response<Full<Bytes>>, Granted), Refused> {
    let how = UPGRADE.asked(request, read_query)?;
    let (response, upgrade) = UPGRADE.granted(request);
    let granted = Granted { upgrade, attachment: port.attach(how) };
    Ok((response, granted))
}

impl Granted {
    /// Carries the bytes until the client goes, is put off, or the guest has said its last.
    pub(super) async fn carry(self) {
        let Self { upgrade, mut attachment } = self;
        // Who is gone before that needs nothing.
        let Ok(upgraded) = upgrade.await else { return };
        let (mut from_client, mut to_client) = tokio::io::split(TokioIo::new(upgraded));
        let keyboard = attachment.keyboard();
        let typing = async {
            let mut buffer = vec![0; INPUT_BYTES];
            // Its end and its faults are one: the client is gone.
            while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
                if !keyboard.write(buffer[..length].to_vec()).await {
                    // What the guest said last is still to be told.
                    return std::future::pending().await;
                }
            }
        };
        let telling = async {
            while let Ok(said) = attachment.next().await {
                let told = match said {
                    Some(bytes) => match to_client.write_all(&bytes).await {
                        Ok(()) => to_client.flush().await,
                        failed => failed,
                    },
                    None => {
                        // Nobody is left to be told when this fails.
                        let _ = to_client.shutdown().await;
                        return;
                    }
                };
                if told.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = typing => {}
            () = telling => {}
        }
    }
}

/// A client's end of a serial port: what the guest says can be read, and what is written is typed.
///
/// The end of the stream is the guest's end. When another client types instead, reading fails with
/// [`io::ErrorKind::UnexpectedEof`].
#[derive(Debug)]
pub struct Console(TokioIo<Upgraded>);

impl Console {
    pub(super) fn new(upgraded: Upgraded) -> Self {
        Self(TokioIo::new(upgraded))
    }
}

impl AsyncRead for Console {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Console {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_a_client_asks_for_is_what_is_read() {
        for read_only in [false, true] {
            for replay in [false, true] {
                let how = Attach { read_only, replay };
                assert_eq!(read_query(uri(how).split_once('?').unwrap().1), Ok(how));
            }
        }
        assert_eq!(read_query(""), Ok(Attach::default()));
        for wrong in ["replay", "replay=1", "x=true", "readOnly=true&x=y"] {
            assert!(read_query(wrong).is_err(), "{wrong}");
        }
    }
}
