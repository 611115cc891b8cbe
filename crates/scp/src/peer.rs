//! The two byte streams to the client: records and answers in, answers and records out.

use std::io::{ErrorKind, Read, Write};

use rustix::io::Errno;

use crate::record::MAX_RECORD;
use crate::vis::on_one_line;

/// Bytes of a file that are copied in one piece. Large enough that the cost of a system call does not show.
pub const PIECE: usize = 256 * 1024;

/// Longest message to the client in bytes. Its buffer has 2048, and it would take what is beyond for the next answer.
const MAX_MESSAGE: usize = 2000;

/// The session is over: the client is gone, has given up or broke the rules. The exit status is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop;

/// What the other side says to a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Byte 0.
    Yes,
    /// Byte 1 and a line: not this one.
    No,
}

/// A line from the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// One line, without its newline.
    Whole(Vec<u8>),
    /// The stream ended before a line began.
    End,
    /// The stream ended in the middle of a line.
    Cut,
    /// More than [`MAX_RECORD`] bytes without a newline.
    Long,
}

/// Both streams.
pub struct Peer<R, W> {
    input: R,
    output: W,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    failed: bool,
}

impl<R: Read, W: Write> Peer<R, W> {
    /// Takes the streams; the input is buffered here.
    pub fn new(input: R, output: W) -> Self {
        Self { input, output, buffer: vec![0; PIECE].into(), start: 0, end: 0, failed: false }
    }

    /// Whether either side has reported an error.
    pub fn failed(&self) -> bool {
        self.failed
    }

    /// Remembers an error that is reported later or not at all.
    pub fn set_failed(&mut self) {
        self.failed = true;
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        self.output.write_all(bytes).and_then(|()| self.output.flush()).map_err(|_| Stop)
    }

    /// Says yes.
    pub fn agree(&mut self) -> Result<(), Stop> {
        self.send(&[0])
    }

    /// Reports that something did not work; the transfer goes on.
    pub fn complain(&mut self, text: &[u8]) -> Result<(), Stop> {
        self.failed = true;
        let text = on_one_line(text);
        let mut message = b"\x01scp: ".to_vec();
        // The end of a message says more than the middle of a path.
        match text.len().checked_sub(MAX_MESSAGE) {
            None | Some(0) => message.extend_from_slice(&text),
            Some(cut) => {
                message.extend_from_slice(b"...");
                message.extend_from_slice(&text[cut..]);
            }
        }
        message.push(b'\n');
        self.send(&message)
    }

    /// Waits for the answer to a record.
    pub fn answer(&mut self) -> Result<Answer, Stop> {
        let code = self.byte()?.ok_or(Stop)?;
        if code == 0 {
            return Ok(Answer::Yes);
        }
        self.failed = true;
        // Its text is for a person at the client, who has it already.
        while self.byte()?.ok_or(Stop)? != b'\n' {}
        if code == 1 { Ok(Answer::No) } else { Err(Stop) }
    }

    /// Reads a line.
    pub fn line(&mut self) -> Result<Line, Stop> {
        let mut line = Vec::new();
        loop {
            match self.byte()? {
                None if line.is_empty() => return Ok(Line::End),
                None => return Ok(Line::Cut),
                Some(b'\n') => return Ok(Line::Whole(line)),
                Some(_) if line.len() == MAX_RECORD => return Ok(Line::Long),
                Some(byte) => line.push(byte),
            }
        }
    }

    /// Waits for the next bytes of a file: `wanted` of them, but at most [`PIECE`]. They are taken with [`Peer::taken`].
    /// `None`: the stream ended before that.
    pub fn piece(&mut self, wanted: u64) -> Result<Option<&[u8]>, Stop> {
        let wanted = usize::try_from(wanted).unwrap_or(PIECE).min(PIECE);
        if self.start + wanted > self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        while self.end - self.start < wanted {
            if !self.fill()? {
                return Ok(None);
            }
        }
        Ok(Some(&self.buffer[self.start..self.start + wanted]))
    }

    /// Drops bytes that [`Peer::piece`] gave.
    pub fn taken(&mut self, count: usize) {
        self.start = self.end.min(self.start + count);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    fn byte(&mut self) -> Result<Option<u8>, Stop> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if !self.fill()? {
                return Ok(None);
            }
        }
        let byte = self.buffer[self.start];
        self.start += 1;
        Ok(Some(byte))
    }

    /// Reads once behind what is there; false at the end of the stream.
    fn fill(&mut self) -> Result<bool, Stop> {
        loop {
            match self.input.read(&mut self.buffer[self.end..]) {
                Ok(count) => {
                    self.end = self.buffer.len().min(self.end + count);
                    return Ok(count > 0);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(Stop),
            }
        }
    }
}

/// `path: what`, the form of most messages.
pub fn about(path: &[u8], what: &str) -> Vec<u8> {
    [path, b": ", what.as_bytes()].concat()
}

/// The words of the C library for an errno.
pub fn text(errno: Errno) -> String {
    let mut text = std::io::Error::from(errno).to_string();
    if let Some(end) = text.rfind(" (os error ") {
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(input: &[u8]) -> Peer<&[u8], Vec<u8>> {
        Peer::new(input, Vec::new())
    }

    #[test]
    fn answers_are_told_apart() {
        let mut peer = peer(b"\0\x01no\n\0\x02end\n");
        assert_eq!(peer.answer(), Ok(Answer::Yes));
        assert!(!peer.failed());
        assert_eq!(peer.answer(), Ok(Answer::No));
        assert!(peer.failed());
        assert_eq!(peer.answer(), Ok(Answer::Yes));
        assert_eq!(peer.answer(), Err(Stop));
        assert_eq!(peer.answer(), Err(Stop));
    }

    #[test]
    fn an_answer_without_end_takes_no_memory() {
        let mut peer = Peer::new(std::io::Read::take(std::io::repeat(1), 10 << 20), Vec::new());
        assert_eq!(peer.answer(), Err(Stop));
    }

    #[test]
    fn lines_are_bounded() {
        let long = [b'x'; MAX_RECORD];
        assert_eq!(peer(&[&long[..], b"\n"].concat()).line(), Ok(Line::Whole(long.to_vec())));
        assert_eq!(peer(&[&long[..], b"x\n"].concat()).line(), Ok(Line::Long));
        assert_eq!(peer(b"C0644").line(), Ok(Line::Cut));
        assert_eq!(peer(b"").line(), Ok(Line::End));
    }

    #[test]
    fn pieces_are_whole_wherever_the_stream_is_cut() {
        struct Drip<'a>(&'a [u8]);
        impl Read for Drip<'_> {
            fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
                let count = self.0.len().min(buf.len()).min(7001);
                buf[..count].copy_from_slice(&self.0[..count]);
                self.0 = &self.0[count..];
                Ok(count)
            }
        }
        let data: Vec<u8> = (0..=250).cycle().take(PIECE * 2 + 5).collect();
        let stream = [b"line\n", &data[..], b"next\n"].concat();
        let mut peer = Peer::new(Drip(&stream), Vec::new());
        assert_eq!(peer.line(), Ok(Line::Whole(b"line".to_vec())));
        let (mut got, mut left) = (Vec::new(), data.len() as u64);
        while left > 0 {
            let piece = peer.piece(left).ok().flatten().map(<[u8]>::to_vec).unwrap_or_default();
            assert_eq!(piece.len() as u64, left.min(PIECE as u64));
            left -= piece.len() as u64;
            peer.taken(piece.len());
            got.extend(piece);
        }
        assert!(got == data);
        assert_eq!(peer.line(), Ok(Line::Whole(b"next".to_vec())));
        assert_eq!(peer.piece(1), Ok(None));
    }

    #[test]
    fn messages_stay_on_one_line_and_within_what_a_client_takes() {
        let mut peer = peer(b"");
        assert_eq!(peer.complain(&about(b"a\nb", &text(Errno::NOENT))), Ok(()));
        assert_eq!(peer.output, b"\x01scp: a\\^Jb: No such file or directory\n");
        peer.output.clear();
        assert_eq!(peer.complain(&about(&[b'\n'; 4000], "no")), Ok(()));
        assert!(peer.output.len() < 2048 && peer.output.ends_with(b"^J: no\n"));
        assert_eq!(peer.output.iter().filter(|b| **b == b'\n').count(), 1);
    }
}
