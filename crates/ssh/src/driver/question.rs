//! Questions: values that are answered once. Dropped unanswered they mean no.

use zeroize::Zeroizing;

use super::channel::Channel;
use crate::event::{AuthMethod, ChannelOpen, ForwardRequest, OpenFailure, Prompt};

/// The client gave up this attempt (it began another, or the connection ended).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("The client abandoned the attempt to log in.")]
pub struct AuthAbandoned;

/// "May this client log in?" Dropping it rejects.
#[derive(Debug)]
#[must_use = "a dropped question means no"]
pub struct AuthQuestion {}

impl AuthQuestion {
    /// The user name as sent.
    #[must_use]
    pub fn user(&self) -> &[u8] {
        todo!()
    }

    /// The method, with what it proves.
    #[must_use]
    pub fn method(&self) -> &AuthMethod {
        todo!()
    }

    /// How many methods have already been accepted with [`partial`](Self::partial) for this user name.
    #[must_use]
    pub fn completed_methods(&self) -> u32 {
        todo!()
    }

    /// Shows a text to the user before the login is decided (RFC 4252 §5.4). Lines should end in `\n`. May be called
    /// several times.
    pub fn banner(&self, text: &str) {
        todo!()
    }

    /// Logs the client in, or for a probe says that the key would do.
    pub fn accept(self) {
        todo!()
    }

    /// Rejects, with the configured list of methods that can continue.
    pub fn reject(self) {
        todo!()
    }

    /// Rejects, with this list of methods that can continue.
    pub fn reject_with_methods(self, methods: &[&str]) {
        todo!()
    }

    /// This method succeeded but another is needed as well (RFC 4252 §5.1 "partial success"). Not a failed attempt.
    pub fn partial(self, methods: &[&str]) {
        todo!()
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
        todo!()
    }
}

/// "May this channel be opened?" May be answered at any later time; dropping it refuses.
#[derive(Debug)]
#[must_use = "a dropped question means no"]
pub struct OpenQuestion {}

impl OpenQuestion {
    /// What is to be opened.
    #[must_use]
    pub fn kind(&self) -> &ChannelOpen {
        todo!()
    }

    /// Opens the channel. If the connection has ended meanwhile the channel's halves say so.
    #[must_use = "dropping the channel closes it"]
    pub fn accept(self) -> Channel {
        todo!()
    }

    /// Refuses; stock `ssh` shows the text.
    pub fn refuse(self, failure: OpenFailure) {
        todo!()
    }
}

/// "May this listener be made or removed?" Answers go out in the order of the requests whatever the order in which
/// they are given. Dropping it refuses.
#[derive(Debug)]
#[must_use = "a dropped question means no"]
pub struct ForwardQuestion {}

impl ForwardQuestion {
    /// What is asked.
    #[must_use]
    pub fn request(&self) -> &ForwardRequest {
        todo!()
    }

    /// Says yes.
    pub fn accept(self) {
        todo!()
    }

    /// Says yes to `tcpip-forward` with this bound port. The port is sent when the client asked for port 0 and
    /// ignored otherwise (RFC 4254 §7.1).
    pub fn accept_port(self, port: u16) {
        todo!()
    }

    /// Says no.
    pub fn refuse(self) {
        todo!()
    }
}

/// A channel request's answer. If the client wanted no reply, answering sends nothing. Answers of a channel go out
/// in the order of its requests. Dropping it says no.
#[derive(Debug)]
#[must_use = "a dropped question means no"]
pub struct RequestQuestion {}

impl RequestQuestion {
    /// Says yes (`SSH_MSG_CHANNEL_SUCCESS`).
    pub fn accept(self) {
        todo!()
    }

    /// Says no (`SSH_MSG_CHANNEL_FAILURE`).
    pub fn refuse(self) {
        todo!()
    }
}
