//! Copies of streams that have to be read in any order.

use std::fs::File;
use std::io::{self, Read, Write};

use crate::store::{Store, StoreError};

/// Why a stream was not spooled.
#[derive(Debug)]
pub(super) enum SpoolError {
    /// More than the limit came out of it.
    TooLarge,
    /// It cannot be read or decompressed.
    Read(io::Error),
    /// The spool cannot be written.
    Store(StoreError),
}

/// Copies a stream into a file without a name in the store, which is gone when it is closed, whatever happens.
pub(super) fn nameless_copy(
    store: &Store,
    mut reader: impl Read,
    limit_bytes: u64,
) -> Result<File, SpoolError> {
    let mut file = store.nameless_file().map_err(SpoolError::Store)?;
    let mut buffer = vec![0_u8; 64 * 1024];
    let mut copied_bytes: u64 = 0;
    loop {
        let count = match reader.read(&mut buffer) {
            Ok(0) => return Ok(file),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(SpoolError::Read(error)),
        };
        copied_bytes += count as u64;
        if copied_bytes > limit_bytes {
            return Err(SpoolError::TooLarge);
        }
        file.write_all(&buffer[..count])
            .map_err(|source| SpoolError::Store(store.write_error("write", store.root(), None, source)))?;
    }
}
