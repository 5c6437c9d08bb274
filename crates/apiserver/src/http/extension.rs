//! Routes that are no kinds: subresources that something outside this crate answers (a console, a log).

use axum::Router;

/// Which requests a router of the caller's answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extends {
    /// Every path that starts with this (`/apis/subresources.kubevirt.io/`).
    Path(String),
    /// One subresource of a kind that is registered.
    Subresource {
        /// The group; empty for the core group.
        group: String,
        /// The plural, `pods`.
        resource: String,
        /// `log`
        subresource: String,
    },
}

/// A router that answers some requests in the kinds' place. It sees the whole path, after authentication and
/// authorization, with the caller's identity as a request extension.
///
/// Its answers are passed on as they are: no timeout, no compression.
#[derive(Debug, Clone)]
pub struct Extension {
    /// What it answers.
    pub extends: Extends,
    /// The answers.
    pub router: Router,
}
