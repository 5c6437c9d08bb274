//! The console's log file: everything the guest wrote, up to a bound.
//!
//! A guest can write for ever. When the file has [`FILE_BYTES`], it becomes `NAME.1` (replacing an older one) and a
//! new file is begun: the latest [`FILE_BYTES`] at least are always there, and twice that at most are on the disk.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Size at which a log file is set aside, in bytes.
pub const FILE_BYTES: u64 = 32 << 20;

/// A log that is written as the guest speaks.
#[derive(Debug)]
pub struct ConsoleLog {
    path: PathBuf,
    file: File,
    written_bytes: u64,
    limit: Limit,
}

/// How much a log may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Set aside at [`FILE_BYTES`]; for files that nobody asked for.
    Rotate,
    /// Everything; for a file that the user named.
    Unlimited,
}

impl ConsoleLog {
    /// Begins a log at `path` (mode 0600), replacing an older one.
    ///
    /// # Errors
    /// When the file cannot be created.
    pub fn create(path: &Path, limit: Limit) -> io::Result<ConsoleLog> {
        Ok(ConsoleLog { path: path.to_owned(), file: begin(path)?, written_bytes: 0, limit })
    }

    /// Where the log is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds what the guest wrote.
    ///
    /// # Errors
    /// When the disk is full or gone.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.limit == Limit::Rotate && self.written_bytes + bytes.len() as u64 > FILE_BYTES {
            let mut aside = self.path.clone().into_os_string();
            aside.push(".1");
            std::fs::rename(&self.path, aside)?;
            self.file = begin(&self.path)?;
            self.written_bytes = 0;
        }
        self.file.write_all(bytes)?;
        self.written_bytes += bytes.len() as u64;
        Ok(())
    }
}

fn begin(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_flood_is_bounded_and_its_end_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        let mut log = ConsoleLog::create(&path, Limit::Rotate).unwrap();
        let block = vec![b'x'; 1 << 20];
        for _ in 0..100 {
            log.write(&block).unwrap();
        }
        log.write(b"the end").unwrap();
        let (current, aside) =
            (std::fs::read(&path).unwrap(), std::fs::metadata(dir.path().join("console.log.1")).unwrap());
        assert!(current.ends_with(b"the end"));
        assert!(current.len() as u64 + aside.len() <= 2 * FILE_BYTES);
        assert!(current.len() as u64 + aside.len() >= FILE_BYTES);
    }

    #[test]
    fn a_log_that_was_asked_for_holds_everything() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = ConsoleLog::create(&path, Limit::Unlimited).unwrap();
        let block = vec![b'x'; 1 << 20];
        for _ in 0..40 {
            log.write(&block).unwrap();
        }
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 40 << 20);
    }
}
