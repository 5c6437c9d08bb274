//! Unpacking lz4 in its legacy format, which the kernel's build uses (`lz4 -l`).
//!
//! A magic number, then blocks: a length and that many bytes of lz4's block format
//! (lz4, doc/lz4_Frame_format.md "Legacy frame" and doc/lz4_Block_format.md). Each block unpacks to at most 8 MiB and
//! refers back at most 64 KiB, so that much history is all the memory that is needed.

use std::io::{self, BufReader, Read};

/// What the data starts with, little-endian.
pub(super) const LEGACY_MAGIC: u32 = 0x184c_2102;

/// A block unpacks to so much at most.
const MAX_BLOCK_BYTES: u64 = 8 << 20;

/// A longer packed block cannot come from a compressor (worst case of lz4 for 8 MiB).
const MAX_PACKED_BLOCK_BYTES: u32 = (8 << 20) + (8 << 20) / 255 + 16;

/// How far a match may reach back.
const WINDOW_BYTES: usize = 64 * 1024;

/// A literal or match goes on at least so long before the output is handed over.
const OUTPUT_BYTES: usize = 64 * 1024;

/// Where in a block the reader is.
#[derive(Debug, Clone, Copy)]
enum State {
    /// Before a block's length.
    BlockStart,
    /// Before a token.
    Token,
    /// In literals; a match of `match_code` follows unless the block ends.
    Literals { left: u64, match_code: u8 },
    /// In a match.
    Match { left: u64, distance: usize },
    /// Behind the last block.
    End,
}

/// Reads the unpacked bytes.
pub(super) struct LegacyReader<R> {
    packed: BufReader<R>,
    state: State,
    /// Bytes of the packed block not yet read.
    block_left: u64,
    /// Bytes that this block may still unpack to.
    output_left: u64,
    /// History, then what has not been handed over yet (from `handed`).
    output: Vec<u8>,
    handed: usize,
    /// Where this block's output starts in `output`; matches may not reach before it.
    block_output_start: usize,
    begun: bool,
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl<R: Read> LegacyReader<R> {
    pub(super) fn new(packed: R) -> Self {
        Self {
            packed: BufReader::with_capacity(64 * 1024, packed),
            state: State::BlockStart,
            block_left: 0,
            output_left: 0,
            output: Vec::with_capacity(WINDOW_BYTES + 2 * OUTPUT_BYTES),
            handed: 0,
            block_output_start: 0,
            begun: false,
        }
    }

    fn packed<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        if self.block_left < N as u64 {
            return Err(damaged("an lz4 block ends in the middle of a sequence"));
        }
        self.block_left -= N as u64;
        let mut bytes = [0; N];
        self.packed.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// A length of which `code` is the token's four bits.
    fn length(&mut self, code: u8) -> io::Result<u64> {
        let mut length = u64::from(code);
        if code == 15 {
            loop {
                let [more] = self.packed()?;
                length += u64::from(more);
                if length > MAX_BLOCK_BYTES {
                    return Err(damaged("an lz4 length is larger than a block"));
                }
                if more != 255 {
                    break;
                }
            }
        }
        Ok(length)
    }

    /// Four bytes in front of a block, or `None` at the end of the data.
    fn word(&mut self) -> io::Result<Option<u32>> {
        let mut bytes = [0; 4];
        let mut filled = 0;
        while filled < 4 {
            match self.packed.read(&mut bytes[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Ok(None), // up to three bytes of padding
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Some(u32::from_le_bytes(bytes)))
    }

    fn start_block(&mut self) -> io::Result<State> {
        if !self.begun {
            self.begun = true;
            if self.word()? != Some(LEGACY_MAGIC) {
                return Err(damaged("it does not start as lz4 data does"));
            }
        }
        let length = match self.word()? {
            None | Some(0) => return Ok(State::End),
            Some(LEGACY_MAGIC) => return Ok(State::BlockStart),
            Some(length) => length,
        };
        if length > MAX_PACKED_BLOCK_BYTES {
            // The kernel's build appends the unpacked size, which is no block's length.
            return match self.output.is_empty() {
                true => Err(damaged("an lz4 block is longer than one can be")),
                false => Ok(State::End),
            };
        }
        self.block_left = u64::from(length);
        self.output_left = MAX_BLOCK_BYTES;
        self.block_output_start = self.output.len();
        Ok(State::Token)
    }

    fn produce(&mut self, length: u64) -> io::Result<()> {
        self.output_left = self
            .output_left
            .checked_sub(length)
            .ok_or_else(|| damaged("an lz4 block unpacks to more than 8 MiB"))?;
        Ok(())
    }

    /// Does one step; output grows by [`OUTPUT_BYTES`] at most.
    fn step(&mut self) -> io::Result<()> {
        self.state = match self.state {
            State::BlockStart => self.start_block()?,
            State::End => State::End,
            State::Token if self.block_left == 0 => State::BlockStart,
            State::Token => {
                let [token] = self.packed()?;
                let left = self.length(token >> 4)?;
                self.produce(left)?;
                State::Literals {
                    left,
                    match_code: token & 0xf,
                }
            }
            State::Literals { left: 0, .. } if self.block_left == 0 => State::BlockStart,
            State::Literals { left: 0, match_code } => {
                let distance = usize::from(u16::from_le_bytes(self.packed()?));
                if distance == 0 || distance > self.output.len() - self.block_output_start {
                    return Err(damaged("an lz4 match reaches back before its block"));
                }
                let left = self.length(match_code)? + 4;
                self.produce(left)?;
                State::Match { left, distance }
            }
            State::Literals { left, match_code } => {
                let length = left.min(OUTPUT_BYTES as u64);
                if self.block_left < length {
                    return Err(damaged("an lz4 block ends in the middle of a literal"));
                }
                self.block_left -= length;
                let start = self.output.len();
                self.output.resize(start + length as usize, 0);
                self.packed.read_exact(&mut self.output[start..])?;
                State::Literals {
                    left: left - length,
                    match_code,
                }
            }
            State::Match { left: 0, .. } => State::Token,
            State::Match { left, distance } => {
                let length = left.min(OUTPUT_BYTES as u64) as usize;
                let mut copied = 0;
                while copied < length {
                    // What has been copied already may be copied again: a short distance repeats.
                    let start = self.output.len() - distance;
                    let piece = distance.min(length - copied);
                    self.output.extend_from_within(start..start + piece);
                    copied += piece;
                }
                State::Match {
                    left: left - length as u64,
                    distance,
                }
            }
        };
        Ok(())
    }

    /// Drops history that no match can reach any more.
    fn forget(&mut self) {
        if self.handed >= WINDOW_BYTES + OUTPUT_BYTES {
            let drop = self.handed - WINDOW_BYTES;
            self.output.drain(..drop);
            self.handed -= drop;
            self.block_output_start = self.block_output_start.saturating_sub(drop);
        }
    }
}

impl<R: Read> Read for LegacyReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        while self.output.len() - self.handed < OUTPUT_BYTES && !matches!(self.state, State::End) {
            self.step()?;
        }
        let length = buffer.len().min(self.output.len() - self.handed);
        buffer[..length].copy_from_slice(&self.output[self.handed..self.handed + length]);
        self.handed += length;
        self.forget();
        Ok(length)
    }
}
