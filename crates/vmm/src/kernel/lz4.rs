//! Unpacking lz4 in its legacy format, which Linux's build uses for kernels (`lz4 -l`).
//!
//! A magic number, then blocks: a length and that many bytes of lz4's block format (lz4,
//! doc/lz4_Frame_format.md, "Legacy frame", and doc/lz4_Block_format.md). A block unpacks to at most 8 MiB
//! and refers back at most 64 KiB within itself; so that much history is all that is held, and never a whole
//! block.

use std::io::{self, Read};

/// What the data starts with.
pub(super) const LEGACY_MAGIC: [u8; 4] = 0x184c_2102_u32.to_le_bytes();

/// A block unpacks to so much at most.
const MAX_BLOCK_BYTES: usize = 8 << 20;

/// What a block of [`MAX_BLOCK_BYTES`] that cannot be compressed takes (`LZ4_COMPRESSBOUND`).
const MAX_PACKED_BLOCK_BYTES: usize = MAX_BLOCK_BYTES + MAX_BLOCK_BYTES / 255 + 16;

/// How far a match may reach back, and a little more.
const HISTORY_BYTES: usize = 64 * 1024;

/// Unpacked bytes handed over at a time; half of this again is what moving the history costs.
const OUTPUT_BYTES: usize = 128 * 1024;

const INPUT_BYTES: usize = 64 * 1024;

/// The shortest match.
const MIN_MATCH_BYTES: usize = 4;

/// Short copies are done in one piece of this length, of which what is too much is overwritten later.
const PIECE_BYTES: usize = 16;

/// Where in the data the reader is.
#[derive(Debug, Clone, Copy)]
enum State {
    /// Before the magic number.
    Start,
    /// Before a block's length, or at the end of the data.
    BlockStart,
    /// Before a token, or at the end of a block.
    Token,
    /// In literals; a match follows unless the block ends.
    Literals { left: usize, match_code: u8 },
    /// In a match.
    Match { left: usize, distance: usize },
    /// Behind the last block.
    End,
}

/// Reads the unpacked bytes. What is read from must end with the last block.
pub(super) struct LegacyReader<R> {
    packed: R,
    input: Box<[u8]>,
    input_at: usize,
    input_end: usize,
    state: State,
    /// Bytes of the packed block not yet consumed.
    packed_left: usize,
    /// Bytes that this block may still unpack to.
    room_left: usize,
    /// History, then what has not been handed over, then what [`PIECE_BYTES`] may spill to.
    window: Box<[u8]>,
    made: usize,
    handed: usize,
    /// Where this block's bytes start in the window: matches may not reach before it.
    block_start: usize,
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl<R: Read> LegacyReader<R> {
    pub(super) fn new(packed: R) -> Self {
        Self {
            packed,
            input: vec![0; INPUT_BYTES].into_boxed_slice(),
            input_at: 0,
            input_end: 0,
            state: State::Start,
            packed_left: 0,
            room_left: 0,
            window: vec![0; HISTORY_BYTES + OUTPUT_BYTES + PIECE_BYTES].into_boxed_slice(),
            made: 0,
            handed: 0,
            block_start: 0,
        }
    }

    /// Makes sure that there is input; `false` at the end of the data.
    fn fill(&mut self) -> io::Result<bool> {
        while self.input_at == self.input_end {
            match self.packed.read(&mut self.input) {
                Ok(0) => return Ok(false),
                Ok(read) => (self.input_at, self.input_end) = (0, read),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// The next byte of this block.
    #[inline]
    fn byte(&mut self) -> io::Result<u8> {
        if self.packed_left == 0 {
            return Err(damaged("an lz4 block ends within a sequence"));
        }
        if self.input_at == self.input_end && !self.fill()? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let byte = self.input[self.input_at];
        self.input_at += 1;
        self.packed_left -= 1;
        Ok(byte)
    }

    /// Four bytes outside of blocks; `None` at the end of the data.
    fn word(&mut self) -> io::Result<Option<[u8; 4]>> {
        let mut word = [0; 4];
        for (index, byte) in word.iter_mut().enumerate() {
            if !self.fill()? {
                return if index == 0 { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
            *byte = self.input[self.input_at];
            self.input_at += 1;
        }
        Ok(Some(word))
    }

    /// A length that a token gives four bits of. No longer than what the block may still unpack to.
    #[inline]
    fn length(&mut self, code: u8, minimum: usize) -> io::Result<usize> {
        let mut length = usize::from(code) + minimum;
        if code == 15 {
            loop {
                let more = self.byte()?;
                length += usize::from(more);
                if more != 255 || length > self.room_left {
                    break;
                }
            }
        }
        match self.room_left.checked_sub(length) {
            Some(room) => self.room_left = room,
            None => return Err(damaged("an lz4 block unpacks to more than 8 MiB")),
        }
        Ok(length)
    }

    fn start_block(&mut self) -> io::Result<State> {
        let Some(length) = self.word()? else {
            return Ok(State::End);
        };
        let length = u32::from_le_bytes(length) as usize;
        if length == 0 || length > MAX_PACKED_BLOCK_BYTES {
            return Err(damaged("an lz4 block has a length that none can have"));
        }
        self.packed_left = length;
        self.room_left = MAX_BLOCK_BYTES;
        self.block_start = self.made;
        Ok(State::Token)
    }

    /// Copies literals as far as there are input and space.
    #[inline]
    fn copy_literals(&mut self, left: usize) -> io::Result<usize> {
        if left > self.packed_left {
            return Err(damaged("an lz4 block ends within its literals"));
        }
        if left > 0 && !self.fill()? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let length = left.min(self.input_end - self.input_at).min(self.space());
        let (from, to) = (self.input_at, self.made);
        if length <= PIECE_BYTES && from + PIECE_BYTES <= self.input.len() {
            // Up to the end of the buffer, of which more than was read is only copied to be overwritten.
            self.window[to..to + PIECE_BYTES].copy_from_slice(&self.input[from..from + PIECE_BYTES]);
        } else {
            self.window[to..to + length].copy_from_slice(&self.input[from..from + length]);
        }
        self.input_at += length;
        self.packed_left -= length;
        self.made += length;
        Ok(left - length)
    }

    /// Copies from `distance` back as far as there is space.
    #[inline]
    fn copy_match(&mut self, left: usize, distance: usize) -> usize {
        let mut length = left.min(self.space());
        let left = left - length;
        let from = self.made - distance;
        if distance >= PIECE_BYTES && length <= 4 * PIECE_BYTES {
            let mut copied = 0;
            while copied < length {
                let from = from + copied;
                self.window.copy_within(from..from + PIECE_BYTES, self.made + copied);
                copied += PIECE_BYTES;
            }
            self.made += length;
            return left;
        }
        while length > 0 {
            // What has been copied is copied again: a short distance repeats, and doubles as it goes on.
            let piece = (self.made - from).min(length);
            self.window.copy_within(from..from + piece, self.made);
            self.made += piece;
            length -= piece;
        }
        left
    }

    fn space(&self) -> usize {
        HISTORY_BYTES + OUTPUT_BYTES - self.made
    }

    /// Unpacks until the window is full or the data ends.
    fn advance(&mut self) -> io::Result<()> {
        while self.space() > 0 {
            self.state = match self.state {
                State::Start => match self.word()? {
                    Some(LEGACY_MAGIC) => State::BlockStart,
                    _ => return Err(damaged("it does not start as lz4 data does")),
                },
                State::BlockStart => self.start_block()?,
                State::Token if self.packed_left == 0 => State::BlockStart,
                State::Token => {
                    let token = self.byte()?;
                    let left = self.length(token >> 4, 0)?;
                    State::Literals { left: self.copy_literals(left)?, match_code: token & 0xf }
                }
                State::Literals { left: 0, .. } if self.packed_left == 0 => State::BlockStart,
                State::Literals { left: 0, match_code } => {
                    let distance = usize::from(u16::from_le_bytes([self.byte()?, self.byte()?]));
                    if distance == 0 || distance > self.made - self.block_start {
                        return Err(damaged("an lz4 match reaches back before its block"));
                    }
                    let left = self.length(match_code, MIN_MATCH_BYTES)?;
                    State::Match { left: self.copy_match(left, distance), distance }
                }
                State::Literals { left, match_code } => {
                    State::Literals { left: self.copy_literals(left)?, match_code }
                }
                State::Match { left: 0, .. } => State::Token,
                State::Match { left, distance } => {
                    State::Match { left: self.copy_match(left, distance), distance }
                }
                State::End => return Ok(()),
            };
        }
        Ok(())
    }

    /// Makes space by dropping what no match can reach any more; everything has been handed over.
    fn make_space(&mut self) {
        if let Some(dropped) = self.made.checked_sub(HISTORY_BYTES) {
            self.window.copy_within(dropped..self.made, 0);
            self.made = HISTORY_BYTES;
            self.handed = HISTORY_BYTES;
            self.block_start = self.block_start.saturating_sub(dropped);
        }
    }
}

impl<R: Read> Read for LegacyReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.handed == self.made && !buffer.is_empty() {
            self.make_space();
            self.advance()?;
        }
        let length = buffer.len().min(self.made - self.handed);
        buffer[..length].copy_from_slice(&self.window[self.handed..self.handed + length]);
        self.handed += length;
        Ok(length)
    }
}

#[cfg(test)]
mod tests;
