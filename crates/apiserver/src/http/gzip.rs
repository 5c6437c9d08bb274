//! A body that is compressed while it is sent.

use std::io::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::{Buf as _, Bytes};
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body::Frame;

/// Compressed bytes are sent when there are this many.
const CHUNK: usize = 16 * 1024;
/// Plain bytes that are compressed in one go, about a millisecond's worth at the most.
const SLICE: usize = 64 * 1024;

/// The body.
#[derive(Debug)]
pub struct GzipBody {
    inner: Body,
    /// `None` when the trailer is written.
    encoder: Option<GzEncoder<Vec<u8>>>,
    plain: Bytes,
}

impl GzipBody {
    /// Compresses `inner`, at the level at which Kubernetes does.
    pub fn new(inner: Body) -> Self {
        let encoder = GzEncoder::new(Vec::with_capacity(CHUNK + 4096), Compression::fast());
        Self { inner, encoder: Some(encoder), plain: Bytes::new() }
    }
}

impl http_body::Body for GzipBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        loop {
            let Some(encoder) = &mut this.encoder else { return Poll::Ready(None) };
            if encoder.get_ref().len() >= CHUNK {
                let chunk = std::mem::replace(encoder.get_mut(), Vec::with_capacity(CHUNK + 4096));
                return Poll::Ready(Some(Ok(Frame::data(Bytes::from(chunk)))));
            }
            if this.plain.is_empty() {
                match ready!(Pin::new(&mut this.inner).poll_frame(context)) {
                    Some(Ok(frame)) => this.plain = frame.into_data().unwrap_or_default(),
                    Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                    None => {
                        let end = this.encoder.take().map(GzEncoder::finish);
                        return Poll::Ready(end.map(|end| {
                            end.map(|bytes| Frame::data(Bytes::from(bytes))).map_err(axum::Error::new)
                        }));
                    }
                }
                continue;
            }
            let slice = this.plain.len().min(SLICE);
            if let Err(error) = encoder.write_all(&this.plain[..slice]) {
                return Poll::Ready(Some(Err(axum::Error::new(error))));
            }
            this.plain.advance(slice);
        }
    }
}
