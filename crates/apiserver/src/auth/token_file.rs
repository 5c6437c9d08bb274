//! The static token file: `token,user,uid,"group1,group2"` on each line.

use std::path::Path;

/// Why a token file cannot be used. The text holds no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    /// It cannot be read.
    #[error("cannot read the token file `{path}`")]
    Read {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A line is not as it must be.
    #[error("line {line} of the token file: {fault}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        fault: &'static str,
    },
}

/// Known tokens, as hashes.
#[derive(Debug, Clone, Default)]
pub struct TokenFile {}

impl TokenFile {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read or a line is wrong.
    pub fn read(_path: &Path) -> Result<Self, TokenFileError> {
        Ok(Self {})
    }

    /// Parses the text of a file.
    ///
    /// # Errors
    /// When a line is wrong.
    pub fn parse(_text: &str) -> Result<Self, TokenFileError> {
        Ok(Self {})
    }
}
