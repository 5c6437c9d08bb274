//! The body of a list: the stored bytes of each object, one after the other.
//!
//! Nothing is parsed and nothing is copied but into the chunk that is being sent, so a list of any length costs the
//! memory of one chunk and of the (shared) objects.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};

use crate::status::ApiError;
use crate::store::Stored;
use crate::verbs::{List, View};

/// A chunk is sent when it has this many bytes.
const CHUNK: usize = 64 * 1024;
const END: &[u8] = b"]}\n";

/// The body.
#[derive(Debug)]
pub struct ListBody {
    head: Bytes,
    items: std::vec::IntoIter<Arc<Stored>>,
    view: View,
    state: State,
    /// Bytes still to come, where that is known beforehand.
    left: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    Items { first: bool },
    Done,
}

impl ListBody {
    /// The body of a list of this kind and version.
    pub fn new(list_kind: &str, api_version: &str, list: List) -> Self {
        let head = format!(
            "{{\"kind\":{},\"apiVersion\":{},\"metadata\":{},\"items\":[",
            serde_json::Value::from(list_kind),
            serde_json::Value::from(api_version),
            list.metadata()
        );
        let left = list.view.is_identity().then(|| {
            let items: usize = list.items.iter().map(|stored| stored.json.len()).sum();
            let commas = list.items.len().saturating_sub(1);
            (head.len() + items + commas + END.len()) as u64
        });
        Self {
            head: Bytes::from(head),
            items: list.items.into_iter(),
            view: list.view,
            state: State::Head,
            left,
        }
    }

    /// The length of what is still to come, if it is known.
    pub fn length(&self) -> Option<u64> {
        self.left
    }

    fn chunk(&mut self) -> Result<BytesMut, ApiError> {
        let mut chunk = BytesMut::with_capacity(CHUNK.min(self.left.map_or(CHUNK, |left| left as usize)));
        if self.state == State::Head {
            chunk.extend_from_slice(&self.head);
            self.state = State::Items { first: true };
        }
        while chunk.len() < CHUNK {
            let State::Items { first } = self.state else { break };
            let Some(stored) = self.items.next() else {
                chunk.extend_from_slice(END);
                self.state = State::Done;
                break;
            };
            if !first {
                chunk.extend_from_slice(b",");
            }
            chunk.extend_from_slice(&self.view.bytes(&stored)?);
            self.state = State::Items { first: false };
        }
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(chunk.len() as u64);
        }
        Ok(chunk)
    }
}

impl http_body::Body for ListBody {
    type Data = Bytes;
    type Error = ApiError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ApiError>>> {
        if self.state == State::Done {
            return Poll::Ready(None);
        }
        let chunk = self.chunk();
        if chunk.is_err() {
            self.state = State::Done;
        }
        Poll::Ready(Some(chunk.map(|chunk| Frame::data(chunk.freeze()))))
    }

    fn is_end_stream(&self) -> bool {
        self.state == State::Done
    }

    fn size_hint(&self) -> SizeHint {
        match self.left {
            Some(left) => SizeHint::with_exact(left),
            None => {
                // Not the end yet, and large enough to compress if it has many items.
                let mut hint = SizeHint::new();
                let items: usize = self.items.as_slice().iter().map(|stored| stored.json.len()).sum();
                hint.set_lower((items / 2) as u64);
                hint
            }
        }
    }
}
