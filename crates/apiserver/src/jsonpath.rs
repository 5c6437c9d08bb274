//! The JSONPath of printer columns.

use serde_json::Value;

/// A path as `additionalPrinterColumns` has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Path;

/// Why a path cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PathError(String);

impl Path {
    /// Reads a path.
    ///
    /// # Errors
    /// When it is not one of the forms that are known.
    pub fn parse(_text: &str) -> Result<Self, PathError> {
        Ok(Self)
    }

    /// The first value that the path leads to.
    pub fn first<'a>(&self, _value: &'a Value) -> Option<&'a Value> {
        None
    }

    /// Every value that the path leads to, in order.
    pub fn all<'a>(&self, _value: &'a Value) -> Vec<&'a Value> {
        Vec::new()
    }
}
