//! Directories and files that only this server's user may read, written so that a crash leaves the old or the new one
//! whole.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Makes a directory that its owner alone may enter. One that exists has its permissions narrowed.
pub(crate) fn create_private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o700))
}

/// Writes `path` as a whole or not at all, readable by its owner only. A file that says `text` already is left alone, so
/// that a server starts on a full disk.
///
/// The store's lock on the state directory keeps two servers from doing this at once; a temporary file that a crash
/// left is replaced.
pub(crate) fn write_private(path: &Path, text: &str) -> io::Result<()> {
    if fs::read(path).is_ok_and(|known| known == text.as_bytes()) {
        return fs::set_permissions(path, Permissions::from_mode(0o600));
    }
    let temporary = path.with_extension("tmp");
    write_whole(path, &temporary, text).inspect_err(|_| {
        // What is half-done takes space and serves nobody; that it cannot be removed changes nothing about the failure.
        let _ = fs::remove_file(&temporary);
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
