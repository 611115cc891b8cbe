//! The state machine between the two streams.
//!
//! Requests are passed on one at a time; each leaves a place in the queue, and so does a request that is refused, whose answer waits
//! behind those of the requests before it. The next request is taken when the last has left for the agent, when the queue has a place,
//! and when answers and events do not pile up; all else waits in the sender's socket.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::answer::{self, Answer, Asked, Key};
use crate::bindings::Bindings;
use crate::event::{Bound, Event, Outcome, Refused, Signed, Warning};
use crate::fingerprint::{Fingerprint, sha256};
use crate::frame::{BadLength, Frame, HEADER};
use crate::key::KeyId;
use crate::pipe::Pipe;
use crate::purpose::{Binding, Purpose};
use crate::request::Request;
use crate::text::Text;
use crate::verify::verifies;
use crate::{ANSWERS_WAITING, EVENTS_WAITING, MAX_MESSAGE, MAX_OUTSTANDING};

/// The most comments remembered from a list of keys.
const MAX_COMMENTS: usize = 256;

/// What a filter lets through.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// The keys that the guest may see and use; nothing means all. Certificates go by the key they certify.
    pub allowed_keys: Option<Arc<BTreeSet<Fingerprint>>>,
}

/// Why a stream cannot go on. Both sides are to be closed; what waits in [`Filter::to_guest`] may still be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// The guest announced more than [`MAX_MESSAGE`].
    #[error("The guest announced a request of {len} bytes; {MAX_MESSAGE} are the most.")]
    RequestTooLong {
        /// What it announced.
        len: u32,
    },
    /// The guest sent a message of length 0.
    #[error("The guest sent a request without a type.")]
    EmptyRequest,
    /// The fields of a request that would be passed on do not fill it exactly.
    #[error("{request} of the guest is malformed.")]
    Malformed {
        /// Which kind of request.
        request: &'static str,
    },
    /// The guest's stream ended within a message.
    #[error("The guest closed the connection in the middle of a request.")]
    CutRequest,
    /// The agent announced more than [`MAX_MESSAGE`].
    #[error("The agent announced an answer of {len} bytes; {MAX_MESSAGE} are the most.")]
    AnswerTooLong {
        /// What it announced.
        len: u32,
    },
    /// The agent sent a message of length 0.
    #[error("The agent sent an answer without a type.")]
    EmptyAnswer,
    /// The agent sent something that nobody asked for.
    #[error("The agent sent an answer that nobody had asked for.")]
    Unsolicited,
    /// [`Filter::close`] was called.
    #[error("The connection to the agent is closed.")]
    Closed,
}

/// One connection of a guest's program to the user's agent.
#[derive(Debug)]
pub struct Filter {
    allowed_keys: Option<Arc<BTreeSet<Fingerprint>>>,
    from_guest: Frame,
    from_agent: Frame,
    to_agent: Pipe,
    to_guest: Pipe,
    /// What will be answered, in order. Its front is always something that the agent has to answer.
    queue: VecDeque<Pending>,
    events: VecDeque<Event>,
    /// By the SHA-256 of the blob as listed, so that a certificate and its key keep their own comments.
    comments: BTreeMap<[u8; 32], Text>,
    bindings: Bindings,
    agent: Agent,
    ended: Option<FilterError>,
}

/// Whether there is somebody to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Agent {
    There,
    Gone,
}

/// A request whose answer the guest does not have yet.
#[derive(Debug)]
enum Pending {
    List,
    Sign(Box<PendingSign>),
    Bind(Box<Bound>),
    /// Not for the agent: the answer is known and waits for its turn.
    Known(Known),
}

#[derive(Debug)]
struct PendingSign {
    /// SHA-256 of the key as it stands in the request.
    blob: [u8; 32],
    key: KeyId,
    purpose: Purpose,
}

/// Answers of ours.
#[derive(Debug, Clone, Copy)]
enum Known {
    Failure,
    Extensions,
}

impl Filter {
    /// A connection on which nothing has been said yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            allowed_keys: config.allowed_keys,
            from_guest: Frame::default(),
            from_agent: Frame::default(),
            to_agent: Pipe::default(),
            to_guest: Pipe::default(),
            queue: VecDeque::new(),
            events: VecDeque::new(),
            comments: BTreeMap::new(),
            bindings: Bindings::default(),
            agent: Agent::There,
            ended: None,
        }
    }

    /// Takes bytes of the guest and says how many; the rest is to be offered again once [`Self::takes_requests`].
    ///
    /// # Errors
    /// The guest broke the protocol, or the stream had ended before; nothing more is passed on.
    pub fn guest_input(&mut self, bytes: &[u8]) -> Result<usize, FilterError> {
        self.check_open()?;
        let mut rest = bytes;
        while !rest.is_empty() && self.takes_requests() {
            match self.from_guest.take(&mut rest) {
                Ok(Some(message)) => self.request(message)?,
                Ok(None) => {}
                Err(BadLength::Zero) => return Err(self.end(FilterError::EmptyRequest)),
                Err(BadLength::TooLong(len)) => return Err(self.end(FilterError::RequestTooLong { len })),
            }
        }
        Ok(bytes.len().saturating_sub(rest.len()))
    }

    /// Takes bytes of the agent and says how many; the rest is to be offered again once [`Self::takes_answers`].
    ///
    /// # Errors
    /// The agent broke the protocol so that its answers can no longer be told apart, or the stream had ended before.
    pub fn agent_input(&mut self, bytes: &[u8]) -> Result<usize, FilterError> {
        self.check_open()?;
        let mut rest = bytes;
        while !rest.is_empty() && self.takes_answers() {
            if self.queue.is_empty() {
                return Err(self.end(FilterError::Unsolicited));
            }
            match self.from_agent.take(&mut rest) {
                Ok(Some(message)) => self.answer(message),
                Ok(None) => {}
                Err(BadLength::Zero) => return Err(self.end(FilterError::EmptyAnswer)),
                Err(BadLength::TooLong(len)) => return Err(self.end(FilterError::AnswerTooLong { len })),
            }
        }
        Ok(bytes.len().saturating_sub(rest.len()))
    }

    /// Whether [`Self::guest_input`] would take something. If not: write to both sides, poll events, feed answers.
    pub fn takes_requests(&self) -> bool {
        let between =
            self.to_agent.is_empty() && self.queue.len() < MAX_OUTSTANDING && self.answers_may_wait();
        self.ended.is_none() && (!self.from_guest.is_empty() || between)
    }

    /// Whether [`Self::agent_input`] would take something. If not: write to the guest, poll events.
    pub fn takes_answers(&self) -> bool {
        self.ended.is_none() && (!self.from_agent.is_empty() || self.answers_may_wait())
    }

    /// What is to be written to the agent: [`crate::MAX_TO_AGENT`] bytes at most.
    pub fn to_agent(&self) -> &[u8] {
        self.to_agent.bytes()
    }

    /// The first `n` bytes of [`Self::to_agent`] were written.
    pub fn consume_to_agent(&mut self, n: usize) {
        self.to_agent.consume(n);
    }

    /// What is to be written to the guest: [`crate::MAX_TO_GUEST`] bytes at most.
    pub fn to_guest(&self) -> &[u8] {
        self.to_guest.bytes()
    }

    /// The first `n` bytes of [`Self::to_guest`] were written.
    pub fn consume_to_guest(&mut self, n: usize) {
        self.to_guest.consume(n);
    }

    /// The next event; [`crate::MAX_EVENTS`] wait at most. A guest makes one event with every request that it sends, so whoever keeps
    /// them bounds their number per session.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn events_waiting(&self) -> usize {
        self.events.len()
    }

    /// How many requests have no answer in [`Self::to_guest`] yet.
    pub fn outstanding(&self) -> usize {
        self.queue.len()
    }

    /// The guest will send no more. Answers still come; the agent's side can be half-closed once [`Self::to_agent`] is written.
    ///
    /// # Errors
    /// It ended within a message.
    pub fn guest_closed(&mut self) -> Result<(), FilterError> {
        self.check_open()?;
        if self.from_guest.is_empty() { Ok(()) } else { Err(self.end(FilterError::CutRequest)) }
    }

    /// The agent is gone, or could not be reached. Whatever waits for it, and whatever the guest asks from now on, fails at once.
    pub fn agent_closed(&mut self) {
        if self.ended.is_some() || self.agent == Agent::Gone {
            return;
        }
        self.agent = Agent::Gone;
        self.to_agent.clear();
        if !self.from_agent.is_empty() {
            self.from_agent.clear();
            self.events.push_back(Event::Warning(Warning::CutAnswer));
        }
        for pending in std::mem::take(&mut self.queue) {
            let known = if let Pending::Known(known) = &pending { *known } else { Known::Failure };
            self.to_guest.push(known.message());
            self.unanswered(pending);
        }
    }

    /// The connection is over, for whatever reason: sign requests without an answer become events.
    pub fn close(&mut self) {
        if self.ended.is_none() {
            self.end(FilterError::Closed);
        }
    }

    fn check_open(&self) -> Result<(), FilterError> {
        self.ended.map_or(Ok(()), Err)
    }

    /// The back-pressure of a guest that does not read its answers and of an audit trail that is behind.
    fn answers_may_wait(&self) -> bool {
        self.to_guest.bytes().len() <= ANSWERS_WAITING && self.events.len() < EVENTS_WAITING
    }

    fn end(&mut self, why: FilterError) -> FilterError {
        self.ended = Some(why);
        self.to_agent.clear();
        self.from_guest.clear();
        self.from_agent.clear();
        for pending in std::mem::take(&mut self.queue) {
            self.unanswered(pending);
        }
        why
    }

    fn unanswered(&mut self, pending: Pending) {
        if let Pending::Sign(sign) = pending {
            self.tell_signed(*sign, Outcome::Unanswered);
        }
    }

    fn is_allowed(&self, key: &Fingerprint) -> bool {
        self.allowed_keys.as_ref().is_none_or(|allowed| allowed.contains(key))
    }

    /// A whole request, with its length field.
    fn request(&mut self, message: Vec<u8>) -> Result<(), FilterError> {
        let body = message.get(HEADER..).unwrap_or_default();
        let pending = match Request::parse(body).map_err(|why| self.end(why))? {
            Request::List => Pending::List,
            Request::Sign { key: blob, data } => {
                let key = KeyId::of(blob);
                let allowed = self.is_allowed(&key.fingerprint);
                let purpose = Purpose::of(data, &key);
                let sign = PendingSign { blob: sha256(blob), key, purpose };
                if !allowed {
                    self.tell_signed(sign, Outcome::NotAllowed);
                    self.answer_later(Known::Failure);
                    return Ok(());
                }
                Pending::Sign(Box::new(sign))
            }
            Request::Bind { host_key, session_id, raw_id, signature, forwarding } => {
                let verified = verifies(host_key, signature, raw_id);
                let host_key = KeyId::of(host_key).fingerprint;
                let binding = Binding { host_key, forwarding, verified, accepted: false };
                Pending::Bind(Box::new(Bound { session_id, binding }))
            }
            Request::Query => {
                self.answer_later(Known::Extensions);
                return Ok(());
            }
            Request::Forbidden(refused) => {
                self.refuse(refused);
                return Ok(());
            }
        };
        if self.agent == Agent::Gone {
            self.unanswered(pending);
            self.answer_later(Known::Failure);
        } else {
            self.queue.push_back(pending);
            self.to_agent.push(message);
        }
        Ok(())
    }

    fn refuse(&mut self, refused: Refused) {
        self.events.push_back(Event::Refused(refused));
        self.answer_later(Known::Failure);
    }

    fn answer_later(&mut self, known: Known) {
        self.queue.push_back(Pending::Known(known));
        self.answer_known();
    }

    /// Gives the answers whose turn it is.
    fn answer_known(&mut self) {
        while let Some(Pending::Known(known)) = self.queue.front() {
            self.to_guest.push(known.message());
            self.queue.pop_front();
        }
    }

    /// A whole answer, with its length field.
    fn answer(&mut self, message: Vec<u8>) {
        let body = message.get(HEADER..).unwrap_or_default();
        let out = match self.queue.pop_front() {
            Some(Pending::List) => match Answer::parse(Asked::List, body) {
                Ok(Answer::Keys(keys)) => self.listed(&keys).map_or(message, |fewer| fewer),
                Ok(_) => message,
                Err(warning) => self.warn(warning),
            },
            Some(Pending::Sign(sign)) => {
                let (outcome, out) = match Answer::parse(Asked::Sign, body) {
                    Ok(Answer::Signature) => (Outcome::Signed, message),
                    Ok(_) => (Outcome::Failed, message),
                    Err(warning) => (Outcome::BadAnswer, self.warn(warning)),
                };
                self.tell_signed(*sign, outcome);
                out
            }
            Some(Pending::Bind(mut bound)) => {
                let out = match Answer::parse(Asked::Bind, body) {
                    Ok(answer) => {
                        bound.binding.accepted = answer == Answer::Success;
                        message
                    }
                    Err(warning) => self.warn(warning),
                };
                self.bindings.add(bound.session_id.clone(), bound.binding.clone());
                self.events.push_back(Event::Bound(bound));
                out
            }
            // Known answers never stand in front, and an answer to an empty queue does not get here.
            Some(Pending::Known(_)) | None => answer::failure(),
        };
        self.to_guest.push(out);
        self.answer_known();
    }

    /// Remembers comments, and gives the list with the allowed keys alone if keys are to be left out.
    fn listed(&mut self, keys: &[Key<'_>]) -> Option<Vec<u8>> {
        let allowed: Vec<_> =
            keys.iter().filter(|key| self.is_allowed(&KeyId::of(key.blob).fingerprint)).copied().collect();
        self.comments =
            allowed.iter().take(MAX_COMMENTS).map(|key| (sha256(key.blob), Text::new(key.comment))).collect();
        (allowed.len() < keys.len()).then(|| answer::identities(&allowed))
    }

    fn warn(&mut self, warning: Warning) -> Vec<u8> {
        self.events.push_back(Event::Warning(warning));
        answer::failure()
    }

    fn tell_signed(&mut self, sign: PendingSign, outcome: Outcome) {
        let PendingSign { blob, key, mut purpose } = sign;
        if let Purpose::Login(login) = &mut purpose {
            login.binding = self.bindings.of(&login.session_id).cloned();
        }
        let comment = self.comments.get(&blob).cloned();
        self.events.push_back(Event::Signed(Box::new(Signed { key, comment, outcome, purpose })));
    }
}

impl Known {
    fn message(self) -> Vec<u8> {
        match self {
            Self::Failure => answer::failure(),
            Self::Extensions => answer::extensions(),
        }
    }
}

#[cfg(test)]
mod tests;
