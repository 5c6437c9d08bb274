//! Reads a log and the one set aside before it, and follows it while it is written. Blocks.
//!
//! The writer appends to `NAME.log`, and at times renames it to `NAME.log.1` and begins a new one. A record is never cut
//! in two by that.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::OFlags;

use super::cri::{LineCount, Printer, Records};

/// So much is read at once. With the longest record it makes the largest piece that is printed.
const READ_BYTES: usize = 32 << 10;

/// What a step has brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Something was printed.
    Printed(Bytes),
    /// There is no more now; only while following.
    Idle,
    /// There will be no more.
    Ended,
}

/// A log that is being read.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    follow: bool,
    /// What is being read, and how far it is.
    file: Option<File>,
    offset: u64,
    /// What is to be read after it.
    next: VecDeque<File>,
    records: Records,
    printer: Printer,
}

impl Reader {
    /// The log at `path`, which need not be there yet; of its lines the last `tail` where that is given.
    ///
    /// # Errors
    /// When a file that is there cannot be read.
    pub fn open(path: PathBuf, follow: bool, tail: Option<u64>, mut printer: Printer) -> io::Result<Self> {
        let next = files(&path)?;
        if let Some(tail) = tail {
            let mut count = LineCount::default();
            for file in &next {
                count_lines(file, &mut count)?;
            }
            printer.skip_lines = count.lines().saturating_sub(tail);
            if !follow {
                // Others may come before these are read.
                printer.left_lines = Some(count.lines().min(tail));
            }
        }
        Ok(Self { path, follow, file: None, offset: 0, next, records: Records::default(), printer })
    }

    /// Reads on.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn step(&mut self) -> io::Result<Step> {
        let mut buffer = vec![0; READ_BYTES];
        let mut out = Vec::new();
        // Ends: files are finite, and what is appended meanwhile is printed sooner or later.
        while !self.printer.is_full() {
            let Some(file) = &self.file else {
                match self.next.pop_front() {
                    Some(file) => {
                        (self.file, self.offset, self.records) = (Some(file), 0, Records::default());
                        continue;
                    }
                    None if !self.follow => return Ok(Step::Ended),
                    None => {
                        self.next = files(&self.path)?;
                        if self.next.is_empty() {
                            return Ok(Step::Idle);
                        }
                        continue;
                    }
                }
            };
            let count = read_at(file, &mut buffer, self.offset)?;
            if count > 0 {
                self.offset += count as u64;
                let printer = &mut self.printer;
                self.records.feed(&buffer[..count], |line| printer.take(line, &mut out));
                if !out.is_empty() {
                    return Ok(Step::Printed(out.into()));
                }
                continue;
            }
            if !self.next.is_empty() || !self.follow {
                self.file = None;
                continue;
            }
            let metadata = file.metadata()?;
            if metadata.len() < self.offset {
                // A record that a full disk had cut was taken back.
                (self.offset, self.records) = (metadata.len(), Records::default());
                continue;
            }
            let mut newer = files(&self.path)?;
            let position = newer.iter().position(|other| is_same(other, &metadata));
            let is_current = position.is_some_and(|position| position + 1 == newer.len());
            // Still the one that is written, or all are gone with their directory.
            if is_current || newer.is_empty() {
                return Ok(Step::Idle);
            }
            // Set aside; what was written to it before that is read first.
            if file.metadata()?.len() > self.offset {
                continue;
            }
            if let Some(position) = position {
                newer.drain(..=position);
            }
            (self.file, self.next) = (None, newer);
        }
        Ok(Step::Ended)
    }
}

fn is_same(file: &File, other: &std::fs::Metadata) -> bool {
    file.metadata().is_ok_and(|own| (own.dev(), own.ino()) == (other.dev(), other.ino()))
}

/// The file set aside and the current one, those that are there, the older first.
fn files(path: &Path) -> io::Result<VecDeque<File>> {
    let mut aside = path.to_owned().into_os_string();
    aside.push(".1");
    let mut found = VecDeque::new();
    // Between the two it may have been set aside: then both are the same file, and there is a new one by now.
    for _ in 0..3 {
        found = [open(path)?, open(Path::new(&aside))?].into_iter().flatten().rev().collect();
        let is_one = match (found.front(), found.get(1)) {
            (Some(older), Some(newer)) => is_same(older, &newer.metadata()?),
            _ => false,
        };
        if !is_one {
            break;
        }
        found.truncate(1);
    }
    Ok(found)
}

/// A file that is there.
pub fn open(path: &Path) -> io::Result<Option<File>> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) if file.metadata()?.is_file() => Ok(Some(file)),
        Ok(_) => Err(io::Error::other("it is no file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    loop {
        match file.read_at(buffer, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Counts the lines of what is in the file now.
fn count_lines(file: &File, count: &mut LineCount) -> io::Result<()> {
    let end = file.metadata()?.len();
    let (mut buffer, mut records, mut offset) = (vec![0; READ_BYTES], Records::default(), 0);
    while offset < end {
        let read = read_at(file, &mut buffer, offset)?;
        if read == 0 {
            break;
        }
        records.feed(&buffer[..read], |line| count.take(line));
        offset += read as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Write;

    use super::*;

    struct Log(tempfile::TempDir);

    impl Log {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn path(&self) -> PathBuf {
            self.0.path().join("c.log")
        }

        fn append(&self, records: &[(&str, &str)]) {
            let mut file = OpenOptions::new().create(true).append(true).open(self.path()).unwrap();
            for (tag, content) in records {
                writeln!(file, "2026-11-22T18:48:01Z stdout {tag} {content}").unwrap();
            }
        }

        fn set_aside(&self) {
            std::fs::rename(self.path(), self.0.path().join("c.log.1")).unwrap();
        }

        fn open(&self, follow: bool, tail: Option<u64>) -> Reader {
            Reader::open(self.path(), follow, tail, Printer::default()).unwrap()
        }
    }

    /// Everything until there is nothing more, and what the last step was.
    fn drain(reader: &mut Reader) -> (String, Step) {
        let mut text = String::new();
        loop {
            match reader.step().unwrap() {
                Step::Printed(bytes) => text.push_str(std::str::from_utf8(&bytes).unwrap()),
                last => return (text, last),
            }
        }
    }

    #[test]
    fn both_files_are_read_and_the_tail_is_counted_over_both() {
        let log = Log::new();
        assert_eq!(drain(&mut log.open(false, None)), (String::new(), Step::Ended));
        log.append(&[("F", "1"), ("P", "2")]);
        log.set_aside();
        log.append(&[("F", "b"), ("F", "3"), ("P", "4")]);
        let table = [
            (None, "1\n2b\n3\n4"),
            (Some(9), "1\n2b\n3\n4"),
            (Some(4), "1\n2b\n3\n4"),
            (Some(3), "2b\n3\n4"),
            (Some(1), "4"),
            (Some(0), ""),
        ];
        for (tail, expected) in table {
            assert_eq!(drain(&mut log.open(false, tail)), (expected.to_owned(), Step::Ended), "{tail:?}");
        }
        let mut last = log.open(false, Some(2));
        log.append(&[("F", "d"), ("F", "5")]);
        assert_eq!(
            drain(&mut last),
            ("3\n4d\n".to_owned(), Step::Ended),
            "what comes later is not of the last two"
        );
    }

    #[test]
    fn a_log_is_followed_from_before_it_begins_and_over_rotations() {
        let log = Log::new();
        let mut reader = log.open(true, None);
        assert_eq!(drain(&mut reader), (String::new(), Step::Idle));
        log.append(&[("F", "1")]);
        assert_eq!(drain(&mut reader), ("1\n".to_owned(), Step::Idle));
        log.append(&[("F", "2")]);
        log.set_aside();
        assert_eq!(drain(&mut reader), ("2\n".to_owned(), Step::Idle));
        log.append(&[("F", "3")]);
        assert_eq!(drain(&mut reader), ("3\n".to_owned(), Step::Idle));
        // Twice while nobody looked: the file in between is there still.
        log.set_aside();
        log.append(&[("F", "4")]);
        log.set_aside();
        log.append(&[("F", "5")]);
        assert_eq!(drain(&mut reader), ("4\n5\n".to_owned(), Step::Idle));
        // The directory goes; what was open is read to its end.
        log.append(&[("F", "6")]);
        std::fs::remove_file(log.path()).unwrap();
        std::fs::remove_file(log.0.path().join("c.log.1")).unwrap();
        assert_eq!(drain(&mut reader), ("6\n".to_owned(), Step::Idle));
    }

    #[test]
    fn a_record_that_was_taken_back_is_not_mixed_with_the_next() {
        let log = Log::new();
        log.append(&[("F", "1")]);
        let length = std::fs::metadata(log.path()).unwrap().len();
        let mut file = OpenOptions::new().append(true).open(log.path()).unwrap();
        file.write_all(b"2026-11-22T18:48:01Z stdout F cut o").unwrap();
        let mut reader = log.open(true, None);
        assert_eq!(drain(&mut reader), ("1\n".to_owned(), Step::Idle));
        file.set_len(length).unwrap();
        assert_eq!(drain(&mut reader), (String::new(), Step::Idle));
        log.append(&[("F", "2")]);
        assert_eq!(drain(&mut reader), ("2\n".to_owned(), Step::Idle));
    }

    #[test]
    fn pieces_are_bounded() {
        let log = Log::new();
        let long = "x".repeat(16 << 10);
        for _ in 0..40 {
            log.append(&[("F", long.as_str())]);
        }
        let mut reader = log.open(false, None);
        let (mut sum, mut pieces) = (0, 0);
        while let Step::Printed(bytes) = reader.step().unwrap() {
            assert!(bytes.len() <= 64 << 10);
            (sum, pieces) = (sum + bytes.len(), pieces + 1);
        }
        assert_eq!(sum, 40 * (long.len() + 1));
        assert!(pieces > 10);
    }

    #[test]
    fn a_link_is_not_followed() {
        let log = Log::new();
        std::os::unix::fs::symlink("/etc/passwd", log.path()).unwrap();
        assert!(Reader::open(log.path(), false, None, Printer::default()).is_err());
    }
}
