//! A tar reader for container layers: ustar, PAX records, GNU long names, numbers in base 256.
//!
//! Holds one header and bounded extension records in memory, nothing else. Where formats leave room it follows Go's
//! `archive/tar`, since that is what the runtimes read these layers with: links, devices and directories have no content
//! whatever their size field says; a record `size` of PAX counts for the entry that it precedes and for no extension
//! header in between.

use std::io::{self, Read};

use super::{LayerError, read_error};

const BLOCK_BYTES: usize = 512;

/// Longest path or link target: Linux' PATH_MAX.
const PATH_LIMIT_BYTES: usize = 4096;

/// Bytes of one PAX header. Extended attributes may have 64 KiB each; Go allows 1 MiB.
const EXTENSION_LIMIT_BYTES: u64 = 1 << 20;

/// Extension headers before one entry; more make no sense.
const EXTENSION_HEADERS: u32 = 16;

/// What a tar entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TarKind {
    File,
    Directory,
    Symlink,
    HardLink,
    CharacterDevice,
    BlockDevice,
    Fifo,
    /// Volume labels and the like.
    Unknown,
}

/// One entry, with extension records applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TarEntry {
    pub(super) kind: TarKind,
    /// As in the archive.
    pub(super) path: Vec<u8>,
    /// As in the archive.
    pub(super) link: Vec<u8>,
    pub(super) size_bytes: u64,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
    /// The content is condensed by a map of holes.
    pub(super) is_sparse: bool,
}

/// Records that precede an entry.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size_bytes: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    is_sparse: bool,
}

/// Reads entries in order.
pub(super) struct TarReader<R> {
    source: R,
    offset_bytes: u64,
    /// Content of the entry at hand that was not read yet.
    remaining_bytes: u64,
    /// After it, up to the next block.
    padding_bytes: u64,
    is_finished: bool,
}

impl<R: Read> TarReader<R> {
    pub(super) fn new(source: R) -> Self {
        Self { source, offset_bytes: 0, remaining_bytes: 0, padding_bytes: 0, is_finished: false }
    }

    pub(super) fn into_inner(self) -> R {
        self.source
    }

    /// Bytes read so far.
    pub(super) fn offset_bytes(&self) -> u64 {
        self.offset_bytes
    }

    /// Content of the entry at hand that was not read yet.
    pub(super) fn remaining_bytes(&self) -> u64 {
        self.remaining_bytes
    }

    /// Goes to the next entry; `None` at the end of the archive.
    pub(super) fn next_entry(&mut self) -> Result<Option<TarEntry>, LayerError> {
        let mut extensions = Extensions::default();
        for _ in 0..EXTENSION_HEADERS {
            self.skip()?;
            let Some(header) = self.read_header()? else {
                return Ok(None);
            };
            let size_bytes = self.number(&header[124..136])?;
            match header[156] {
                b'x' => {
                    let content = self.read_extension(size_bytes)?;
                    self.parse_pax(&content, &mut extensions)?;
                }
                b'L' => extensions.path = Some(self.read_long_name(size_bytes)?),
                b'K' => extensions.link = Some(self.read_long_name(size_bytes)?),
                // Global records carry comments (git) and nothing that runtimes apply.
                b'g' => self.set_content(size_bytes),
                _ => return self.entry(&header, size_bytes, extensions).map(Some),
            }
        }
        Err(self.malformed("too many extension headers before it"))
    }

    /// Reads content of the entry at hand; 0 at its end.
    pub(super) fn read_content(&mut self, buffer: &mut [u8]) -> Result<usize, LayerError> {
        let wanted = usize::try_from(self.remaining_bytes).unwrap_or(usize::MAX).min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let count = self.read_some(&mut buffer[..wanted])?;
        if count == 0 {
            return Err(self.truncated());
        }
        self.remaining_bytes -= count as u64;
        Ok(count)
    }

    fn entry(
        &mut self,
        header: &[u8; BLOCK_BYTES],
        header_size_bytes: u64,
        extensions: Extensions,
    ) -> Result<TarEntry, LayerError> {
        let path = extensions.path.unwrap_or_else(|| header_path(header));
        let mut is_sparse = extensions.is_sparse;
        let kind = match header[156] {
            0 if path.ends_with(b"/") => TarKind::Directory,
            0 | b'0' | b'7' => TarKind::File,
            b'S' => {
                is_sparse = true;
                self.skip_sparse_map(header)?;
                TarKind::File
            }
            b'1' => TarKind::HardLink,
            b'2' => TarKind::Symlink,
            b'3' => TarKind::CharacterDevice,
            b'4' => TarKind::BlockDevice,
            b'5' => TarKind::Directory,
            b'6' => TarKind::Fifo,
            _ => TarKind::Unknown,
        };
        let size_bytes = match kind {
            TarKind::File | TarKind::Unknown => extensions.size_bytes.unwrap_or(header_size_bytes),
            _ => 0,
        };
        self.set_content(size_bytes);
        let link = extensions.link.unwrap_or_else(|| until_nul(&header[157..257]).to_vec());
        if path.len() > PATH_LIMIT_BYTES || link.len() > PATH_LIMIT_BYTES {
            return Err(LayerError::LongName { limit_bytes: PATH_LIMIT_BYTES });
        }
        if path.contains(&0) || link.contains(&0) {
            return Err(self.malformed("its name has a NUL byte"));
        }
        let identifier = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        let uid = self.number(&header[108..116])?;
        let gid = self.number(&header[116..124])?;
        Ok(TarEntry {
            kind,
            path,
            link,
            size_bytes,
            uid: extensions.uid.unwrap_or(identifier(uid)),
            gid: extensions.gid.unwrap_or(identifier(gid)),
            // Only permission bits count; some writers put the file type above them.
            mode: (self.number(&header[100..108])? & 0o7777) as u32,
            is_sparse,
        })
    }

    fn set_content(&mut self, size_bytes: u64) {
        self.remaining_bytes = size_bytes;
        self.padding_bytes = size_bytes.wrapping_neg() % BLOCK_BYTES as u64;
    }

    /// Passes over what is left of the entry at hand.
    fn skip(&mut self) -> Result<(), LayerError> {
        let mut buffer = [0; 16 << 10];
        // Padding may be missing at the very end of sloppy archives, content may not.
        while self.remaining_bytes > 0 {
            self.read_content(&mut buffer)?;
        }
        while self.padding_bytes > 0 {
            let wanted = self.padding_bytes as usize;
            let count = self.read_some(&mut buffer[..wanted])?;
            if count == 0 {
                self.is_finished = true;
                self.padding_bytes = 0;
                break;
            }
            self.padding_bytes -= count as u64;
        }
        Ok(())
    }

    /// The next header, checked; `None` at the end.
    fn read_header(&mut self) -> Result<Option<[u8; BLOCK_BYTES]>, LayerError> {
        if self.is_finished {
            return Ok(None);
        }
        let mut block = [0; BLOCK_BYTES];
        if !self.read_block(&mut block)? {
            self.is_finished = true;
            return Ok(None);
        }
        if block.iter().all(|byte| *byte == 0) {
            self.is_finished = true;
            if self.read_block(&mut block)? && block.iter().any(|byte| *byte != 0) {
                return Err(self.malformed("it follows the end of the archive"));
            }
            return Ok(None);
        }
        let stated = self.number(&block[148..156])?;
        let rest = || block[..148].iter().chain(&block[156..]);
        let unsigned = 8 * 32 + rest().map(|byte| u64::from(*byte)).sum::<u64>();
        // Some old writers summed signed bytes.
        let signed = 8 * 32 + rest().map(|byte| i64::from(byte.cast_signed())).sum::<i64>();
        if stated != unsigned && i64::try_from(stated) != Ok(signed) {
            return Err(self.malformed("its checksum is wrong"));
        }
        Ok(Some(block))
    }

    /// Fills a block; false when there is nothing left at all.
    fn read_block(&mut self, block: &mut [u8; BLOCK_BYTES]) -> Result<bool, LayerError> {
        let mut filled = 0;
        while filled < BLOCK_BYTES {
            match self.read_some(&mut block[filled..])? {
                0 if filled == 0 => return Ok(false),
                0 => return Err(self.truncated()),
                count => filled += count,
            }
        }
        Ok(true)
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, LayerError> {
        loop {
            match self.source.read(buffer) {
                Ok(count) => {
                    self.offset_bytes += count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(read_error(error, self.offset_bytes)),
            }
        }
    }

    fn read_extension(&mut self, size_bytes: u64) -> Result<Vec<u8>, LayerError> {
        if size_bytes > EXTENSION_LIMIT_BYTES {
            return Err(LayerError::LongExtension { size_bytes, limit_bytes: EXTENSION_LIMIT_BYTES });
        }
        self.set_content(size_bytes);
        let mut content = vec![0; size_bytes as usize];
        let mut filled = 0;
        while filled < content.len() {
            filled += self.read_content(&mut content[filled..])?;
        }
        Ok(content)
    }

    fn read_long_name(&mut self, size_bytes: u64) -> Result<Vec<u8>, LayerError> {
        // One more for the NUL at the end.
        if size_bytes > PATH_LIMIT_BYTES as u64 + 1 {
            return Err(LayerError::LongName { limit_bytes: PATH_LIMIT_BYTES });
        }
        let content = self.read_extension(size_bytes)?;
        Ok(until_nul(&content).to_vec())
    }

    /// Old GNU sparse files continue their map of holes in further blocks before the content.
    fn skip_sparse_map(&mut self, header: &[u8; BLOCK_BYTES]) -> Result<(), LayerError> {
        let mut is_extended = header[482] != 0;
        let mut block = [0; BLOCK_BYTES];
        while is_extended {
            if !self.read_block(&mut block)? {
                return Err(self.truncated());
            }
            is_extended = block[504] != 0;
        }
        Ok(())
    }

    /// Records of the form `LENGTH KEY=VALUE\n`, where the length counts itself.
    fn parse_pax(&self, mut content: &[u8], extensions: &mut Extensions) -> Result<(), LayerError> {
        while !content.is_empty() {
            // Some writers fill up with NUL.
            if content.iter().all(|byte| *byte == 0) {
                break;
            }
            let space = content.iter().take(10).position(|byte| *byte == b' ');
            let length = space.and_then(|space| decimal(&content[..space]));
            let (Some(space), Some(length)) = (space, length) else {
                return Err(self.malformed("a PAX record has no length"));
            };
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            if length < space + 3 || length > content.len() || content[length - 1] != b'\n' {
                return Err(self.malformed("a PAX record has a wrong length"));
            }
            let record = &content[space + 1..length - 1];
            let Some(equals) = record.iter().position(|byte| *byte == b'=') else {
                return Err(self.malformed("a PAX record has no value"));
            };
            self.apply_pax(&record[..equals], &record[equals + 1..], extensions)?;
            content = &content[length..];
        }
        Ok(())
    }

    fn apply_pax(&self, key: &[u8], value: &[u8], extensions: &mut Extensions) -> Result<(), LayerError> {
        let number =
            || decimal(value).ok_or_else(|| self.malformed("a PAX record has no number where one belongs"));
        match key {
            b"path" | b"linkpath" if value.is_empty() => {}
            b"path" | b"GNU.sparse.name" => extensions.path = Some(value.to_vec()),
            b"linkpath" => extensions.link = Some(value.to_vec()),
            b"size" => extensions.size_bytes = Some(number()?),
            b"uid" => extensions.uid = Some(u32::try_from(number()?).unwrap_or(u32::MAX)),
            b"gid" => extensions.gid = Some(u32::try_from(number()?).unwrap_or(u32::MAX)),
            _ => {}
        }
        extensions.is_sparse |= key.starts_with(b"GNU.sparse.");
        Ok(())
    }

    /// An octal number, or one in base 256 when the first bit is set. Negative and overlong ones are refused.
    fn number(&self, field: &[u8]) -> Result<u64, LayerError> {
        if field[0] & 0x80 != 0 {
            if field[0] & 0x40 != 0 {
                return Err(self.malformed("it has a negative number"));
            }
            let (mut value, mut overflow) = (u64::from(field[0] & 0x3f), false);
            for byte in &field[1..] {
                overflow |= value >> 55 != 0;
                value = (value << 8) | u64::from(*byte);
            }
            return if overflow { Err(self.malformed("it has a number out of range")) } else { Ok(value) };
        }
        let mut value = 0_u64;
        for byte in until_nul(field).trim_ascii() {
            if !(b'0'..=b'7').contains(byte) {
                return Err(self.malformed("it has no number where one belongs"));
            }
            // Twelve octal digits at most: no overflow.
            value = (value << 3) | u64::from(byte - b'0');
        }
        Ok(value)
    }

    fn malformed(&self, reason: &'static str) -> LayerError {
        LayerError::MalformedEntry {
            offset_bytes: self.offset_bytes.saturating_sub(BLOCK_BYTES as u64),
            reason,
        }
    }

    fn truncated(&self) -> LayerError {
        LayerError::Broken { offset_bytes: self.offset_bytes, source: io::ErrorKind::UnexpectedEof.into() }
    }
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Name, with the prefix that POSIX headers (not GNU ones) may have.
fn header_path(header: &[u8; BLOCK_BYTES]) -> Vec<u8> {
    let name = until_nul(&header[..100]);
    // Schily's star keeps times in the last 24 bytes of the prefix.
    let prefix_end = if &header[508..512] == b"tar\0" { 476 } else { 500 };
    let prefix = until_nul(&header[345..prefix_end]);
    if &header[257..263] == b"ustar\0" && !prefix.is_empty() {
        [prefix, b"/", name].concat()
    } else {
        name.to_vec()
    }
}
