//! A picture that QEMU has written, taken out of its directory.
//!
//! The directory is QEMU's own, and a QEMU that its guest has taken over may put anything there: what is no file of its
//! own is not read.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::qmp::QmpError;

/// Largest picture in bytes: twice what the largest display of QEMU's VGA (16 MiB) has without any compression.
pub const MAX_PICTURE_BYTES: u64 = 32 << 20;

/// First bytes of a PNG (PNG specification, 5.2).
const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// Why there is no picture of the guest's display.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// QEMU did not make one.
    #[error(transparent)]
    Command(#[from] QmpError),
    /// It cannot be read.
    #[error("cannot read the picture `{}`", path.display())]
    Read {
        /// Where it should be.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Reads the picture and removes it.
pub(super) fn take(path: &Path) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let owner = path.parent().map(std::fs::metadata).transpose()?.map(|directory| directory.uid());
    let metadata = file.metadata()?;
    if !metadata.is_file() || Some(metadata.uid()) != owner {
        return Err(io::Error::other("it is no file of QEMU's own"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_PICTURE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_PICTURE_BYTES || !bytes.starts_with(SIGNATURE) {
        return Err(io::Error::other(format!("it is no PNG of at most {MAX_PICTURE_BYTES} bytes")));
    }
    std::fs::remove_file(path)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn only_a_picture_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("screen.png");
        let picture = [SIGNATURE, b"rest"].concat();
        std::fs::write(&path, &picture).unwrap();
        assert_eq!(take(&path).unwrap(), picture);
        assert_eq!(take(&path).unwrap_err().kind(), io::ErrorKind::NotFound, "it is taken once");

        let other = directory.path().join("secret");
        std::fs::write(&other, &picture).unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        assert_eq!(take(&path).unwrap_err().raw_os_error(), Some(rustix::io::Errno::LOOP.raw_os_error()));
        std::fs::remove_file(&path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        assert_eq!(take(&path).unwrap_err().to_string(), "it is no file of QEMU's own");
        std::fs::remove_file(&path).unwrap();
        for wrong in [&b"root:x:0:0"[..], b""] {
            std::fs::write(&path, wrong).unwrap();
            assert_eq!(take(&path).unwrap_err().to_string(), "it is no PNG of at most 33554432 bytes");
        }
        let huge = File::create(&path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&huge, SIGNATURE, 0).unwrap();
        huge.set_len(MAX_PICTURE_BYTES + 1).unwrap();
        assert_eq!(take(&path).unwrap_err().to_string(), "it is no PNG of at most 33554432 bytes");
        huge.set_len(MAX_PICTURE_BYTES).unwrap();
        assert_eq!(take(&path).unwrap().len() as u64, MAX_PICTURE_BYTES);
    }
}
