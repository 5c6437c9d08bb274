//! From records of the CRI log format to what `kubectl logs` prints; pure.
//!
//! ```text
//! 2026-11-22T18:48:09.123456789Z stdout F a whole line, or the end of one
//! 2026-11-22T18:48:09.123456789Z stdout P a part of a line; the next record goes on with it
//! ```

use jiff::Timestamp;

/// Longest record with its head, in bytes; parts of lines are half of that at most. What is longer is nothing that a
/// launcher wrote, and passed over.
pub const MOST_RECORD_BYTES: usize = 32 << 10;

/// One record.
#[derive(Debug, PartialEq, Eq)]
struct Record<'a> {
    timestamp: &'a str,
    /// The line ends here.
    is_end: bool,
    content: &'a [u8],
}

/// Reads a record without its line feed; `None` for what is none.
fn parse(line: &[u8]) -> Option<Record<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let timestamp = std::str::from_utf8(parts.next()?).ok()?;
    let (stream, tags, content) = (parts.next()?, parts.next()?, parts.next()?);
    if !matches!(stream, b"stdout" | b"stderr") {
        return None;
    }
    let is_end = match tags.split(|byte| *byte == b':').next()? {
        b"F" => true,
        b"P" => false,
        _ => return None,
    };
    Some(Record { timestamp, is_end, content })
}

/// Cuts what is read into records.
#[derive(Debug, Default)]
pub struct Records {
    begun: Vec<u8>,
    is_too_long: bool,
}

impl Records {
    /// Calls `take` with each record that `bytes` complete, without its line feed.
    pub fn feed(&mut self, bytes: &[u8], mut take: impl FnMut(&[u8])) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (piece, is_end) = match piece.strip_suffix(b"\n") {
                Some(piece) => (piece, true),
                None => (piece, false),
            };
            self.is_too_long |= self.begun.len() + piece.len() > MOST_RECORD_BYTES;
            match (self.is_too_long, is_end) {
                (true, _) => self.begun.clear(),
                (false, true) if self.begun.is_empty() => take(piece),
                (false, _) => self.begun.extend_from_slice(piece),
            }
            if is_end {
                if !self.begun.is_empty() {
                    take(&self.begun);
                }
                *self = Self::default();
            }
        }
    }
}

/// Counts lines.
#[derive(Debug, Default)]
pub struct LineCount {
    whole: u64,
    is_open: bool,
}

impl LineCount {
    /// Takes one record.
    pub fn take(&mut self, line: &[u8]) {
        let Some(record) = parse(line) else { return };
        self.whole += u64::from(record.is_end);
        self.is_open = !record.is_end;
    }

    /// Lines until now, with one that is open.
    pub fn lines(&self) -> u64 {
        self.whole + u64::from(self.is_open)
    }
}

/// Prints what is wanted of records.
#[derive(Debug, Default)]
pub struct Printer {
    /// So many lines are passed over first.
    pub skip_lines: u64,
    /// After those, so many lines may be printed still.
    pub left_lines: Option<u64>,
    /// What was said before is passed over.
    pub since: Option<Timestamp>,
    /// Lines begin with their instant.
    pub timestamps: bool,
    /// Bytes that may be printed still.
    pub left_bytes: Option<u64>,
    /// A part of the line is printed.
    pub is_open: bool,
}

impl Printer {
    /// Whether nothing more will be printed.
    pub fn is_full(&self) -> bool {
        self.left_bytes == Some(0) || self.left_lines == Some(0)
    }

    /// Prints one record to `out`.
    pub fn take(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let Some(record) = parse(line) else { return };
        if self.skip_lines > 0 {
            self.skip_lines -= u64::from(record.is_end);
            return;
        }
        match &mut self.left_lines {
            Some(0) => return,
            Some(left) => *left -= u64::from(record.is_end),
            None => {}
        }
        if let Some(since) = self.since
            && record.timestamp.parse::<Timestamp>().is_ok_and(|at| at < since)
        {
            return;
        }
        let before = out.len();
        if self.timestamps && !self.is_open {
            out.extend_from_slice(record.timestamp.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(record.content);
        if record.is_end {
            out.push(b'\n');
        }
        self.is_open = !record.is_end;
        if let Some(left) = &mut self.left_bytes {
            let printed = out.len() - before;
            let allowed = usize::try_from(*left).unwrap_or(usize::MAX).min(printed);
            out.truncate(before + allowed);
            *left -= allowed as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    const LOG: &str = "2026-11-22T18:48:01.5Z stdout F one\n\
                       2026-11-22T18:48:02Z stdout P tw\n\
                       2026-11-22T18:48:03Z stderr F o\n\
                       no record\n\
                       2026-11-22T18:48:04Z stdout F \n\
                       2026-11-22T18:48:05Z stdout P log";

    fn print(mut printer: Printer, log: &str) -> String {
        let (mut records, mut out) = (Records::default(), Vec::new());
        records.feed(log.as_bytes(), |line| printer.take(line, &mut out));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn records_become_lines() {
        let whole = format!("{LOG}in: \n");
        let since = Some("2026-11-22T18:48:04Z".parse().unwrap());
        let table = [
            (Printer::default(), "one\ntwo\n\nlogin: "),
            (Printer { skip_lines: 1, ..Printer::default() }, "two\n\nlogin: "),
            (Printer { skip_lines: 2, ..Printer::default() }, "\nlogin: "),
            (Printer { skip_lines: 4, ..Printer::default() }, ""),
            (Printer { since, ..Printer::default() }, "\nlogin: "),
            (
                Printer { timestamps: true, ..Printer::default() },
                "2026-11-22T18:48:01.5Z one\n2026-11-22T18:48:02Z two\n2026-11-22T18:48:04Z \n2026-11-22T18:48:05Z login: ",
            ),
            (Printer { left_bytes: Some(6), ..Printer::default() }, "one\ntw"),
            (Printer { left_bytes: Some(0), ..Printer::default() }, ""),
        ];
        for (printer, expected) in table {
            let shown = format!("{printer:?}");
            assert_eq!(print(printer, &whole), expected, "{shown}");
        }
        let mut count = LineCount::default();
        Records::default().feed(whole.as_bytes(), |line| count.take(line));
        assert_eq!(count.lines(), 4);
    }

    #[test]
    fn what_is_no_record_is_passed_over() {
        for line in ["", "x", "t stdout F", "t other F c", "t stdout X c", "\u{fffd} stdout F"] {
            assert_eq!(parse(line.as_bytes()), None, "{line}");
        }
        let tagged = parse(b"t stdout F:more of it").unwrap();
        assert_eq!((tagged.is_end, tagged.content), (true, b"of it".as_slice()));
        // Too long by one byte; the next is read again.
        let head = "2026-11-22T18:48:01Z stdout F ";
        let fits = "a".repeat(MOST_RECORD_BYTES - head.len());
        let log = format!("{head}{fits}b\n{head}{fits}\n");
        assert_eq!(print(Printer::default(), &log), format!("{fits}\n"));
    }

    proptest! {
        /// However the file is read, the same is printed, and it is what was said.
        #[test]
        fn pieces_do_not_matter(
            said in proptest::collection::vec(("[ -~]{0,40}", any::<bool>()), 0..20),
            cuts in proptest::collection::vec(1_usize..50, 0..40),
        ) {
            let mut log = String::new();
            let mut expected = String::new();
            for (content, is_end) in &said {
                let tag = if *is_end { "F" } else { "P" };
                log.push_str(&format!("2026-11-22T18:48:01Z stdout {tag} {content}\n"));
                expected.push_str(content);
                if *is_end {
                    expected.push('\n');
                }
            }
            let (mut records, mut printer, mut out) = (Records::default(), Printer::default(), Vec::new());
            let mut rest = log.as_bytes();
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                records.feed(piece, |line| printer.take(line, &mut out));
                rest = after;
            }
            records.feed(rest, |line| printer.take(line, &mut out));
            prop_assert_eq!(String::from_utf8(out).unwrap(), expected);
        }

        /// Whatever is in the file, nothing breaks, and no more is printed than was read.
        #[test]
        fn nonsense_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300), limit in proptest::option::of(0_u64..50)) {
            let mut printer = Printer { left_bytes: limit, timestamps: true, ..Printer::default() };
            let mut out = Vec::new();
            Records::default().feed(&bytes, |line| printer.take(line, &mut out));
            prop_assert!(out.len() <= bytes.len());
            prop_assert!(limit.is_none_or(|limit| out.len() as u64 <= limit));
        }
    }
}
