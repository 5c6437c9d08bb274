//! The files of keys and certificates.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::PkiError;
use crate::files;

/// No certificate or key of ours comes near it.
const MAX_FILE_BYTES: u64 = 64 * 1024;

fn error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PkiError {
    let path = path.to_owned();
    move |source| PkiError::File { action, path, source }
}

/// Makes a directory that its owner alone may enter.
pub(super) fn create_directory(path: &Path) -> Result<(), PkiError> {
    files::create_private_directory(path).map_err(error("create", path))
}

/// The file's text; `None` when there is no such file.
pub(super) fn read(path: &Path) -> Result<Option<String>, PkiError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(error("read", path)(cause)),
    };
    let mut text = String::new();
    file.take(MAX_FILE_BYTES).read_to_string(&mut text).map_err(error("read", path))?;
    Ok(Some(text))
}

/// Writes `path` as a whole or not at all, readable by its owner only.
pub(super) fn write(path: &Path, text: &str) -> Result<(), PkiError> {
    files::write_private(path, text).map_err(error("write", path))
}
