//! Questions: values that are answered once. Dropped unanswered they mean no.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::channel::Channel;
use super::shared::Shared;
use crate::connection::{AuthId, AuthRequest, ChannelId, ForwardAnswer, ForwardId, RequestAnswer, Verdict};
use crate::event::{AuthMethod, ChannelOpen, ForwardRequest, OpenFailure, Prompt};

/// The client gave up this attempt (it began another, or the connection ended).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("The client abandoned the attempt to log in.")]
pub struct AuthAbandoned;

/// "May this client log in?" Dropping it rejects.
#[must_use = "a dropped question means no"]
pub struct AuthQuestion {
    shared: Arc<Shared>,
    /// `None` once answered.
    id: Option<AuthId>,
    user: Vec<u8>,
    method: AuthMethod,
    completed: u32,
}

impl fmt::Debug for AuthQuestion {
    /// The user name is left out: it may be a token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthQuestion").field("method", &self.method).finish_non_exhaustive()
    }
}

impl Drop for AuthQuestion {
    fn drop(&mut self) {
        self.answer(Verdict::Reject(None));
    }
}

impl AuthQuestion {
    pub(super) fn new(shared: Arc<Shared>, request: AuthRequest) -> Self {
        let AuthRequest { id, user, method, completed } = request;
        Self { shared, id: Some(id), user, method, completed }
    }

    fn answer(&mut self, verdict: Verdict) {
        if let Some(id) = self.id.take() {
            self.shared.with(|state| state.connection.answer_auth(id, verdict));
        }
    }

    /// The user name as sent.
    #[must_use]
    pub fn user(&self) -> &[u8] {
        &self.user
    }

    /// The method, with what it proves.
    #[must_use]
    pub const fn method(&self) -> &AuthMethod {
        &self.method
    }

    /// How many methods have already been accepted with [`partial`](Self::partial) for this user name.
    #[must_use]
    pub const fn completed_methods(&self) -> u32 {
        self.completed
    }

    /// Shows a text to the user before the login is decided (RFC 4252 §5.4). Lines should end in `\n`. May be called
    /// several times.
    pub fn banner(&self, text: &str) {
        if let Some(id) = self.id {
            self.shared.with(|state| state.connection.auth_banner(id, text));
        }
    }

    /// Logs the client in, or for a probe says that the key would do.
    pub fn accept(mut self) {
        self.answer(Verdict::Accept);
    }

    /// Rejects, with the configured list of methods that can continue.
    pub fn reject(mut self) {
        self.answer(Verdict::Reject(None));
    }

    /// Rejects, with this list of methods that can continue.
    pub fn reject_with_methods(mut self, methods: &[&str]) {
        self.answer(Verdict::Reject(Some(methods.iter().map(|&m| m.to_owned()).collect())));
    }

    /// This method succeeded but another is needed as well (RFC 4252 §5.1 "partial success"). Not a failed attempt.
    pub fn partial(mut self, methods: &[&str]) {
        self.answer(Verdict::Partial(methods.iter().map(|&m| m.to_owned()).collect()));
    }

    /// Asks the user (RFC 4256 §3.2); only for [`AuthMethod::KeyboardInteractive`]. With no prompts the client only
    /// shows name and instruction. The answers are as many as the prompts, in their order, and wiped when dropped.
    ///
    /// # Errors
    /// The client gave up this attempt, or the method is another: the question need not be answered any more.
    pub async fn prompt(
        &mut self,
        name: &str,
        instruction: &str,
        prompts: &[Prompt],
    ) -> Result<Vec<Zeroizing<Vec<u8>>>, AuthAbandoned> {
        let id = self.id.ok_or(AuthAbandoned)?;
        let asked = self.shared.with(|state| state.connection.auth_prompt(id, name, instruction, prompts));
        asked.map_err(|_| AuthAbandoned)?;
        let answers =
            self.shared.wait_for(|state| state.connection.take_auth_responses(id).transpose()).await;
        answers.map_err(|_| AuthAbandoned)
    }
}

/// "May this channel be opened?" May be answered at any later time; dropping it refuses.
#[derive(Debug)]
#[must_use = "a dropped question means no"]
pub struct OpenQuestion {
    shared: Arc<Shared>,
    /// `None` once answered.
    id: Option<ChannelId>,
    kind: ChannelOpen,
}

impl Drop for OpenQuestion {
    fn drop(&mut self) {
        self.answer_no(&OpenFailure::prohibited("The server does not open this channel."));
    }
}

impl OpenQuestion {
    pub(super) const fn new(shared: Arc<Shared>, id: ChannelId, kind: ChannelOpen) -> Self {
        Self { shared, id: Some(id), kind }
    }

    fn answer_no(&mut self, failure: &OpenFailure) {
        if let Some(id) = self.id.take() {
            self.shared.with(|state| state.connection.refuse_open(id, failure));
        }
    }

    /// What is to be opened.
    #[must_use]
    pub const fn kind(&self) -> &ChannelOpen {
        &self.kind
    }

    /// Opens the channel. If the connection has ended meanwhile the channel's halves say so.
    #[must_use = "dropping the channel closes it"]
    pub fn accept(mut self) -> Channel {
        let id = self.id.take().unwrap_or(ChannelId::NONE);
        self.shared.with(|state| state.connection.accept_open(id));
        Channel::new(&self.shared, id)
    }

    /// Refuses; stock `ssh` shows the text.
    pub fn refuse(mut self, failure: OpenFailure) {
        self.answer_no(&failure);
    }
}

/// "May this listener be made or removed?" Answers go out in the order of the requests whatever the order in which
/// they are given. Dropping it refuses.
#[derive(Debug)]
#[must_use = "a dropped question means no"]
pub struct ForwardQuestion {
    shared: Arc<Shared>,
    /// `None` once answered.
    id: Option<ForwardId>,
    request: ForwardRequest,
}

impl Drop for ForwardQuestion {
    fn drop(&mut self) {
        self.answer(ForwardAnswer::No);
    }
}

impl ForwardQuestion {
    pub(super) const fn new(shared: Arc<Shared>, id: ForwardId, request: ForwardRequest) -> Self {
        Self { shared, id: Some(id), request }
    }

    fn answer(&mut self, answer: ForwardAnswer) {
        if let Some(id) = self.id.take() {
            self.shared.with(|state| state.connection.answer_forward(id, answer));
        }
    }

    /// What is asked.
    #[must_use]
    pub const fn request(&self) -> &ForwardRequest {
        &self.request
    }

    /// Says yes.
    pub fn accept(mut self) {
        self.answer(ForwardAnswer::Yes);
    }

    /// Says yes to `tcpip-forward` with this bound port. The port is sent when the client asked for port 0 and
    /// ignored otherwise (RFC 4254 §7.1).
    pub fn accept_port(mut self, port: u16) {
        let asked_for_any = matches!(self.request, ForwardRequest::Tcpip { port: 0, .. });
        self.answer(if asked_for_any { ForwardAnswer::Port(port) } else { ForwardAnswer::Yes });
    }

    /// Says no.
    pub fn refuse(mut self) {
        self.answer(ForwardAnswer::No);
    }
}

/// A channel request's answer. If the client wanted no reply, answering sends nothing. Answers of a channel go out
/// in the order of its requests. Dropping it says no.
#[derive(Debug)]
#[must_use = "a dropped question means no"]
pub struct RequestQuestion {
    shared: Arc<Shared>,
    /// `None` once answered.
    answer: Option<RequestAnswer>,
}

impl Drop for RequestQuestion {
    fn drop(&mut self) {
        self.answer(Err(()));
    }
}

impl RequestQuestion {
    pub(super) const fn new(shared: Arc<Shared>, answer: RequestAnswer) -> Self {
        Self { shared, answer: Some(answer) }
    }

    fn answer(&mut self, verdict: Result<(), ()>) {
        if let Some(answer) = self.answer.take() {
            self.shared.with(|state| state.connection.answer_request(answer, verdict));
        }
    }

    /// Whether the client will see the answer.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.answer.is_some_and(|answer| answer.is_wanted())
    }

    /// Says yes (`SSH_MSG_CHANNEL_SUCCESS`).
    pub fn accept(mut self) {
        self.answer(Ok(()));
    }

    /// Says no (`SSH_MSG_CHANNEL_FAILURE`).
    pub fn refuse(mut self) {
        self.answer(Err(()));
    }
}
