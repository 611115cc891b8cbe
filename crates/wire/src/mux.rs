//! One end of a link: frames in, events out, data by stream, credit both ways. No I/O.
//!
//! The owner feeds bytes with [`Mux::input`], drains [`Mux::poll_event`], moves data with [`Mux::read`] and [`Mux::send_data`], and
//! writes [`Mux::output`] to the link. A stream's credit is given back when its data is *taken*, never when it arrives, so
//! one stream that is not read holds at most one window here and delays nobody.

mod stream;

use std::collections::{HashMap, VecDeque};

use crate::frame::{Decoder, Item, Kind, MAX_CHUNK, OutBuf};
use crate::message::{
    CloseReason, Exit, Hello, Incoming, Open, Opened, Reason, Refused, Size, decode_u32, decode_unwanted,
    signal_name,
};
use crate::{CAP_PING, DecodeError, STREAM_WINDOW};
use stream::{Inbox, State, Stream};

/// Data is no longer put into the output buffer beyond this many bytes; control frames are.
pub const OUTPUT_HIGH_WATER: usize = 128 * 1024;
/// Input is no longer taken while more than this many bytes wait for the peer, who then does not read its own link.
const OUTPUT_HARD_LIMIT: usize = 1024 * 1024;
/// Events that may wait; [`Mux::input`] stops before there are more.
const MAX_EVENTS: usize = 1024;
/// Streams at once on one link.
pub const MAX_STREAMS: usize = 4096;

/// Which end this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Opens streams.
    Host,
    /// Serves them.
    Agent,
}

/// Something that the owner must hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The peer's hello has arrived and a version is agreed.
    Hello,
    /// Agent: a request. Answer with [`Mux::opened`] or [`Mux::refuse`].
    Open(u32, Open),
    /// Host: it runs.
    Opened(u32, Opened),
    /// Host: it does not run; the stream is forgotten.
    Refused(u32, Refused),
    /// Data can be read. Not repeated until some was.
    Readable(u32),
    /// Credit has come after there was none.
    Writable(u32),
    /// The peer sends no more data on this stream.
    Eof(u32),
    /// Host: the process does not read its input any more. Agent: nobody reads the output of the process any more.
    ReaderGone(u32),
    /// Agent: new terminal size.
    Resize(u32, Size),
    /// Agent: deliver this signal.
    Signal(u32, String),
    /// Agent: break of this many milliseconds.
    Break(u32, u32),
    /// Host: the process ended; its data has all arrived before this.
    Exit(u32, Exit),
    /// Host: somebody has connected to a listening stream.
    Incoming(u32, Incoming),
    /// Agent: the host does not want this connection.
    Unwanted(u32, u64),
    /// The peer has forgotten the stream, and so have we.
    Closed(u32, CloseReason),
    /// The peer has asked whether we are there, and was answered. It will be heard again within so many milliseconds, or it is
    /// gone; 0 promises nothing.
    Pinged(u32),
}

/// Why a link is unusable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MuxError {
    /// Bytes that are no frame or message.
    #[error("a frame cannot be decoded: {0}")]
    Decode(#[from] DecodeError),
    /// No common version.
    #[error(
        "no common protocol version: the peer ({software}) speaks {min} to {max}, this side {} to {}",
        crate::VERSION_MIN,
        crate::VERSION_MAX
    )]
    Version {
        /// The peer's name for itself.
        software: String,
        /// Oldest version of the peer.
        min: u16,
        /// Newest version of the peer.
        max: u16,
    },
    /// The peer refuses the whole link.
    #[error("the peer refuses the link: {}", .0.text)]
    LinkRefused(Refused),
    /// A frame of a kind that this end never receives, or at a time when it makes no sense.
    #[error("unexpected frame of kind {0:?}")]
    Unexpected(Kind),
    /// A stream id that was never given out.
    #[error("a frame for a stream that was never opened")]
    UnknownStream,
    /// More data than credit, or credit beyond all bounds.
    #[error("the peer does not keep to its credit")]
    Credit,
    /// A limit of this side was reached.
    #[error("too many streams on one link")]
    TooManyStreams,
    /// A request does not fit into a frame.
    #[error("the request is too long for one frame")]
    RequestTooLong,
}

/// One end of a link.
#[derive(Debug)]
pub struct Mux {
    role: Role,
    local: Hello,
    peer: Option<Hello>,
    version: u16,
    decoder: Decoder,
    streams: HashMap<u32, Stream>,
    /// Highest stream id so far; ids are never used twice on a link.
    last_id: u32,
    /// Bounded by `MAX_EVENTS`.
    events: VecDeque<Event>,
    out: OutBuf,
    /// Bytes that have arrived; see [`Mux::heard`].
    heard: u64,
}

impl Mux {
    /// The start of a link; our hello is put into the output at once.
    pub fn new(role: Role, hello: Hello) -> Self {
        let mut out = OutBuf::default();
        out.push_control(0, Kind::Hello, &hello.encode());
        Self {
            role,
            local: hello,
            peer: None,
            version: 0,
            decoder: Decoder::new(),
            streams: HashMap::new(),
            last_id: 0,
            events: VecDeque::new(),
            out,
            heard: 0,
        }
    }

    /// How many bytes have arrived so far. When it does not change, the peer is silent.
    pub fn heard(&self) -> u64 {
        self.heard
    }

    /// Whether the peer has said that it answers [`Mux::ping`].
    pub fn answers_pings(&self) -> bool {
        self.peer.as_ref().is_some_and(|peer| peer.capabilities & CAP_PING != 0)
    }

    /// Asks the peer to answer, whatever else it does. `patience`: within how many milliseconds it will hear of us again, or may take us
    /// for gone; 0 promises nothing. False when the peer does not know the question (or has not said hello yet).
    pub fn ping(&mut self, patience: u32) -> bool {
        let knows = self.answers_pings();
        if knows {
            self.out.push_control(0, Kind::Ping, &patience.to_be_bytes());
        }
        knows
    }

    /// The peer's hello, once it has arrived.
    pub fn peer(&self) -> Option<&Hello> {
        self.peer.as_ref()
    }

    /// The agreed version; 0 before the peer's hello.
    pub fn version(&self) -> u16 {
        self.version
    }

    /// Bytes to write to the link.
    pub fn output(&self) -> &[u8] {
        self.out.output()
    }

    /// `n` bytes of the output were written.
    pub fn consume_output(&mut self, n: usize) {
        self.out.consume(n);
    }

    /// Whether data may be put into the output now.
    pub fn has_output_room(&self) -> bool {
        self.out.len() < OUTPUT_HIGH_WATER
    }

    /// Whether [`Self::input`] would take bytes now: events are drained and the peer reads what we send.
    pub fn wants_input(&self) -> bool {
        self.events.len() < MAX_EVENTS && self.out.len() < OUTPUT_HARD_LIMIT
    }

    /// Streams that are known now.
    pub fn stream_count(&self) -> usize {
        self.streams.len()
    }

    /// Takes bytes from the link and returns how many; fewer than all when events must be drained or output written first.
    /// After an error the link must be closed (what is in the output may still be written: it can tell the peer why).
    pub fn input(&mut self, bytes: &[u8]) -> Result<usize, MuxError> {
        let mut rest = bytes;
        self.heard = self.heard.wrapping_add(bytes.len() as u64);
        let mut decoder = std::mem::take(&mut self.decoder);
        let mut result = Ok(());
        while self.wants_input() {
            match decoder.next(&mut rest) {
                Ok(None) => break,
                Ok(Some(Item::Data { stream, kind, chunk })) => result = self.on_data(stream, kind, chunk),
                Ok(Some(Item::Control { stream, kind, payload })) => {
                    result = self.on_control(stream, kind, payload)
                }
                Err(error) => result = Err(error.into()),
            }
            if result.is_err() {
                break;
            }
        }
        self.decoder = decoder;
        result.map(|()| bytes.len() - rest.len())
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Host: asks for a new stream and returns its id. May be called before the peer's hello has come.
    pub fn open(&mut self, request: &Open) -> Result<u32, MuxError> {
        let payload = request.encode().map_err(|_| MuxError::RequestTooLong)?;
        if self.role != Role::Host {
            return Err(MuxError::Unexpected(Kind::Open));
        }
        let id = self.last_id.checked_add(1).ok_or(MuxError::TooManyStreams)?;
        self.insert(id)?;
        self.out.push_control(id, Kind::Open, &payload);
        Ok(id)
    }

    /// Agent: yes.
    pub fn opened(&mut self, id: u32, opened: &Opened) {
        if let Some(s) = self.streams.get_mut(&id) {
            s.state = State::Open;
            self.out.push_control(id, Kind::Opened, &opened.encode());
        }
    }

    /// Agent: no. The stream is forgotten. Stream 0 refuses the whole link.
    pub fn refuse(&mut self, id: u32, reason: Reason, text: &str) {
        self.streams.remove(&id);
        self.out.push_control(id, Kind::Refused, &Refused { reason, text: text.to_owned() }.encode());
    }

    /// How many bytes of data may be sent on the stream now.
    pub fn send_capacity(&self, id: u32) -> usize {
        match self.streams.get(&id) {
            Some(s) if s.state == State::Open && !s.sent_eof && self.has_output_room() => {
                s.send_credit.min(MAX_CHUNK)
            }
            _ => 0,
        }
    }

    /// Sends one frame of data and returns its length. 0 means: no credit (an [`Event::Writable`] follows), no room in the
    /// output (ask again after [`Self::consume_output`]), or nothing more can be sent on this stream at all.
    pub fn send_data(&mut self, id: u32, kind: Kind, bytes: &[u8]) -> usize {
        let n = self.send_capacity(id).min(bytes.len());
        let Some(s) = self.streams.get_mut(&id) else { return 0 };
        s.wants_credit = s.send_credit == n && !bytes.is_empty();
        s.send_credit -= n;
        self.out.push_data(id, kind, &bytes[..n]);
        n
    }

    /// As [`Self::send_data`], but `fill` writes the payload in place (for example by read(2)). `fill` is not called when
    /// nothing may be sent. Its 0 and its errors are returned, and nothing is sent.
    pub fn send_with<E>(
        &mut self,
        id: u32,
        kind: Kind,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let max = self.send_capacity(id);
        let Some(s) = self.streams.get_mut(&id) else { return Ok(0) };
        if max == 0 {
            s.wants_credit = s.send_credit == 0;
            return Ok(0);
        }
        let n = self.out.push_data_with(id, kind, max, fill)?;
        s.send_credit -= n;
        s.wants_credit = s.send_credit == 0;
        Ok(n)
    }

    /// The bytes that can be read from the stream: (main, standard error).
    pub fn readable(&self, id: u32) -> (usize, usize) {
        self.streams.get(&id).map_or((0, 0), |s| (s.main.len(), s.err.len()))
    }

    /// The next bytes of the stream without taking them.
    pub fn peek(&self, id: u32, kind: Kind) -> &[u8] {
        match self.streams.get(&id) {
            Some(s) if kind == Kind::Stderr => s.err.peek(),
            Some(s) => s.main.peek(),
            None => &[],
        }
    }

    /// Takes `n` of the bytes that [`Self::peek`] showed, which gives credit back to the peer.
    pub fn take(&mut self, id: u32, kind: Kind, n: usize) {
        let Some(s) = self.streams.get_mut(&id) else { return };
        let inbox = if kind == Kind::Stderr { &mut s.err } else { &mut s.main };
        let n = n.min(inbox.len());
        inbox.consume(n);
        s.told_readable = false;
        self.give_back(id, n);
    }

    /// Copies data out and takes it.
    pub fn read(&mut self, id: u32, kind: Kind, buf: &mut [u8]) -> usize {
        let from = self.peek(id, kind);
        let n = from.len().min(buf.len());
        buf[..n].copy_from_slice(&from[..n]);
        self.take(id, kind, n);
        n
    }

    /// Whether the peer has sent its Eof on this stream (there may still be data to read).
    pub fn peer_eof(&self, id: u32) -> bool {
        self.streams.get(&id).is_some_and(|s| s.peer_eof)
    }

    /// We send no more data on this stream.
    pub fn send_eof(&mut self, id: u32) {
        if let Some(s) = self.streams.get_mut(&id)
            && !s.sent_eof
        {
            s.sent_eof = true;
            self.out.push_control(id, Kind::Eof, &[]);
        }
    }

    /// Nobody reads the stream's data any more (standard error excepted); what is here and what still comes is thrown away. The peer
    /// is told once. The host may say so only to an agent with [`CAP_OUTPUT_GONE`](crate::CAP_OUTPUT_GONE).
    pub fn reader_gone(&mut self, id: u32) {
        if let Some(s) = self.streams.get_mut(&id)
            && !s.discard
        {
            s.discard = true;
            let n = s.main.len();
            s.main = Inbox::default();
            if s.state == State::Open {
                self.out.push_control(id, Kind::ReaderGone, &[]);
            }
            self.give_back(id, n);
        }
    }

    /// Host: new terminal size.
    pub fn send_resize(&mut self, id: u32, size: Size) {
        if self.is_live(id) {
            self.out.push_control(id, Kind::Resize, &size.encode());
        }
    }

    /// Host: deliver a signal. False when the name is not a signal name.
    pub fn send_signal(&mut self, id: u32, name: &str) -> bool {
        let ok = signal_name(name.as_bytes()).is_ok();
        if ok && self.is_live(id) {
            self.out.push_control(id, Kind::Signal, name.as_bytes());
        }
        ok
    }

    /// Host: break of `millis` milliseconds.
    pub fn send_break(&mut self, id: u32, millis: u32) {
        if self.is_live(id) {
            self.out.push_control(id, Kind::Break, &millis.to_be_bytes());
        }
    }

    /// Agent: somebody has connected to a listening stream. The caller keeps the number of those bounded.
    pub fn send_incoming(&mut self, id: u32, incoming: &Incoming) {
        if self.is_live(id) {
            self.out.push_control(id, Kind::Incoming, &incoming.encode());
        }
    }

    /// Host: a connection that was announced on a listening stream is not wanted.
    pub fn send_unwanted(&mut self, id: u32, connection: u64) {
        if self.is_live(id) {
            self.out.push_control(id, Kind::Incoming, &connection.to_be_bytes());
        }
    }

    /// Agent: the process has ended and all data was sent. The stream waits for the host's Close.
    pub fn send_exit(&mut self, id: u32, exit: &Exit) {
        if let Some(s) = self.streams.get_mut(&id)
            && s.state == State::Open
        {
            s.state = State::Ended;
            s.discard = true;
            s.main = Inbox::default();
            self.out.push_control(id, Kind::Exit, &exit.encode());
        }
    }

    /// Forgets the stream and tells the peer.
    pub fn close(&mut self, id: u32, reason: CloseReason) {
        if self.streams.remove(&id).is_some() {
            self.out.push_control(id, Kind::Close, &reason.encode());
        }
    }

    fn is_live(&self, id: u32) -> bool {
        self.streams.get(&id).is_some_and(|s| s.state != State::Ended)
    }

    fn insert(&mut self, id: u32) -> Result<(), MuxError> {
        if self.streams.len() >= MAX_STREAMS {
            return Err(MuxError::TooManyStreams);
        }
        self.last_id = id;
        let stream = Stream {
            state: State::Opening,
            main: Inbox::default(),
            err: Inbox::default(),
            recv_credit: self.local.window as usize,
            owed: 0,
            send_credit: self.peer.as_ref().map_or(0, |p| p.window as usize),
            told_readable: false,
            wants_credit: false,
            peer_eof: false,
            sent_eof: false,
            discard: false,
        };
        self.streams.insert(id, stream);
        Ok(())
    }

    /// Credit is returned in portions of a quarter window: few frames, and the peer never runs dry.
    fn give_back(&mut self, id: u32, n: usize) {
        let Some(s) = self.streams.get_mut(&id) else { return };
        s.owed += n;
        let due = s.owed >= (self.local.window as usize / 4).max(1);
        if due && s.state != State::Ended && !s.peer_eof {
            let credit = u32::try_from(s.owed).unwrap_or(u32::MAX);
            s.recv_credit += s.owed;
            s.owed = 0;
            self.out.push_control(id, Kind::Credit, &credit.to_be_bytes());
        }
    }

    /// The stream of a frame from the peer; `None` when we have closed it already and the frame crossed our Close.
    fn known(&mut self, id: u32) -> Result<Option<&mut Stream>, MuxError> {
        if id == 0 || id > self.last_id {
            return Err(MuxError::UnknownStream);
        }
        Ok(self.streams.get_mut(&id))
    }

    fn on_data(&mut self, id: u32, kind: Kind, chunk: &[u8]) -> Result<(), MuxError> {
        let fits = (kind == Kind::Stdin) == (self.role == Role::Agent);
        if !fits || self.peer.is_none() {
            return Err(MuxError::Unexpected(kind));
        }
        let Some(s) = self.known(id)? else { return Ok(()) };
        if s.discard && kind != Kind::Stderr {
            // Data that crossed our notice. It still counts, so that a peer cannot ignore credit.
            s.recv_credit = s.recv_credit.checked_sub(chunk.len()).ok_or(MuxError::Credit)?;
            self.give_back(id, chunk.len());
            return Ok(());
        }
        if s.state != State::Open || s.peer_eof {
            return Err(MuxError::Unexpected(kind));
        }
        s.recv_credit = s.recv_credit.checked_sub(chunk.len()).ok_or(MuxError::Credit)?;
        if kind == Kind::Stderr { &mut s.err } else { &mut s.main }.push(chunk);
        if !s.told_readable {
            s.told_readable = true;
            self.events.push_back(Event::Readable(id));
        }
        Ok(())
    }

    fn on_control(&mut self, id: u32, kind: Kind, payload: &[u8]) -> Result<(), MuxError> {
        if self.peer.is_none() {
            return self.on_hello(id, kind, payload);
        }
        match (self.role, kind) {
            (Role::Host, Kind::Refused) if id == 0 => {
                return Err(MuxError::LinkRefused(Refused::decode(payload)?));
            }
            (Role::Agent, Kind::Open) => return self.on_open(id, payload),
            (_, Kind::Ping | Kind::Pong) if id == 0 => return self.on_ping(kind, payload),
            (Role::Host, Kind::Opened | Kind::Refused | Kind::Exit)
            | (Role::Agent, Kind::Resize | Kind::Signal | Kind::Break)
            | (_, Kind::Eof | Kind::Credit | Kind::Close | Kind::Incoming | Kind::ReaderGone) => {}
            _ => return Err(MuxError::Unexpected(kind)),
        }
        let max_credit = self.peer.as_ref().map_or(0, |p| p.window).max(STREAM_WINDOW) as usize;
        let Some(s) = self.known(id)? else { return Ok(()) };
        let opening = s.state == State::Opening;
        if opening && matches!(kind, Kind::Exit | Kind::ReaderGone | Kind::Incoming)
            || !opening && kind == Kind::Opened
        {
            return Err(MuxError::Unexpected(kind));
        }
        let event = match kind {
            Kind::Opened => {
                s.state = State::Open;
                Event::Opened(id, Opened::decode(payload)?)
            }
            Kind::Refused if opening => {
                let refused = Refused::decode(payload)?;
                self.streams.remove(&id);
                Event::Refused(id, refused)
            }
            Kind::Exit if s.state == State::Open => {
                let exit = Exit::decode(payload)?;
                s.state = State::Ended;
                s.peer_eof = true;
                Event::Exit(id, exit)
            }
            Kind::Eof if !s.peer_eof => {
                s.peer_eof = true;
                Event::Eof(id)
            }
            Kind::ReaderGone if !s.sent_eof => Event::ReaderGone(id),
            Kind::ReaderGone => return Ok(()),
            Kind::Credit => {
                let n = decode_u32(payload)? as usize;
                s.send_credit = s.send_credit.saturating_add(n);
                // An honest peer never grants more than its window plus what a relay adds (see the relay module).
                if s.send_credit > max_credit.saturating_mul(2) {
                    return Err(MuxError::Credit);
                }
                if !std::mem::take(&mut s.wants_credit) {
                    return Ok(());
                }
                Event::Writable(id)
            }
            Kind::Close => {
                let reason = CloseReason::decode(payload)?;
                self.streams.remove(&id);
                Event::Closed(id, reason)
            }
            Kind::Incoming if self.role == Role::Host => Event::Incoming(id, Incoming::decode(payload)?),
            Kind::Incoming => Event::Unwanted(id, decode_unwanted(payload)?),
            Kind::Resize => Event::Resize(id, Size::decode(payload)?),
            Kind::Signal => Event::Signal(id, signal_name(payload)?),
            Kind::Break => Event::Break(id, decode_u32(payload)?),
            _ => return Err(MuxError::Unexpected(kind)),
        };
        self.events.push_back(event);
        Ok(())
    }

    fn on_hello(&mut self, id: u32, kind: Kind, payload: &[u8]) -> Result<(), MuxError> {
        if kind != Kind::Hello || id != 0 {
            return Err(DecodeError::BadMagic.into());
        }
        let peer = Hello::decode(payload)?;
        let Some(version) = self.local.agree(&peer) else {
            let error =
                MuxError::Version { software: peer.software, min: peer.version_min, max: peer.version_max };
            if self.role == Role::Agent {
                self.refuse(0, Reason::Version, &error.to_string());
            }
            return Err(error);
        };
        self.version = version;
        for s in self.streams.values_mut() {
            s.send_credit = peer.window as usize;
        }
        self.peer = Some(peer);
        self.events.push_back(Event::Hello);
        Ok(())
    }

    fn on_ping(&mut self, kind: Kind, payload: &[u8]) -> Result<(), MuxError> {
        if kind == Kind::Ping {
            // Only the newest promise counts, and a peer that asks without end must not fill the queue.
            let patience = decode_u32(payload)?;
            match self.events.back_mut() {
                Some(Event::Pinged(earlier)) => *earlier = patience,
                _ => self.events.push_back(Event::Pinged(patience)),
            }
            self.out.push_control(0, Kind::Pong, &[]);
        }
        Ok(())
    }

    fn on_open(&mut self, id: u32, payload: &[u8]) -> Result<(), MuxError> {
        if id <= self.last_id {
            return Err(MuxError::Unexpected(Kind::Open));
        }
        if self.streams.len() >= MAX_STREAMS {
            self.last_id = id;
            self.refuse(id, Reason::TooMany, "too many streams on this link");
            return Ok(());
        }
        self.insert(id)?;
        match Open::decode(payload) {
            Ok(open) => self.events.push_back(Event::Open(id, open)),
            Err(error) => {
                self.refuse(id, Reason::BadRequest, &format!("the request cannot be understood: {error}"))
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests;
