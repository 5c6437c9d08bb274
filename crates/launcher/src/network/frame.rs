//! Ethernet frames on a stream, as QEMU (`-netdev stream`) and passt have them: each after its length in bytes, a
//! big-endian number of four bytes.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// Longest frame, in bytes: QEMU's own limit (`NET_BUFSIZE` in `include/net/net.h`).
const MAX_FRAME_BYTES: usize = 4096 + 65536;

const LENGTH_BYTES: usize = 4;

/// A frame, with its length in front.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frame(Vec<u8>);

impl Frame {
    /// A frame of `length` bytes, all zero.
    ///
    /// # Panics
    /// When it is 4 GiB or longer.
    pub fn zeroed(length: usize) -> Self {
        let mut bytes = vec![0; LENGTH_BYTES + length];
        let length = u32::try_from(length).expect("frames are short");
        bytes[..LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
        Self(bytes)
    }

    /// Becomes the next frame of `stream`; `false` at its end.
    ///
    /// # Errors
    /// When the stream fails, ends inside a frame, or has a longer one than can be.
    pub async fn read(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> io::Result<bool> {
        let mut length = [0; LENGTH_BYTES];
        match stream.read(&mut length[..1]).await? {
            0 => return Ok(false),
            _ => stream.read_exact(&mut length[1..]).await?,
        };
        let bytes = u32::from_be_bytes(length) as usize;
        if bytes > MAX_FRAME_BYTES {
            let text = format!("a frame of {bytes} bytes, {MAX_FRAME_BYTES} are possible");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        self.0.resize(LENGTH_BYTES + bytes, 0);
        self.0[..LENGTH_BYTES].copy_from_slice(&length);
        stream.read_exact(&mut self.0[LENGTH_BYTES..]).await?;
        Ok(true)
    }

    /// The frame itself.
    pub fn bytes(&self) -> &[u8] {
        self.0.get(LENGTH_BYTES..).unwrap_or_default()
    }

    /// The same to be filled.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.get_mut(LENGTH_BYTES..).unwrap_or_default()
    }

    /// The frame after its length.
    pub fn on_the_wire(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn frame(bytes: &[u8]) -> Frame {
        let mut frame = Frame::zeroed(bytes.len());
        frame.bytes_mut().copy_from_slice(bytes);
        frame
    }

    #[tokio::test]
    async fn what_is_written_is_what_is_read() {
        let longest = vec![7; MAX_FRAME_BYTES];
        let frames: [&[u8]; 4] = [b"one", b"", &longest, b"last"];
        let stream: Vec<u8> = frames.iter().flat_map(|bytes| frame(bytes).on_the_wire().to_vec()).collect();
        let mut stream = stream.as_slice();
        let mut read = Frame::default();
        for expected in frames {
            assert!(read.read(&mut stream).await.unwrap());
            assert_eq!((read.bytes(), read.on_the_wire().len()), (expected, expected.len() + 4));
        }
        assert!(!read.read(&mut stream).await.unwrap());
    }

    #[tokio::test]
    async fn a_stream_that_is_none_of_frames_is_refused() {
        let too_long = u32::try_from(MAX_FRAME_BYTES + 1).unwrap().to_be_bytes();
        let mut read = Frame::default();
        let error = read.read(&mut too_long.as_slice()).await.unwrap_err();
        assert_eq!(error.to_string(), "a frame of 69633 bytes, 69632 are possible");
        for cut in [&[0, 0, 0][..], &[0, 0, 0, 2, 1]] {
            let error = read.read(&mut &*cut).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
