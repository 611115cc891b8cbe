//! Layers as they come: plain, gzip or zstd, told by their first bytes.

use std::io::{self, BufRead as _, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

use crate::shim::message::Failure;

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const XZ: [u8; 4] = [0xfd, b'7', b'z', b'X'];
const BZIP2: [u8; 3] = *b"BZh";

/// The last three bytes of a frame that holds no data (RFC 8878, 3.1.2); the first is 0x50 to 0x5f.
const SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// What is in a stream, and how it was compressed.
pub(crate) fn decompress<'a, R: Read + 'a>(reader: R) -> Result<(Box<dyn Read + 'a>, Compression), Failure> {
    let mut reader = BufReader::with_capacity(128 << 10, reader);
    let start = reader.fill_buf().map_err(Failure::io("read the image"))?;
    if start.starts_with(&GZIP) {
        return Ok((Box::new(MultiGzDecoder::new(reader)), Compression::Gzip));
    }
    if start.starts_with(&ZSTD) || is_skippable(start) {
        return Ok((Box::new(Zstd { state: State::Between(reader) }), Compression::Zstd));
    }
    if start.starts_with(&XZ) || start.starts_with(&BZIP2) {
        return Err(Failure::image(
            "it is compressed with xz or bzip2; plain tar, gzip and zstd are supported",
        ));
    }
    Ok((Box::new(reader), Compression::None))
}

fn is_skippable(start: &[u8]) -> bool {
    matches!(start, [0x50..=0x5f, rest @ ..] if rest.starts_with(&SKIPPABLE))
}

/// Frame after frame; the decoder itself knows one. It bounds a frame's window, and so its memory, to about 100 MiB.
struct Zstd<R: Read> {
    state: State<R>,
}

enum State<R: Read> {
    Between(R),
    Inside(Box<StreamingDecoder<Prefixed<R>, FrameDecoder>>),
    /// After an error.
    Broken,
}

impl<R: Read> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match std::mem::replace(&mut self.state, State::Broken) {
                State::Between(mut reader) => {
                    let Some(magic) = magic(&mut reader)? else {
                        self.state = State::Between(reader);
                        return Ok(0);
                    };
                    if is_skippable(&magic) {
                        let mut length = [0u8; 4];
                        reader.read_exact(&mut length)?;
                        let length = u64::from(u32::from_le_bytes(length));
                        if io::copy(&mut (&mut reader).take(length), &mut io::sink())? != length {
                            return Err(io::ErrorKind::UnexpectedEof.into());
                        }
                        self.state = State::Between(reader);
                        continue;
                    }
                    let reader = Prefixed { magic, at: 0, reader };
                    self.state =
                        State::Inside(Box::new(StreamingDecoder::new(reader).map_err(io::Error::other)?));
                }
                State::Inside(mut decoder) => {
                    let n = decoder.read(buffer)?;
                    if n > 0 {
                        self.state = State::Inside(decoder);
                        return Ok(n);
                    }
                    self.state = State::Between(decoder.into_inner().reader);
                }
                State::Broken => return Err(io::Error::other("the compressed data is damaged")),
            }
        }
    }
}

/// The next four bytes, or `None` at the end.
fn magic(reader: &mut impl Read) -> io::Result<Option<[u8; 4]>> {
    let mut bytes = Vec::with_capacity(4);
    reader.by_ref().take(4).read_to_end(&mut bytes)?;
    match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(magic) => Ok(Some(magic)),
        Err(_) if bytes.is_empty() => Ok(None),
        Err(_) => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// A reader whose first four bytes were looked at.
struct Prefixed<R> {
    magic: [u8; 4],
    at: usize,
    reader: R,
}

impl<R: Read> Read for Prefixed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut left = self.magic.get(self.at..).unwrap_or_default();
        if left.is_empty() {
            return self.reader.read(buffer);
        }
        let n = left.read(buffer)?;
        self.at += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpacked(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let (mut reader, _) = decompress(bytes).map_err(|failure| io::Error::other(failure.reason))?;
        let mut out = Vec::new();
        reader.read_to_end(&mut out).map(|_| out)
    }

    /// A frame of one raw block: no window of its own, one byte of length.
    fn frame(data: &[u8]) -> Vec<u8> {
        let length = u8::try_from(data.len()).unwrap();
        let block = (u32::from(length) << 3) | 1;
        [&ZSTD[..], &[0x20, length], &block.to_le_bytes()[..3], data].concat()
    }

    #[test]
    fn zstd_is_read_frame_by_frame() {
        let skipped = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"xyz"].concat();
        let both = [frame(b"one "), skipped.clone(), frame(b"two")].concat();
        assert_eq!(unpacked(&both).unwrap(), b"one two");
        assert_eq!(unpacked(&[skipped, frame(b"x")].concat()).unwrap(), b"x");
    }

    #[test]
    fn what_is_cut_off_or_damaged_is_an_error() {
        let whole = [frame(b"one "), frame(b"two")].concat();
        for cut in [3, 8, whole.len() - 1, whole.len() - 9] {
            assert!(unpacked(&whole[..cut]).is_err() || cut < 4, "{cut}");
        }
        assert!(unpacked(b"\x28\xb5\x2f\xfdxxxxxxxxxxxx").is_err());
        assert!(unpacked(&[0x50, 0x2a, 0x4d, 0x18, 255, 255, 255, 255, 1]).is_err());
        assert!(unpacked(b"\xfd7zXZ\0").is_err() && unpacked(b"BZh9").is_err());
        assert_eq!(unpacked(b"plain").unwrap(), b"plain");
        assert_eq!(unpacked(b"").unwrap(), b"");
    }
}
