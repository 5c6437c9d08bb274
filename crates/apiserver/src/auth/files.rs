//! Files that only this server's user may read, written so that a crash leaves the old or the new one whole.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::PkiError;

/// No certificate or key of ours comes near it.
const MAX_FILE_BYTES: u64 = 64 * 1024;

fn error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PkiError {
    let path = path.to_owned();
    move |source| PkiError::File { action, path, source }
}

/// Makes a directory that its owner alone may enter. One that exists has its permissions narrowed.
pub(super) fn create_private_directory(path: &Path) -> Result<(), PkiError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(error("create", path))?;
    fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(error("set the permissions of", path))
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

/// Writes `path` as a whole or not at all, readable by its owner only. A file that says `text` already is left alone, so
/// that a server starts on a full disk.
///
/// The store's lock on the state directory keeps two servers from doing this at once; a temporary file that a crash
/// left is replaced.
pub(super) fn write(path: &Path, text: &str) -> Result<(), PkiError> {
    if read(path).is_ok_and(|known| known.as_deref() == Some(text)) {
        return fs::set_permissions(path, Permissions::from_mode(0o600))
            .map_err(error("set the permissions of", path));
    }
    let temporary = path.with_extension("tmp");
    write_whole(path, &temporary, text).map_err(|cause| {
        // What is half-done takes space and serves nobody; that it cannot be removed changes nothing about the failure.
        let _ = fs::remove_file(&temporary);
        error("write", path)(cause)
    })
}

fn write_whole(path: &Path, temporary: &Path, text: &str) -> io::Result<()> {
    match fs::remove_file(temporary) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(temporary, path)?;
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}
