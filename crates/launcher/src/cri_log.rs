//! Logs that `kubectl logs` understands: the CRI format, one record a line, bounded.
//!
//! ```text
//! 2026-11-22T18:48:09.123456789Z stdout F a whole line, or the end of one
//! 2026-11-22T18:48:09.123456789Z stdout P a part of a line; more of it follows in the next record
//! ```
//!
//! (Kubernetes, "Kubelet logging format"; containerd and CRI-O write the same.) A line longer than [`MAX_PART_BYTES`]
//! comes in parts, and so does one that its writer leaves open, such as a prompt.
//!
//! A guest can write for ever. When the file would exceed [`FILE_BYTES`], it becomes `NAME.1` (replacing an older one)
//! and a new file is begun: the latest [`FILE_BYTES`] at least are there, and twice that at most are on the disk.
//!
//! # Guarantees
//! Writing never fails for the writer. What a full disk does not take is lost, and counted; once there is room again, a
//! record says how much is missing. No record is ever cut: the file ends with a whole one.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

/// Size at which a log file is set aside, in bytes: a kubelet's `containerLogMaxSize`.
pub const FILE_BYTES: u64 = 10 << 20;

/// Longest content of one record in bytes, as containerd and CRI-O have it.
pub const MAX_PART_BYTES: usize = 16 << 10;

/// Which stream of a container a record belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// `stdout`
    Output,
    /// `stderr`
    Error,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Output => "stdout",
            Self::Error => "stderr",
        }
    }
}

/// A log in CRI format.
#[derive(Debug)]
pub struct CriLog {
    path: PathBuf,
    file: File,
    written_bytes: u64,
    records: Records,
    /// Bytes that could not be written since the last that could, and why.
    lost: Option<(u64, io::Error)>,
}

impl CriLog {
    /// Begins a log at `path` (mode 0600), or goes on with the one that is there.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: &Path, stream: Stream) -> io::Result<CriLog> {
        let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let written_bytes = file.seek(SeekFrom::End(0))?;
        Ok(CriLog { path: path.to_owned(), file, written_bytes, records: Records::new(stream), lost: None })
    }

    /// Adds what was written, cut in any way.
    pub fn write(&mut self, bytes: &[u8]) {
        let records = self.records.feed(bytes, Timestamp::now());
        self.append(&records);
    }

    /// Writes down the line that is open, as far as it is known.
    pub fn settle(&mut self) {
        let records = self.records.settle(Timestamp::now());
        self.append(&records);
    }

    fn append(&mut self, records: &[u8]) {
        if records.is_empty() {
            return;
        }
        let notice = match &self.lost {
            Some((bytes, error)) => self
                .records
                .notice(&format!("{bytes} bytes of this log are missing here: {error}"), Timestamp::now()),
            None => Vec::new(),
        };
        if let Err(error) = self.try_append(&[notice.as_slice(), records].concat()) {
            let before = self.lost.take().map_or(0, |(bytes, _)| bytes);
            self.lost = Some((before + records.len() as u64, error));
        } else {
            self.lost = None;
        }
    }

    fn try_append(&mut self, records: &[u8]) -> io::Result<()> {
        let length = records.len() as u64;
        if self.written_bytes > 0 && self.written_bytes + length > FILE_BYTES {
            let mut aside = self.path.clone().into_os_string();
            aside.push(".1");
            std::fs::rename(&self.path, aside)?;
            self.file = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path)?;
            self.written_bytes = 0;
        }
        match self.file.write_all(records) {
            Ok(()) => {
                self.written_bytes += length;
                Ok(())
            }
            Err(error) => {
                // Whatever of it has reached the file is a record cut off; shortening works on a full disk too.
                self.file.set_len(self.written_bytes)?;
                Err(error)
            }
        }
    }
}

/// Turns bytes into records. Pure.
#[derive(Debug)]
struct Records {
    stream: Stream,
    /// What is known of the line that is open and in no record yet.
    open: Vec<u8>,
}

impl Records {
    fn new(stream: Stream) -> Self {
        Self { stream, open: Vec::new() }
    }

    fn feed(&mut self, bytes: &[u8], now: Timestamp) -> Vec<u8> {
        let mut records = Vec::with_capacity(bytes.len() + 64);
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (mut rest, ends) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            while self.open.len() + rest.len() > MAX_PART_BYTES {
                let (part, later) = rest.split_at(MAX_PART_BYTES - self.open.len());
                self.open.extend_from_slice(part);
                self.record(Tag::Part, now, &mut records);
                rest = later;
            }
            self.open.extend_from_slice(rest);
            if ends {
                // Terminals end lines with CR LF.
                let end = self.open.iter().rposition(|&byte| byte != b'\r').map_or(0, |last| last + 1);
                self.open.truncate(end);
                self.record(Tag::Full, now, &mut records);
            }
        }
        records
    }

    fn settle(&mut self, now: Timestamp) -> Vec<u8> {
        let mut records = Vec::new();
        if !self.open.is_empty() {
            self.record(Tag::Part, now, &mut records);
        }
        records
    }

    /// A line of our own.
    fn notice(&self, text: &str, now: Timestamp) -> Vec<u8> {
        let mut records = Vec::new();
        head(self.stream, Tag::Full, now, &mut records);
        records.extend_from_slice(text.as_bytes());
        records.push(b'\n');
        records
    }

    fn record(&mut self, tag: Tag, now: Timestamp, records: &mut Vec<u8>) {
        head(self.stream, tag, now, records);
        records.append(&mut self.open);
        records.push(b'\n');
    }
}

#[derive(Debug, Clone, Copy)]
enum Tag {
    Full,
    Part,
}

fn head(stream: Stream, tag: Tag, now: Timestamp, records: &mut Vec<u8>) {
    let tag = match tag {
        Tag::Full => 'F',
        Tag::Part => 'P',
    };
    records.extend_from_slice(format!("{now:.9} {} {tag} ", stream.name()).as_bytes());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    /// Everything that `pieces` become, each settled when it is empty.
    fn records(pieces: &[&str]) -> String {
        let mut records = Records::new(Stream::Output);
        let mut text = Vec::new();
        for piece in pieces {
            let bytes = match *piece {
                "" => records.settle(at(0)),
                piece => records.feed(piece.as_bytes(), at(0)),
            };
            text.extend(bytes);
        }
        String::from_utf8(text).unwrap().replace("1970-01-01T00:00:00.000000000Z stdout ", "")
    }

    #[test]
    fn lines_become_records_with_time_and_stream() {
        let mut records = Records::new(Stream::Error);
        let now: Timestamp = "2026-11-22T18:48:09.5Z".parse().unwrap();
        assert_eq!(
            String::from_utf8(records.feed(b"one\r\ntwo\n\nopen", now)).unwrap(),
            "2026-11-22T18:48:09.500000000Z stderr F one\n\
             2026-11-22T18:48:09.500000000Z stderr F two\n\
             2026-11-22T18:48:09.500000000Z stderr F \n"
        );
    }

    #[test]
    fn a_prompt_is_a_part_and_what_is_typed_behind_it_ends_the_line() {
        assert_eq!(records(&["login: ", "", "root\r\n", ""]), "P login: \nF root\n");
        assert_eq!(records(&["", "a", "", "", "\n"]), "P a\nF \n");
    }

    #[test]
    fn a_long_line_comes_in_parts_of_16_kib() {
        let long = "x".repeat(MAX_PART_BYTES);
        assert_eq!(records(&[&long, "\n"]), format!("F {long}\n"));
        assert_eq!(records(&[&long, "y\n"]), format!("P {long}\nF y\n"));
        assert_eq!(records(&[&long, &long, &long]), format!("P {long}\nP {long}\n"));
    }

    /// What a reader makes of records: parts joined, `None` for the line that is open.
    fn read(log: &[u8]) -> Vec<(Vec<u8>, bool)> {
        let mut lines = vec![(Vec::new(), false)];
        for record in log.split_inclusive(|&byte| byte == b'\n') {
            let record = record.strip_suffix(b"\n").unwrap();
            let mut fields = record.splitn(4, |&byte| byte == b' ');
            let (_, _, tag) = (fields.next().unwrap(), fields.next().unwrap(), fields.next().unwrap());
            let line = lines.last_mut().unwrap();
            line.0.extend_from_slice(fields.next().unwrap());
            if tag == b"F" {
                line.1 = true;
                lines.push((Vec::new(), false));
            }
        }
        lines
    }

    proptest::proptest! {
        #[test]
        fn a_reader_gets_every_byte_however_it_was_cut(
            text in proptest::collection::vec(proptest::sample::select(b"ab\n".to_vec()), 0..200),
            cuts in proptest::collection::vec((0usize..200, proptest::prelude::any::<bool>()), 0..8),
        ) {
            let mut writer = Records::new(Stream::Output);
            let mut log = Vec::new();
            let mut cuts: Vec<_> = cuts.into_iter().map(|(at, settles)| (at.min(text.len()), settles)).collect();
            cuts.sort();
            let mut from = 0;
            for (at, settles) in cuts {
                log.extend(writer.feed(&text[from..at], Timestamp::UNIX_EPOCH));
                if settles {
                    log.extend(writer.settle(Timestamp::UNIX_EPOCH));
                }
                from = at;
            }
            log.extend(writer.feed(&text[from..], Timestamp::UNIX_EPOCH));
            log.extend(writer.settle(Timestamp::UNIX_EPOCH));
            let mut expected: Vec<_> = text.split(|&byte| byte == b'\n').map(|line| (line.to_vec(), true)).collect();
            expected.last_mut().unwrap().1 = false;
            proptest::prop_assert_eq!(read(&log), expected);
        }
    }

    #[test]
    fn a_flood_is_bounded_and_its_end_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.log");
        let mut log = CriLog::open(&path, Stream::Output).unwrap();
        // Empty lines cost many times their bytes.
        let block = vec![b'\n'; 16 << 10];
        for _ in 0..40 {
            log.write(&block);
        }
        log.write(b"the end\n");
        let (current, aside) =
            (std::fs::read(&path).unwrap(), std::fs::metadata(dir.path().join("c.log.1")).unwrap());
        assert!(current.ends_with(b" stdout F the end\n"));
        assert!(current.len() as u64 <= FILE_BYTES && aside.len() <= FILE_BYTES);
        assert!(current.len() as u64 + aside.len() > FILE_BYTES);
    }

    #[test]
    fn a_log_goes_on_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.log");
        CriLog::open(&path, Stream::Error).unwrap().write(b"one\n");
        CriLog::open(&path, Stream::Error).unwrap().write(b"two\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 2);
    }

    #[test]
    fn a_full_disk_costs_what_did_not_fit_and_says_so_later() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.log");
        let mut log = CriLog::open(&path, Stream::Output).unwrap();
        log.write(b"before\n");
        let file =
            std::mem::replace(&mut log.file, OpenOptions::new().write(true).open("/dev/full").unwrap());
        log.write(b"lost\n");
        log.write(b"lost too\n");
        log.file = file;
        log.write(b"after\n");
        let text = std::fs::read_to_string(&path).unwrap();
        let contents: Vec<&str> = text.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap()).collect();
        assert_eq!(contents.len(), 3, "{text}");
        assert_eq!((contents[0], contents[2]), ("before", "after"));
        assert!(contents[1].contains("bytes of this log are missing here"), "{text}");
    }
}
