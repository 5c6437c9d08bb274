//! Noticing that an HTTP/2 connection is not used: it answers pings for as long as its client lives.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// The requests of one connection that are not answered in full.
#[derive(Default)]
pub(super) struct Streams {
    open: AtomicUsize,
    changed: Notify,
}

/// One of them, until it is dropped.
pub(super) struct Stream(Arc<Streams>);

impl Streams {
    /// A request has come.
    pub(super) fn begin(self: &Arc<Self>) -> Stream {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_one();
        Stream(Arc::clone(self))
    }

    /// Waits until there has been none for `limit`.
    pub(super) async fn idle(&self, limit: Duration) {
        loop {
            let changed = self.changed.notified();
            if self.open.load(Ordering::Relaxed) > 0 {
                changed.await;
            } else if tokio::time::timeout(limit, changed).await.is_err() {
                return;
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.changed.notify_one();
    }
}
