//! Ethernet frames on a stream, as QEMU (`-netdev stream`, `-netdev socket`) and passt have them: each after its length in bytes, a
//! big-endian number of four bytes. Datagrams of port-forward are on a control connection in the same way.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Longest frame, in bytes: QEMU's own limit (`NET_BUFSIZE` in `include/net/net.h`).
const MAX_FRAME_BYTES: usize = 4096 + 65536;

const LENGTH_BYTES: usize = 4;

/// A frame or a datagram, with its length in front.
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

    /// One of these bytes.
    ///
    /// # Panics
    /// As [`Frame::zeroed`].
    pub fn of(bytes: &[u8]) -> Self {
        let mut frame = Self::zeroed(bytes.len());
        frame.bytes_mut().copy_from_slice(bytes);
        frame
    }

    /// Takes the first frame out of what was read of a stream; `None` when more has to be read.
    ///
    /// # Errors
    /// When it is longer than one can be.
    pub fn split(read: &mut BytesMut) -> io::Result<Option<Bytes>> {
        let Some(length) = read.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = checked(*length)?;
        if read.len() < LENGTH_BYTES + length {
            return Ok(None);
        }
        read.advance(LENGTH_BYTES);
        Ok(Some(read.split_to(length).freeze()))
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
        let bytes = checked(length)?;
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

/// A length in front of a frame, in bytes.
fn checked(length: [u8; LENGTH_BYTES]) -> io::Result<usize> {
    let bytes = u32::from_be_bytes(length) as usize;
    if bytes > MAX_FRAME_BYTES {
        let text = format!("a frame of {bytes} bytes, {MAX_FRAME_BYTES} are possible");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn what_is_written_is_what_is_read() {
        let longest = vec![7; MAX_FRAME_BYTES];
        let frames: [&[u8]; 4] = [b"one", b"", &longest, b"last"];
        let stream: Vec<u8> =
            frames.iter().flat_map(|bytes| Frame::of(bytes).on_the_wire().to_vec()).collect();
        let mut stream = stream.as_slice();
        let mut read = Frame::default();
        for expected in frames {
            assert!(read.read(&mut stream).await.unwrap());
            assert_eq!((read.bytes(), read.on_the_wire().len()), (expected, expected.len() + 4));
        }
        assert!(!read.read(&mut stream).await.unwrap());
    }

    #[test]
    fn frames_come_whole_however_they_are_read() {
        let stream: Vec<u8> = [&b"one"[..], b"", b"last"]
            .iter()
            .flat_map(|bytes| Frame::of(bytes).on_the_wire().to_vec())
            .collect();
        let (mut read, mut split) = (BytesMut::new(), Vec::new());
        for byte in stream {
            read.extend_from_slice(&[byte]);
            split.extend(Frame::split(&mut read).unwrap());
        }
        assert_eq!(split, [&b"one"[..], b"", b"last"]);
        let mut too_long = BytesMut::from(&u32::MAX.to_be_bytes()[..]);
        assert!(Frame::split(&mut too_long).is_err());
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
