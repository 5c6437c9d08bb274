//! The static token file: `token,user,uid,"group1,group2"` on each line, as kube-apiserver's `--token-auth-file` reads it.

use std::fmt;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::Identity;

/// Why a token file cannot be used. The text holds no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    /// It cannot be read.
    #[error("cannot read the token file `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
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

/// Known tokens, as hashes: nothing that this holds or prints is a token.
#[derive(Clone, Default)]
pub struct TokenFile {
    entries: Vec<([u8; 32], Identity)>,
}

impl fmt::Debug for TokenFile {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "TokenFile({} tokens)", self.entries.len())
    }
}

impl TokenFile {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read or a line is wrong.
    pub fn read(path: &Path) -> Result<Self, TokenFileError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| TokenFileError::Read { path: path.to_owned(), source })?;
        Self::parse(&text)
    }

    /// Parses the text of a file: CSV (RFC 4180) of at least three columns. Where a token is there twice, the last line
    /// counts; lines without a token are passed over. Both is what Kubernetes does.
    ///
    /// # Errors
    /// When a line is wrong.
    pub fn parse(text: &str) -> Result<Self, TokenFileError> {
        let mut entries: Vec<([u8; 32], Identity)> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            if line.is_empty() {
                continue;
            }
            let fault = |fault| TokenFileError::Line { line: index + 1, fault };
            let columns = columns(line).map_err(fault)?;
            let [token, user, uid, rest @ ..] = &columns[..] else {
                return Err(fault("there must be at least three columns (token, user name, user uid)"));
            };
            if token.is_empty() {
                continue;
            }
            let groups = rest.first().map_or("", String::as_str).split(',').filter(|group| !group.is_empty());
            let identity = Identity {
                user: user.clone(),
                uid: uid.clone(),
                groups: groups.map(str::to_owned).collect(),
                ..Identity::default()
            };
            let hash = hash(token);
            entries.retain(|(known, _)| *known != hash);
            entries.push((hash, identity));
        }
        Ok(Self { entries })
    }

    /// Whose token it is. The time this takes says nothing about the tokens: hashes are compared, each as a whole.
    pub(super) fn find(&self, token: &str) -> Option<&Identity> {
        let wanted = hash(token);
        let mut found = None;
        for (known, identity) in &self.entries {
            let difference = known.iter().zip(&wanted).fold(0, |bits, (one, other)| bits | (one ^ other));
            if std::hint::black_box(difference) == 0 {
                found = Some(identity);
            }
        }
        found
    }
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// The columns of one line. Quoted ones may hold commas and doubled quotes, and end where the line does at the latest.
fn columns(line: &str) -> Result<Vec<String>, &'static str> {
    let mut columns = Vec::new();
    let mut rest = line;
    loop {
        let (column, after) = if let Some(quoted) = rest.strip_prefix('"') {
            quoted_column(quoted)?
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            if rest[..end].contains('"') {
                return Err("a quote stands inside a column that is not quoted");
            }
            (rest[..end].to_owned(), &rest[end..])
        };
        columns.push(column);
        match after.strip_prefix(',') {
            Some(after) => rest = after,
            None if after.is_empty() => return Ok(columns),
            None => return Err("something follows a closing quote"),
        }
    }
}

fn quoted_column(mut rest: &str) -> Result<(String, &str), &'static str> {
    let mut column = String::new();
    loop {
        let end = rest.find('"').ok_or("a quote is not closed")?;
        column.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(after) => {
                column.push('"');
                rest = after;
            }
            None => return Ok((column, rest)),
        }
    }
}
