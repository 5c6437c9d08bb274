//! Label and field selectors.

use serde_json::Value;

use crate::kind::Kind;
use crate::status::ApiError;

/// A label selector.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels;

impl Labels {
    /// Reads a selector as it stands in `labelSelector=`.
    ///
    /// # Errors
    /// 400 when it cannot be read.
    pub fn parse(_text: &str) -> Result<Self, ApiError> {
        Ok(Self)
    }

    /// Reads a `metav1.LabelSelector` (`matchLabels` and `matchExpressions`).
    ///
    /// # Errors
    /// 400 when it cannot be read.
    pub fn from_object(_selector: &Value) -> Result<Self, ApiError> {
        Ok(Self)
    }

    /// Whether every object matches.
    pub fn is_empty(&self) -> bool {
        true
    }

    /// Whether the labels of `object` match.
    pub fn matches(&self, _object: &Value) -> bool {
        true
    }
}

/// A field selector.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields;

impl Fields {
    /// Reads a selector as it stands in `fieldSelector=`.
    ///
    /// # Errors
    /// 400 when it cannot be read or names a field that cannot be selected by.
    pub fn parse(_text: &str, _kind: &Kind) -> Result<Self, ApiError> {
        Ok(Self)
    }

    /// Whether every object matches.
    pub fn is_empty(&self) -> bool {
        true
    }

    /// Whether the fields of `object` match.
    pub fn matches(&self, _object: &Value) -> bool {
        true
    }

    /// The one name that objects must have, where the selector says so.
    pub fn exact_name(&self) -> Option<&str> {
        None
    }

    /// The one namespace that objects must be in, where the selector says so.
    pub fn exact_namespace(&self) -> Option<&str> {
        None
    }
}
