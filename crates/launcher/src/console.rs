//! What the guest's serial console says: lines, the last of them, and findings among them.
//!
//! The scanner is fed bytes in whatever pieces they arrive and is pure: no clock, no I/O. Lines are judged when they are
//! finished, without their CR LF, so that what is found does not depend on how the bytes were cut. A prompt never
//! finishes; [`Scanner::settle`] judges the line as it stands, once its caller has seen that nothing follows. A line
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
    /// The end of a panic's report: nothing of interest follows.
    PanicReportEnded,
}

/// Splits the console into lines and looks for what matters.
#[derive(Debug)]
pub struct Scanner {
    until: Option<Pattern>,
    fail_on: Vec<Pattern>,
    /// The line that is not finished.
    line: Vec<u8>,
    /// Whether the unfinished line was judged as it stands: each line is judged once.
    is_settled: bool,
    tail: VecDeque<String>,
    ended_with_newline: bool,
}

impl Scanner {
    /// A scanner for one boot.
    pub fn new(until: Option<Pattern>, fail_on: Vec<Pattern>) -> Self {
        Scanner {
            until,
            fail_on,
            line: Vec::with_capacity(256),
            is_settled: false,
            tail: VecDeque::with_capacity(TAIL_LINES),
            ended_with_newline: true,
        }
    }

    /// Takes the next bytes of the console and tells what the finished lines among them brought, in order.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Finding> {
        let mut findings = Vec::new();
        if let Some(&last) = bytes.last() {
            self.ended_with_newline = last == b'\n';
        }
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (mut rest, ends) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            while self.line.len() + rest.len() > MAX_LINE_BYTES {
                let (now, later) = rest.split_at(MAX_LINE_BYTES - self.line.len());
                self.line.extend_from_slice(now);
                self.finish_line(&mut findings);
                rest = later;
            }
            self.line.extend_from_slice(rest);
            if ends {
                self.finish_line(&mut findings);
            }
        }
        findings
    }

    /// Whether there is an unfinished line that was not judged.
    pub fn has_open_line(&self) -> bool {
        !self.line.is_empty() && !self.is_settled
    }

    /// Judges the unfinished line as it stands. When it goes on after all, it is not judged again.
    pub fn settle(&mut self) -> Vec<Finding> {
        let mut findings = Vec::new();
        if self.has_open_line() {
            self.is_settled = true;
            self.judge(&mut findings);
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

    fn finish_line(&mut self, findings: &mut Vec<Finding>) {
        if !self.is_settled {
            self.judge(findings);
        }
        if self.tail.len() == TAIL_LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(printable(&self.line));
        self.line.clear();
        self.is_settled = false;
    }

    /// Looks for everything in the current line.
    fn judge(&self, findings: &mut Vec<Finding>) {
        // Terminals end lines with CR LF, and some drivers with CR CR LF; `$` in a pattern means the text's end.
        let line = without_carriage_returns(&self.line);
        if line.is_empty() {
            return;
        }
        if let Some(release) = linux_release(line) {
            findings.push(Finding::KernelStarted(release));
        }
        if contains(line, b"as init process") && contains(line, b"Run /") {
            findings.push(Finding::UserspaceStarted);
        }
        if let Some(pattern) = self.fail_on.iter().find(|pattern| pattern.0.is_match(line)) {
            findings.push(if contains(line, PANIC) {
                Finding::Panic(printable(line))
            } else {
                Finding::Fail { pattern: pattern.as_str().to_owned(), line: printable(line) }
            });
        }
        if let Some(until) = &self.until
            && until.0.is_match(line)
        {
            findings.push(Finding::Until(printable(line)));
        }
        if contains(line, b"---[ end Kernel panic") {
            findings.push(Finding::PanicReportEnded);
        }
    }
}

/// The release in a `Linux version RELEASE (…)` banner.
fn linux_release(line: &[u8]) -> Option<String> {
    const BANNER: &[u8] = b"Linux version ";
    let rest = &line[find(line, BANNER)? + BANNER.len()..];
    let end = rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len());
    (end > 0).then(|| printable(&rest[..end]))
}

fn without_carriage_returns(line: &[u8]) -> &[u8] {
    let end = line.iter().rposition(|&byte| byte != b'\r').map_or(0, |last| last + 1);
    &line[..end]
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
    fn a_prompt_is_judged_once_nothing_follows() {
        let mut scanner = scanner(Some("login: $"));
        assert_eq!(scanner.feed(b"debian login: "), []);
        assert!(scanner.has_open_line());
        assert_eq!(scanner.settle(), [Finding::Until("debian login: ".into())]);
        assert!(!scanner.has_open_line() && !scanner.at_line_start());
        assert_eq!(scanner.settle(), [], "once");
        assert_eq!(scanner.feed(b"root\r\n"), [], "not again when the line goes on");
    }

    #[test]
    fn the_end_of_a_line_is_the_end_of_its_text() {
        for ending in ["\n", "\r\n", "\r\r\n"] {
            let mut scanner = scanner(Some("^exit code: 1$"));
            assert_eq!(scanner.feed(b"exit code: 1"), [], "the line may go on");
            assert_eq!(scanner.feed(format!("39{ending}").as_bytes()), []);
            let found = scanner.feed(format!("exit code: 1{ending}").as_bytes());
            assert_eq!(found, [Finding::Until("exit code: 1".into())], "{ending:?}");
        }
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
        assert_eq!(whole, bytewise);
    }

    proptest::proptest! {
        #[test]
        fn no_cut_and_no_bytes_change_what_is_found(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..2000),
            message in proptest::sample::select(vec!["Oops: 0002 [#1]", "READY", "Kernel panic - not syncing: x"]),
            at in 0usize..2000,
            cut in 1usize..700,
        ) {
            let mut text = bytes;
            let line = format!("\n{message}\r\n");
            let at = at.min(text.len());
            text.splice(at..at, line.bytes());
            let whole = scanner(Some("READY")).feed(&text);
            let mut pieces = scanner(Some("READY"));
            let cut: Vec<_> = text.chunks(cut).flat_map(|piece| pieces.feed(piece)).collect();
            proptest::prop_assert!(!whole.is_empty());
            proptest::prop_assert_eq!(whole, cut);
        }
    }

    #[test]
    fn a_bad_pattern_is_named() {
        assert_eq!(Pattern::new("(").unwrap_err().to_string(), "cannot use `(` as a regular expression");
    }
}
