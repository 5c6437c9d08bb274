//! The version text of a kernel.

use std::io;

use super::source::{Source, up_to};

/// Version texts are cut off here; Linux's own are under 300 bytes.
pub(super) const MAX_BANNER_BYTES: usize = 1024;

/// What the version text starts with in a kernel's read-only data (`linux_banner`, init/version-timestamp.c).
const BANNER_START: &[u8] = b"Linux version ";

/// The search is given up after so many bytes; read-only data follows the code, long before that.
const MAX_SEARCHED_BYTES: u64 = 256 << 20;

const BLOCK_BYTES: usize = 128 * 1024;

/// The text at the start of `bytes`, up to its end mark or line end; `None` if it is no text.
pub(super) fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|byte| matches!(byte, 0 | b'\n')).unwrap_or(bytes.len());
    let text = std::str::from_utf8(&bytes[..end]).ok()?.trim();
    (!text.is_empty() && !text.chars().any(char::is_control)).then(|| text.to_owned())
}

/// The release in a version text: its first word, or the one behind `Linux version`.
pub(super) fn release(text: &str) -> Option<String> {
    let text = text.strip_prefix("Linux version ").unwrap_or(text);
    let release = text.split_ascii_whitespace().next()?;
    release.starts_with(|first: char| first.is_ascii_digit()).then(|| release.to_owned())
}

/// Looks for `Linux version` and a digit (the same words occur in format strings) and returns the line.
pub(super) fn search(source: &mut dyn Source) -> io::Result<Option<String>> {
    let mut offset = 0;
    while offset < MAX_SEARCHED_BYTES {
        let block = up_to(source, offset, BLOCK_BYTES)?;
        let mut from = 0;
        while let Some(at) = find(&block[from..]).map(|at| from + at) {
            let found = offset + at as u64;
            let line = text(&up_to(source, found, MAX_BANNER_BYTES)?);
            if let Some(line) = line.filter(|line| release(line).is_some()) {
                return Ok(Some(line));
            }
            from = at + 1;
        }
        if block.len() < BLOCK_BYTES {
            break;
        }
        offset += (BLOCK_BYTES - BANNER_START.len()) as u64;
    }
    Ok(None)
}

/// The first [`BANNER_START`] in `block`, by Horspool's method: a look at the last byte tells how far to move
/// on.
fn find(block: &[u8]) -> Option<usize> {
    const LAST: usize = BANNER_START.len() - 1;
    const SHIFTS: [u8; 256] = {
        let mut shifts = [BANNER_START.len() as u8; 256];
        let mut index = 0;
        while index < LAST {
            shifts[BANNER_START[index] as usize] = (LAST - index) as u8;
            index += 1;
        }
        shifts
    };
    let mut at = 0;
    while at + LAST < block.len() {
        if &block[at..=at + LAST] == BANNER_START {
            return Some(at);
        }
        at += usize::from(SHIFTS[usize::from(block[at + LAST])]);
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::source::BytesSource;
    use super::*;

    #[test]
    fn the_release_is_the_first_word_that_is_a_version() {
        for (text, expected) in [
            ("6.1.0-56-cloud-amd64 (debian-kernel@lists.debian.org) #1 SMP", Some("6.1.0-56-cloud-amd64")),
            ("Linux version 6.18.0 (gcc) #1", Some("6.18.0")),
            ("Linux version %s (%s)", None),
            ("", None),
        ] {
            assert_eq!(release(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn a_banner_is_found_at_every_place_of_a_block_boundary() {
        let banner = b"Linux version 6.1.2 (x) #1\n\0";
        for offset in (BLOCK_BYTES - 60)..(BLOCK_BYTES + 20) {
            let mut bytes = vec![b'n'; 2 * BLOCK_BYTES];
            bytes[100..114].copy_from_slice(b"Linux version ");
            bytes[114] = b'%';
            bytes[115] = 0;
            bytes[offset..offset + banner.len()].copy_from_slice(banner);
            let found = search(&mut BytesSource(bytes)).unwrap();
            assert_eq!(found.as_deref(), Some("Linux version 6.1.2 (x) #1"), "{offset}");
        }
    }

    #[test]
    fn a_text_with_control_characters_is_none() {
        assert_eq!(text(b"6.1 \x1b[31m\0"), None);
        assert_eq!(text(b"\0"), None);
        assert_eq!(text(b"\xff\xfe\0"), None);
    }
}
