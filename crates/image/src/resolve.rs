//! Resolution of paths in an image.

/// Why a path does not lead to a usable file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// Placeholder.
    #[error("it is a directory")]
    Directory,
}

impl ResolveError {
    /// What the user can do about it, if anything.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        None
    }
}
