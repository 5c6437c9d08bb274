//! What can go wrong between us and a registry.

/// Why an operation on a registry failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// A placeholder.
    #[error("not built yet")]
    Unfinished,
    /// The sink could not keep what was downloaded.
    #[error("cannot keep what `{host}` sends of {what}")]
    Sink {
        /// The registry's host.
        host: String,
        /// What was downloaded.
        what: String,
        /// Why it could not be kept.
        source: std::io::Error,
    },
}

impl RegistryError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        None
    }
}
