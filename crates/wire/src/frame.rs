//! Frames: an 8-byte header (stream id u32, kind u8, length u24, all big-endian) and a payload of at most 256 KiB.

use crate::DecodeError;

/// Size of a frame header, in bytes.
pub const HEADER_LEN: usize = 8;
/// The longest payload, in bytes: a whole Open with its environment fits, a hostile length does not hurt.
pub const MAX_PAYLOAD: usize = 256 * 1024;
/// The longest data payload that this code sends, in bytes: on a shared pipe a key press waits for at most a few of these.
pub const MAX_CHUNK: usize = 32 * 1024;

/// What a frame is. The numbers are the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Versions, capabilities, windows: the first frame of each side, on stream 0.
    Hello = 1,
    /// Host: please start this on a new stream.
    Open = 2,
    /// Agent: started.
    Opened = 3,
    /// Agent: not started, and why. On stream 0: the whole link is refused.
    Refused = 4,
    /// Host: bytes for the process.
    Stdin = 5,
    /// Agent: bytes from standard output or the terminal.
    Stdout = 6,
    /// Agent: bytes from standard error.
    Stderr = 7,
    /// No more data in this direction.
    Eof = 8,
    /// Host: the terminal's new size.
    Resize = 9,
    /// Host: a signal for the process group.
    Signal = 10,
    /// Agent: how the process ended.
    Exit = 11,
    /// The receiver of data has taken this many more bytes.
    Credit = 12,
    /// The sender has forgotten the stream.
    Close = 13,
    /// Agent: the process has closed its standard input.
    ReaderGone = 14,
    /// Host: a break on the terminal line.
    Break = 15,
    /// Agent: somebody connected to a listening stream. Host: that connection is not wanted.
    Incoming = 16,
    /// Stream 0: answer with a Pong. Only for a peer that has said that it does.
    Ping = 17,
    /// Stream 0: the answer to a Ping.
    Pong = 18,
}

impl Kind {
    /// The kind with this number.
    pub fn from_u8(n: u8) -> Option<Self> {
        use Kind::*;
        [
            Hello, Open, Opened, Refused, Stdin, Stdout, Stderr, Eof, Resize, Signal, Exit, Credit, Close,
            ReaderGone, Break, Incoming, Ping, Pong,
        ]
        .into_iter()
        .find(|k| *k as u8 == n)
    }

    /// Whether the payload is bulk data, governed by credit.
    pub fn is_data(self) -> bool {
        matches!(self, Kind::Stdin | Kind::Stdout | Kind::Stderr)
    }

    /// The longest payload of this kind, in bytes. Control kinds are small, so that a hostile peer cannot make us hold much.
    pub fn max_payload(self) -> usize {
        match self {
            Kind::Stdin | Kind::Stdout | Kind::Stderr | Kind::Open => MAX_PAYLOAD,
            Kind::Hello | Kind::Opened | Kind::Refused | Kind::Exit | Kind::Incoming => 2048,
            Kind::Signal => 64,
            Kind::Resize => 16,
            Kind::Credit | Kind::Break | Kind::Ping => 4,
            Kind::Close => 1,
            Kind::Eof | Kind::ReaderGone | Kind::Pong => 0,
        }
    }
}

/// A decoded frame header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The stream; 0 is the link itself.
    pub stream: u32,
    /// What the payload is.
    pub kind: Kind,
    /// Length of the payload in bytes.
    pub len: usize,
}

impl Header {
    /// Checks kind and length as well.
    pub fn decode(raw: [u8; HEADER_LEN]) -> Result<Self, DecodeError> {
        let [a, b, c, d, kind, x, y, z] = raw;
        let kind = Kind::from_u8(kind).ok_or(DecodeError::UnknownKind(kind))?;
        let len = usize::from(x) << 16 | usize::from(y) << 8 | usize::from(z);
        if len > kind.max_payload() {
            return Err(DecodeError::TooLong);
        }
        Ok(Self { stream: u32::from_be_bytes([a, b, c, d]), kind, len })
    }

    /// The header's bytes. `len` must be at most [`MAX_PAYLOAD`] (longer values are cut to 24 bits).
    pub fn encode(self) -> [u8; HEADER_LEN] {
        let [a, b, c, d] = self.stream.to_be_bytes();
        let [.., x, y, z] = self.len.to_be_bytes();
        [a, b, c, d, self.kind as u8, x, y, z]
    }
}

/// What the decoder found.
#[derive(Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A whole control frame.
    Control {
        /// Stream id.
        stream: u32,
        /// The kind, never a data kind.
        kind: Kind,
        /// The whole payload.
        payload: &'a [u8],
    },
    /// Some of the bytes of a data frame, in order. Data frames are never gathered.
    Data {
        /// Stream id.
        stream: u32,
        /// A data kind.
        kind: Kind,
        /// Not empty.
        chunk: &'a [u8],
    },
}

/// Cuts a byte stream into frames, at any boundary. Holds at most one control frame.
#[derive(Debug, Default)]
pub struct Decoder {
    head: [u8; HEADER_LEN],
    head_len: usize,
    /// Payload of a control frame that has not arrived completely.
    partial: Vec<u8>,
    current: Option<Header>,
    /// Bytes of the current data frame still to come.
    data_left: usize,
    /// `partial` was handed out and is to be cleared.
    spent: bool,
}

impl Decoder {
    /// A decoder at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next item off the front of `input`; `None` when more bytes are needed. After an error the stream is
    /// useless. Empty data frames are skipped.
    pub fn next<'d, 'i: 'd>(&'d mut self, input: &mut &'i [u8]) -> Result<Option<Item<'d>>, DecodeError> {
        if self.spent {
            self.spent = false;
            self.partial = Vec::new();
        }
        loop {
            let Some(header) = self.current else {
                let n = input.len().min(HEADER_LEN - self.head_len);
                let (now, rest) = input.split_at(n);
                self.head[self.head_len..self.head_len + n].copy_from_slice(now);
                self.head_len += n;
                *input = rest;
                if self.head_len < HEADER_LEN {
                    return Ok(None);
                }
                self.head_len = 0;
                let header = Header::decode(self.head)?;
                self.data_left = header.len;
                self.current = Some(header);
                continue;
            };
            let Header { stream, kind, len } = header;
            if kind.is_data() {
                if self.data_left == 0 {
                    self.current = None;
                    continue;
                }
                if input.is_empty() {
                    return Ok(None);
                }
                let (chunk, rest) = input.split_at(input.len().min(self.data_left));
                *input = rest;
                self.data_left -= chunk.len();
                if self.data_left == 0 {
                    self.current = None;
                }
                return Ok(Some(Item::Data { stream, kind, chunk }));
            }
            if self.partial.is_empty()
                && let Some((payload, rest)) = input.split_at_checked(len)
            {
                *input = rest;
                self.current = None;
                return Ok(Some(Item::Control { stream, kind, payload }));
            }
            let (now, rest) = input.split_at(input.len().min(len - self.partial.len()));
            self.partial.extend_from_slice(now);
            *input = rest;
            if self.partial.len() < len {
                return Ok(None);
            }
            self.current = None;
            self.spent = true;
            return Ok(Some(Item::Control { stream, kind, payload: &self.partial }));
        }
    }
}

/// Bytes waiting to be written to a link. Its bound is kept by its users ([`crate::mux`], [`crate::relay`]).
#[derive(Debug, Default)]
pub struct OutBuf {
    /// `store[head..tail]` is waiting; the rest is room, already initialized.
    store: Vec<u8>,
    head: usize,
    tail: usize,
    /// Header position, stream, kind of the newest frame, if it is a data frame that may still grow.
    growing: Option<(usize, u32, Kind)>,
    /// Bytes queued since the buffer was last empty: tells bulk from small use.
    burst: usize,
}

/// Storage up to this size is kept while idle, in bytes.
const KEEP_IDLE: usize = 4 * 1024;

impl OutBuf {
    /// The bytes to write next.
    pub fn output(&self) -> &[u8] {
        &self.store[self.head..self.tail]
    }

    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.tail - self.head
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    /// `n` bytes of [`Self::output`] were written; more than there are counts as all.
    pub fn consume(&mut self, n: usize) {
        self.head = self.head.saturating_add(n).min(self.tail);
        if self.is_empty() {
            self.head = 0;
            self.tail = 0;
            self.growing = None;
            if self.store.len() > KEEP_IDLE && self.burst <= KEEP_IDLE {
                self.store = Vec::new();
            }
            self.burst = 0;
        }
    }

    /// Room for `n` more bytes behind the tail.
    fn reserve(&mut self, n: usize) {
        if self.store.len() - self.tail >= n {
            return;
        }
        if self.head > 0 {
            self.store.copy_within(self.head..self.tail, 0);
            self.growing =
                self.growing.and_then(|(at, stream, kind)| Some((at.checked_sub(self.head)?, stream, kind)));
            self.tail -= self.head;
            self.head = 0;
        }
        if self.store.len() - self.tail < n {
            let want = (self.tail + n)
                .max(self.store.len().saturating_mul(2).min(self.tail + n + MAX_CHUNK))
                .max(512);
            self.store.resize(want, 0);
        }
    }

    fn append(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        self.store[self.tail..self.tail + bytes.len()].copy_from_slice(bytes);
        self.tail += bytes.len();
        self.burst = self.burst.saturating_add(bytes.len());
    }

    /// Queues a control frame. `payload` must not exceed the kind's limit.
    pub fn push_control(&mut self, stream: u32, kind: Kind, payload: &[u8]) {
        debug_assert!(payload.len() <= kind.max_payload());
        self.append(&Header { stream, kind, len: payload.len() }.encode());
        self.append(payload);
        self.growing = None;
    }

    /// Queues data, in frames of at most [`MAX_CHUNK`]; joins the newest frame when that is of the same stream and kind and not
    /// yet on its way, so that many small writes do not become many headers.
    pub fn push_data(&mut self, stream: u32, kind: Kind, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let mut room = MAX_CHUNK;
            if let Some((at, s, k)) = self.growing
                && (s, k) == (stream, kind)
                && at >= self.head
            {
                room = MAX_CHUNK.saturating_sub(self.tail - at - HEADER_LEN);
            } else {
                self.growing = None;
            }
            if self.growing.is_none() || room == 0 {
                self.append(&Header { stream, kind, len: 0 }.encode());
                self.growing = Some((self.tail - HEADER_LEN, stream, kind));
                room = MAX_CHUNK;
            }
            let (now, rest) = bytes.split_at(bytes.len().min(room));
            self.append(now);
            self.patch();
            bytes = rest;
        }
    }

    /// Writes the true length into the header of the growing frame.
    fn patch(&mut self) {
        if let Some((at, stream, kind)) = self.growing {
            let header = Header { stream, kind, len: self.tail - at - HEADER_LEN }.encode();
            self.store[at..at + HEADER_LEN].copy_from_slice(&header);
        }
    }

    /// Queues one data frame whose payload `fill` writes in place, of at most `max` bytes (itself cut to [`MAX_CHUNK`]).
    /// Nothing is queued when `fill` fails or returns 0.
    pub fn push_data_with<E>(
        &mut self,
        stream: u32,
        kind: Kind,
        max: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let max = max.min(MAX_CHUNK);
        self.reserve(HEADER_LEN + max);
        let at = self.tail + HEADER_LEN;
        let n = fill(&mut self.store[at..at + max])?.min(max);
        if n > 0 {
            self.store[self.tail..at].copy_from_slice(&Header { stream, kind, len: n }.encode());
            self.tail = at + n;
            self.burst = self.burst.saturating_add(n);
            self.growing = None;
        }
        Ok(n)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Owned = (u32, Kind, Vec<u8>);

    fn decode_all(bytes: &[u8], cuts: &[usize]) -> Result<Vec<Owned>, DecodeError> {
        let mut decoder = Decoder::new();
        let mut got: Vec<Owned> = Vec::new();
        let mut rest = bytes;
        let mut cuts = cuts.iter().copied().cycle();
        while !rest.is_empty() {
            let n = cuts.next().unwrap_or(1).clamp(1, rest.len());
            let (mut now, later) = rest.split_at(n);
            rest = later;
            while let Some(item) = decoder.next(&mut now)? {
                match item {
                    Item::Control { stream, kind, payload } => got.push((stream, kind, payload.to_vec())),
                    Item::Data { stream, kind, chunk } => match got.last_mut() {
                        Some((s, k, v)) if *s == stream && *k == kind => v.extend_from_slice(chunk),
                        _ => got.push((stream, kind, chunk.to_vec())),
                    },
                }
            }
            assert!(now.is_empty());
        }
        Ok(got)
    }

    #[test]
    fn kinds_have_distinct_numbers() {
        for n in 0..=255u8 {
            if let Some(kind) = Kind::from_u8(n) {
                assert_eq!(kind as u8, n);
            }
        }
        assert_eq!(Kind::from_u8(0), None);
        assert_eq!(Kind::from_u8(19), None);
    }

    #[test]
    fn length_limits_are_per_kind() {
        let mut raw = Header { stream: 1, kind: Kind::Stdout, len: MAX_PAYLOAD }.encode();
        assert!(Header::decode(raw).is_ok());
        raw[4] = Kind::Exit as u8;
        assert_eq!(Header::decode(raw), Err(DecodeError::TooLong));
        raw[4] = 99;
        assert_eq!(Header::decode(raw), Err(DecodeError::UnknownKind(99)));
    }

    #[test]
    fn small_writes_join_one_frame() {
        let mut out = OutBuf::default();
        for _ in 0..1000 {
            out.push_data(1, Kind::Stdin, b"x");
        }
        assert_eq!(out.len(), HEADER_LEN + 1000);
        out.consume(4);
        out.push_data(1, Kind::Stdin, b"y");
        // The first header was on its way already: a second one is needed.
        assert_eq!(out.len(), HEADER_LEN - 4 + 1000 + HEADER_LEN + 1);
    }

    #[test]
    fn idle_storage_is_given_back() {
        let mut out = OutBuf::default();
        out.push_data(1, Kind::Stdin, &[0; 100_000]);
        out.consume(usize::MAX);
        assert!(out.store.len() > KEEP_IDLE, "bulk keeps its buffer");
        out.push_data(1, Kind::Stdin, b"key");
        out.consume(usize::MAX);
        assert!(out.store.len() <= KEEP_IDLE);
    }

    fn arb_frames() -> impl Strategy<Value = Vec<Owned>> {
        let one = prop_oneof![
            (1..4u32, Just(Kind::Stdout), proptest::collection::vec(any::<u8>(), 1..5000)),
            (1..4u32, Just(Kind::Exit), proptest::collection::vec(any::<u8>(), 0..600)),
            (1..4u32, Just(Kind::Eof), Just(Vec::new())),
        ];
        proptest::collection::vec(one, 0..20)
    }

    proptest! {
        #[test]
        fn any_frames_survive_any_cuts(frames in arb_frames(), cuts in proptest::collection::vec(1..3000usize, 1..8),
                                       eat in proptest::collection::vec(0..2000usize, 20)) {
            let mut out = OutBuf::default();
            let mut bytes = Vec::new();
            let mut want: Vec<Owned> = Vec::new();
            for (i, (stream, kind, payload)) in frames.iter().enumerate() {
                if kind.is_data() {
                    if i % 2 == 0 {
                        out.push_data(*stream, *kind, payload);
                    } else {
                        let n = out.push_data_with(*stream, *kind, payload.len(), |room| {
                            room.copy_from_slice(payload);
                            Ok::<_, ()>(room.len())
                        });
                        prop_assert_eq!(n, Ok(payload.len()));
                    }
                } else {
                    out.push_control(*stream, *kind, payload);
                }
                match want.last_mut() {
                    Some((s, k, v)) if kind.is_data() && s == stream && k == kind => v.extend_from_slice(payload),
                    _ => want.push((*stream, *kind, payload.clone())),
                }
                let n = eat[i].min(out.len());
                bytes.extend_from_slice(&out.output()[..n]);
                out.consume(n);
            }
            bytes.extend_from_slice(out.output());
            prop_assert_eq!(decode_all(&bytes, &cuts), Ok(want));
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..4000), cut in 1..500usize) {
            let _ = decode_all(&bytes, &[cut]);
        }
    }
}
