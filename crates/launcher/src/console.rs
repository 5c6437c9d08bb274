//! What the guest's serial console says: lines, the last of them, and findings among them.
//!
//! The scanner is fed bytes in whatever pieces they arrive and is pure: no clock, no I/O. A pattern is looked for in
//! the line as it stands after every piece, finished or not, since a login prompt never ends with a newline. A line
//! longer than [`MAX_LINE_BYTES`] is cut there, so a guest that never prints a newline costs no memory.

use std::collections::VecDeque;

use regex::bytes::{Regex, RegexBuilder};

/// Longest line kept and searched, in bytes; what is longer counts as several lines.
pub const MAX_LINE_BYTES: usize = 4096;

/// Lines of console kept for the report of a failure.
pub const TAIL_LINES: usize = 30;

/// What tells a failed boot on a Linux console, unless the caller names other patterns.
///
/// Sources in Linux: `kernel/panic.c` (panic), `arch/x86/kernel/dumpstack.c` (`Oops: `, and the `[#1]` die counter of
/// every other exception), `lib/bug.c` (`kernel BUG at`), `BUG: ` of mm, locking and the watchdogs, and
/// `init/do_mounts.c` (`Unable to mount root fs`).
pub const DEFAULT_FAIL_PATTERNS: [&str; 5] = [
    r"Kernel panic - not syncing",
    r"\bOops: ",
    r"\bBUG: |\bkernel BUG at ",
    r"general protection fault.*\[#\d+\]",
    r"Unable to mount root fs",
];

/// The text by which a finding counts as a kernel panic.
const PANIC: &[u8] = b"Kernel panic - not syncing";

/// A pattern that does not compile.
#[derive(Debug, thiserror::Error)]
#[error("cannot use `{pattern}` as a regular expression")]
pub struct PatternError {
    /// The pattern as given.
    pub pattern: String,
    /// What is wrong with it.
    pub source: regex::Error,
}

/// A compiled search pattern over console bytes.
#[derive(Debug, Clone)]
pub struct Pattern(Regex);

impl Pattern {
    /// Compiles `pattern` (the `regex` crate's syntax, bytes rather than UTF-8, at most 1 MiB compiled).
    ///
    /// # Errors
    /// [`PatternError`] for bad syntax or a pattern too large.
    pub fn new(pattern: &str) -> Result<Self, PatternError> {
        RegexBuilder::new(pattern)
            .size_limit(1 << 20)
            .build()
            .map(Pattern)
            .map_err(|source| PatternError { pattern: pattern.to_owned(), source })
    }

    /// The pattern's text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

/// [`DEFAULT_FAIL_PATTERNS`], compiled.
pub fn default_fail_patterns() -> Vec<Pattern> {
    DEFAULT_FAIL_PATTERNS
        .iter()
        .map(|text| Pattern::new(text).expect("a constant pattern compiles"))
        .collect()
}

/// Something the console said that matters to the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The first `Linux version …` of a boot: the kernel runs. Carries the release, e.g. `6.1.0-56-cloud-amd64`.
    KernelStarted(String),
    /// The kernel hands over to user space (`Run /init as init process`).
    UserspaceStarted,
    /// The success pattern matched this line.
    Until(String),
    /// A kernel panic, in this line.
    Panic(String),
    /// Another failure pattern matched.
    Fail {
        /// The pattern's text.
        pattern: String,
        /// The line.
        line: String,
    },
    /// The whole of a line whose beginning was already reported as [`Finding::Fail`].
    FailLine(String),
    /// The end of a panic's report: nothing of interest follows.
    PanicReportEnded,
}

/// Splits the console into lines and looks for what matters.
#[derive(Debug)]
pub struct Scanner {
    until: Option<Pattern>,
    fail_on: Vec<Pattern>,
    line: Vec<u8>,
    /// Whether the current line has already given its finding of each kind (a line reports a thing once).
    reported: LineReports,
    tail: VecDeque<String>,
    ended_with_newline: bool,
}

#[derive(Debug, Default, Clone, Copy)]
struct LineReports {
    until: bool,
    fail: bool,
    /// The failure was found before the line was whole.
    fail_is_open: bool,
    kernel: bool,
    userspace: bool,
    panic_end: bool,
}

impl Scanner {
    /// A scanner for one boot.
    pub fn new(until: Option<Pattern>, fail_on: Vec<Pattern>) -> Self {
        Scanner {
            until,
            fail_on,
            line: Vec::with_capacity(256),
            reported: LineReports::default(),
            tail: VecDeque::with_capacity(TAIL_LINES),
            ended_with_newline: true,
        }
    }

    /// Takes the next bytes of the console and tells what they brought, in order.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Finding> {
        let mut findings = Vec::new();
        if let Some(&last) = bytes.last() {
            self.ended_with_newline = last == b'\n';
        }
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (text, ends) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            let mut rest = text;
            while self.line.len() + rest.len() > MAX_LINE_BYTES {
                let (now, later) = rest.split_at(MAX_LINE_BYTES - self.line.len());
                self.line.extend_from_slice(now);
                self.search(LineState::Finished, &mut findings);
                self.finish_line();
                rest = later;
            }
            self.line.extend_from_slice(rest);
            self.search(if ends { LineState::Finished } else { LineState::Open }, &mut findings);
            if ends {
                self.finish_line();
            }
        }
        findings
    }

    /// Whether the last byte seen was a newline (true before the first byte): a terminal's cursor is at a line start.
    pub fn at_line_start(&self) -> bool {
        self.ended_with_newline
    }

    /// The last [`TAIL_LINES`] lines, oldest first, the unfinished one included, control characters removed.
    pub fn tail(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.tail.iter().cloned().collect();
        if !self.line.is_empty() {
            lines.push(printable(&self.line));
        }
        let surplus = lines.len().saturating_sub(TAIL_LINES);
        lines.split_off(surplus)
    }

    fn search(&mut self, state: LineState, findings: &mut Vec<Finding>) {
        if self.line.is_empty() {
            return;
        }
        let line = self.line.as_slice();
        // A release string is complete once a blank follows it, so an open line must not be read too early.
        if !self.reported.kernel
            && let Some(release) = linux_release(line, state)
        {
            self.reported.kernel = true;
            findings.push(Finding::KernelStarted(release));
        }
        if !self.reported.userspace && contains(line, b"as init process") && contains(line, b"Run /") {
            self.reported.userspace = true;
            findings.push(Finding::UserspaceStarted);
        }
        if !self.reported.fail
            && let Some(pattern) = self.fail_on.iter().find(|pattern| pattern.0.is_match(line))
            && (matches!(state, LineState::Finished) || !contains(line, PANIC))
        {
            self.reported.fail = true;
            self.reported.fail_is_open = matches!(state, LineState::Open);
            findings.push(if contains(line, PANIC) {
                Finding::Panic(printable(line))
            } else {
                Finding::Fail { pattern: pattern.as_str().to_owned(), line: printable(line) }
            });
        }
        if self.reported.fail_is_open && matches!(state, LineState::Finished) {
            self.reported.fail_is_open = false;
            findings.push(Finding::FailLine(printable(line)));
        }
        if !self.reported.until
            && let Some(until) = &self.until
            && until.0.is_match(line)
        {
            self.reported.until = true;
            findings.push(Finding::Until(printable(line)));
        }
        if !self.reported.panic_end && contains(line, b"---[ end Kernel panic") {
            self.reported.panic_end = true;
            findings.push(Finding::PanicReportEnded);
        }
    }

    fn finish_line(&mut self) {
        if self.tail.len() == TAIL_LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(printable(&self.line));
        self.line.clear();
        self.reported = LineReports::default();
    }
}

#[derive(Clone, Copy)]
enum LineState {
    Open,
    Finished,
}

/// The release in a `Linux version RELEASE (…)` banner.
fn linux_release(line: &[u8], state: LineState) -> Option<String> {
    const BANNER: &[u8] = b"Linux version ";
    let start = find(line, BANNER)? + BANNER.len();
    let rest = &line[start..];
    let end = match (rest.iter().position(u8::is_ascii_whitespace), state) {
        (Some(end), _) => end,
        (None, LineState::Finished) => rest.len(),
        (None, LineState::Open) => return None,
    };
    (end > 0).then(|| printable(&rest[..end]))
}

fn contains(line: &[u8], wanted: &[u8]) -> bool {
    find(line, wanted).is_some()
}

fn find(line: &[u8], wanted: &[u8]) -> Option<usize> {
    line.windows(wanted.len()).position(|window| window == wanted)
}

/// Text for a person: invalid UTF-8 replaced, terminal escape sequences and control characters dropped, so that a
/// hostile guest cannot drive the terminal through a report.
pub fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\x1b' => {
                // CSI (ECMA-48 5.4): ESC [ parameters final byte; any other escape takes one character.
                if characters.next_if_eq(&'[').is_some() {
                    while characters.next_if(|c| !('\x40'..='\x7e').contains(c)).is_some() {}
                }
                characters.next();
            }
            '\t' => out.push(' '),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn scanner(until: Option<&str>) -> Scanner {
        Scanner::new(until.map(|text| Pattern::new(text).unwrap()), default_fail_patterns())
    }

    #[test]
    fn a_boot_is_told_in_order() {
        let mut scanner = scanner(Some("READY"));
        let found = scanner.feed(
            b"[    0.000000] Linux version 6.1.0-56-cloud-amd64 (debian-kernel) #1 SMP\r\n\
              [    0.500000] Run /init as init process\r\nhello\r\nREADY\r\n",
        );
        assert_eq!(
            found,
            [
                Finding::KernelStarted("6.1.0-56-cloud-amd64".into()),
                Finding::UserspaceStarted,
                Finding::Until("READY".into())
            ]
        );
    }

    #[test]
    fn a_prompt_without_newline_matches_once() {
        let mut scanner = scanner(Some("login: $"));
        assert_eq!(scanner.feed(b"debian log"), []);
        assert_eq!(scanner.feed(b"in: "), [Finding::Until("debian login: ".into())]);
        assert_eq!(scanner.feed(b""), []);
        assert!(!scanner.at_line_start());
    }

    #[test]
    fn every_default_pattern_finds_its_kernel_message() {
        for line in [
            "[    1.2] BUG: kernel NULL pointer dereference, address: 0000000000000000",
            "[    1.2] kernel BUG at mm/slub.c:305!",
            "[    1.2] Oops: 0002 [#1] PREEMPT SMP NOPTI",
            "[    1.2] general protection fault, probably for non-canonical address 0xdead: 0000 [#1] SMP",
            "[    1.2] VFS: Unable to mount root fs on unknown-block(0,0)",
        ] {
            let found = scanner(None).feed(format!("{line}\n").as_bytes());
            assert!(
                matches!(&found[..], [Finding::Fail { line: found, .. }] if found == line),
                "{line}: {found:?}"
            );
        }
        let line = "[    1.2] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100";
        assert_eq!(scanner(None).feed(format!("{line}\r\n").as_bytes()), [Finding::Panic(line.into())]);
    }

    #[test]
    fn ordinary_messages_are_no_failure() {
        let mut scanner = scanner(None);
        for line in [
            "Kernel command line: console=ttyS0 panic=-1 oops=panic",
            "[    0.1] DEBUG: nothing",
            "[    0.1] audit: bug_on=0",
            "Oopsie",
        ] {
            assert_eq!(scanner.feed(format!("{line}\n").as_bytes()), [], "{line}");
        }
    }

    #[test]
    fn a_panic_is_reported_with_its_whole_line_and_its_end() {
        let mut scanner = scanner(None);
        assert_eq!(scanner.feed(b"Kernel panic - not syncing: VFS: Unable"), []);
        assert_eq!(
            scanner.feed(b" to mount root fs\n---[ end Kernel panic - not syncing: VFS ]---\n"),
            [
                Finding::Panic("Kernel panic - not syncing: VFS: Unable to mount root fs".into()),
                Finding::Panic("---[ end Kernel panic - not syncing: VFS ]---".into()),
                Finding::PanicReportEnded,
            ]
        );
    }

    #[test]
    fn an_endless_line_is_cut_and_costs_no_memory() {
        let mut scanner = scanner(None);
        for _ in 0..1000 {
            scanner.feed(&[b'x'; 1000]);
        }
        assert!(scanner.line.len() <= MAX_LINE_BYTES);
        assert_eq!(scanner.tail().len(), TAIL_LINES);
        assert!(scanner.tail().iter().all(|line| line.len() <= MAX_LINE_BYTES));
    }

    #[test]
    fn the_tail_keeps_the_last_lines_and_no_escape_sequences() {
        let mut scanner = scanner(None);
        for number in 0..100 {
            scanner.feed(format!("\x1b[31mline {number}\x1b[0m\r\n").as_bytes());
        }
        scanner.feed(b"\x07open");
        let tail = scanner.tail();
        assert_eq!(tail.len(), TAIL_LINES);
        assert_eq!(tail.first().unwrap(), "line 71");
        assert_eq!(tail.last().unwrap(), "open");
    }

    #[test]
    fn how_the_bytes_are_cut_makes_no_difference() {
        let text = b"Linux version 6.1.0 (x)\nRun /init as init process\nOops: 0002 [#1]\nlast".as_slice();
        let whole = scanner(None).feed(text);
        let mut pieces = scanner(None);
        let bytewise: Vec<_> = text.iter().flat_map(|byte| pieces.feed(&[*byte])).collect();
        // A failure pattern may match before its line is whole; then the whole line follows.
        let kinds = |findings: &[Finding]| {
            let told = findings.iter().filter(|finding| !matches!(finding, Finding::FailLine(_)));
            told.map(std::mem::discriminant).collect::<Vec<_>>()
        };
        assert_eq!(kinds(&whole), kinds(&bytewise));
        assert!(bytewise.contains(&Finding::FailLine("Oops: 0002 [#1]".into())));
    }

    #[test]
    fn a_bad_pattern_is_named() {
        assert_eq!(Pattern::new("(").unwrap_err().to_string(), "cannot use `(` as a regular expression");
    }
}
