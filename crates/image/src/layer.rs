//! Layers.

/// Why a layer cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// Placeholder.
    #[error("the layer is truncated")]
    Truncated,
}

impl LayerError {
    /// What the user can do about it, if anything.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        None
    }
}
