//! User authentication (RFC 4252, RFC 4256).
//!
//! After the key exchange the client asks for the service `ssh-userauth` and then tries methods, each a
//! `SSH_MSG_USERAUTH_REQUEST` with user name, service and method. Requests are worked on one at a time, in order: while
//! the application decides, the connection does not look at further input. The core verifies signatures *before* it asks,
//! so that all the application has to decide is who may enter.

mod certificate;
mod key;
#[cfg(test)]
mod tests;

pub(crate) use key::fingerprint;
use key::{Form, KeyError, KeyFields, algorithm_named};
use zeroize::Zeroizing;

use crate::codec::{Reader, Writer};
use crate::connection::numbers as msg;
use crate::connection::{Config, Fault};
use crate::event::{AuthMethod, Certificate, Echo, Prompt, PublicKey, SecurityKeyUse};
use crate::transport::Sender;

/// Names one attempt to log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AuthId(u64);

/// A question for the application.
#[derive(Debug)]
pub struct AuthRequest {
    /// For the answer.
    pub id: AuthId,
    /// The user name as sent.
    pub user: Vec<u8>,
    /// How the client wants to log in.
    pub method: AuthMethod,
    /// Methods already accepted as a part, for this user name.
    pub completed: u32,
}

/// The application's decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Log in; for a probe: the key would do.
    Accept,
    /// No. With a list of methods that can continue, or the configured one.
    Reject(Option<Vec<String>>),
    /// Right, but not enough: these methods can continue.
    Partial(Vec<String>),
}

/// What signatures are bound to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Binding {
    pub(crate) session_id: Vec<u8>,
    pub(crate) host_key: Vec<u8>,
}

/// Where the login stands.
#[derive(Debug)]
enum Phase {
    /// The client has to ask for the service first.
    Service,
    /// The next request may come.
    Request,
    /// The application has a question.
    Asking { id: AuthId, attempt: Attempt },
    /// Keyboard-interactive: the client has our prompts.
    Prompting { id: AuthId, prompts: usize },
    /// Logged in.
    Done,
}

/// What is needed to answer an attempt.
#[derive(Debug)]
enum Attempt {
    /// A probe: its algorithm and blob go back in the answer. Never counted.
    Probe { algorithm: Vec<u8>, blob: Vec<u8> },
    /// The first `none`, which is not counted (as sshd).
    Free,
    /// Everything else.
    Counted,
    /// Counted, and prompts are allowed.
    Interactive,
}

/// The state of the login.
#[derive(Debug)]
pub(crate) struct Auth {
    phase: Phase,
    user: Vec<u8>,
    /// What can continue, once the application has said something else than the configuration.
    methods: Option<Vec<String>>,
    completed: u32,
    failures: u32,
    requests: u32,
    next: u64,
    responses: Option<(AuthId, Vec<Zeroizing<Vec<u8>>>)>,
}

/// The attempt is over; nobody waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stale;

/// What became of a key in a request.
enum Offer {
    Probe(PublicKey, Option<Box<Certificate>>),
    Proved(PublicKey, Option<Box<Certificate>>, Option<SecurityKeyUse>),
}

impl Auth {
    pub(crate) const fn new() -> Self {
        Self {
            phase: Phase::Service,
            user: Vec::new(),
            methods: None,
            completed: 0,
            failures: 0,
            requests: 0,
            next: 0,
            responses: None,
        }
    }

    pub(crate) const fn is_done(&self) -> bool {
        matches!(self.phase, Phase::Done)
    }

    /// True while the application decides: no further input is looked at.
    pub(crate) const fn is_asking(&self) -> bool {
        matches!(self.phase, Phase::Asking { .. })
    }

    /// The attempt that can still be answered.
    pub(crate) const fn current(&self) -> Option<AuthId> {
        match self.phase {
            Phase::Asking { id, .. } | Phase::Prompting { id, .. } => Some(id),
            _ => None,
        }
    }

    /// Works on a message that arrived before the login was complete.
    pub(crate) fn message(
        &mut self,
        kind: u8,
        body: &[u8],
        sender: &mut Sender,
        config: &Config,
        binding: &Binding,
    ) -> Result<Option<AuthRequest>, Fault> {
        match (kind, &self.phase) {
            (msg::SERVICE_REQUEST, _) => self.service(body, sender).map(|()| None),
            (msg::USERAUTH_REQUEST, Phase::Request | Phase::Prompting { .. }) => {
                self.request(body, sender, config, binding)
            }
            (msg::USERAUTH_INFO_RESPONSE, Phase::Prompting { id, prompts }) => {
                let (id, prompts) = (*id, *prompts);
                self.respond(id, prompts, body, sender, config).map(|()| None)
            }
            _ => Err(Fault::protocol(format!("Message {kind} is not allowed before the login is complete."))),
        }
    }

    fn service(&mut self, body: &[u8], sender: &mut Sender) -> Result<(), Fault> {
        let mut reader = Reader::new(body);
        let name = reader.string()?;
        reader.finish()?;
        if name != b"ssh-userauth" {
            return Err(Fault::NoService);
        }
        if matches!(self.phase, Phase::Service) {
            self.phase = Phase::Request;
        }
        let mut reply = Writer::message(msg::SERVICE_ACCEPT);
        reply.string(name);
        Ok(sender.send(reply.as_slice())?)
    }

    fn request(
        &mut self,
        body: &[u8],
        sender: &mut Sender,
        config: &Config,
        binding: &Binding,
    ) -> Result<Option<AuthRequest>, Fault> {
        let mut reader = Reader::new(body);
        let (user, service, method) = (reader.string()?, reader.string()?, reader.string()?);
        if service != b"ssh-connection" {
            return Err(Fault::NoService);
        }
        // Any attempt that still waits for its prompts to be answered is given up by this one (RFC 4256 §3.1).
        self.phase = Phase::Request;
        self.requests = self.requests.saturating_add(1);
        if self.requests > config.max_auth_requests {
            return Err(Fault::TooManyAuthFailures);
        }
        if user != self.user {
            self.user = user.to_vec();
            self.completed = 0;
            self.methods = None;
        }
        let (attempt, method) = match method {
            b"none" => {
                reader.finish()?;
                let attempt = if self.requests == 1 { Attempt::Free } else { Attempt::Counted };
                (attempt, AuthMethod::None)
            }
            b"password" => {
                let change = reader.bool()?;
                let password = Zeroizing::new(reader.string()?.to_vec());
                if change {
                    // A password change was not asked for, and cannot be done here.
                    return self.fail(Counting::Counted, sender, config);
                }
                reader.finish()?;
                (Attempt::Counted, AuthMethod::Password(password))
            }
            b"keyboard-interactive" => {
                let _language = reader.string()?;
                let submethods = reader.string()?.to_vec();
                reader.finish()?;
                (Attempt::Interactive, AuthMethod::KeyboardInteractive { submethods })
            }
            b"publickey" | b"publickey-hostbound-v00@openssh.com" => {
                let host_bound = method != b"publickey";
                let proves = reader.bool()?;
                let (algorithm, blob) = (reader.string()?, reader.string()?);
                let attempt = if proves {
                    Attempt::Counted
                } else {
                    Attempt::Probe { algorithm: algorithm.to_vec(), blob: blob.to_vec() }
                };
                match offer(reader, body, proves, host_bound, algorithm, blob, binding)? {
                    Ok(Offer::Probe(key, certificate)) => {
                        (attempt, AuthMethod::PublicKeyProbe { key, certificate })
                    }
                    Ok(Offer::Proved(key, certificate, security_key)) => {
                        (attempt, AuthMethod::PublicKey { key, certificate, security_key, host_bound })
                    }
                    Err(_why) => {
                        let counting = if proves { Counting::Counted } else { Counting::Free };
                        return self.fail(counting, sender, config);
                    }
                }
            }
            // Not a failed attempt to prove anything, but counted so that it ends.
            _ => return self.fail(Counting::Counted, sender, config),
        };
        let id = AuthId(self.next);
        self.next = self.next.wrapping_add(1);
        self.phase = Phase::Asking { id, attempt };
        Ok(Some(AuthRequest { id, user: self.user.clone(), method, completed: self.completed }))
    }

    fn respond(
        &mut self,
        id: AuthId,
        prompts: usize,
        body: &[u8],
        sender: &mut Sender,
        config: &Config,
    ) -> Result<(), Fault> {
        let mut reader = Reader::new(body);
        let count = reader.u32()?;
        if usize::try_from(count).ok() != Some(prompts) {
            // RFC 4256 §3.4: the attempt has failed.
            self.phase = Phase::Request;
            return self.fail(Counting::Counted, sender, config).map(|_| ());
        }
        let mut answers = Vec::with_capacity(prompts);
        for _ in 0..prompts {
            answers.push(Zeroizing::new(reader.string()?.to_vec()));
        }
        reader.finish()?;
        self.responses = Some((id, answers));
        self.phase = Phase::Asking { id, attempt: Attempt::Interactive };
        Ok(())
    }

    /// Sends the application's decision. Says whether the client is logged in now.
    pub(crate) fn answer(
        &mut self,
        id: AuthId,
        verdict: Verdict,
        sender: &mut Sender,
        config: &Config,
    ) -> Result<(), Fault> {
        if self.current() != Some(id) {
            return Ok(());
        }
        self.responses = None;
        let attempt = match std::mem::replace(&mut self.phase, Phase::Request) {
            Phase::Asking { attempt, .. } => attempt,
            _ => Attempt::Counted,
        };
        match (verdict, attempt) {
            (Verdict::Accept, Attempt::Probe { algorithm, blob }) => {
                let mut reply = Writer::message(msg::USERAUTH_PK_OK);
                reply.string(algorithm).string(blob);
                sender.send(reply.as_slice())?;
            }
            (Verdict::Accept, _) => {
                sender.send(&[msg::USERAUTH_SUCCESS])?;
                self.phase = Phase::Done;
                self.user = Vec::new();
            }
            // A probe proves nothing, so it cannot be a partial success.
            (Verdict::Reject(methods), attempt) => {
                self.methods = methods.or_else(|| self.methods.take());
                let counting = match attempt {
                    Attempt::Probe { .. } | Attempt::Free => Counting::Free,
                    Attempt::Counted | Attempt::Interactive => Counting::Counted,
                };
                self.fail(counting, sender, config)?;
            }
            (Verdict::Partial(_), Attempt::Probe { .. }) => {
                self.fail(Counting::Free, sender, config)?;
            }
            (Verdict::Partial(methods), _) => {
                self.completed = self.completed.saturating_add(1);
                self.methods = Some(methods);
                self.failure(true, sender, config)?;
            }
        }
        Ok(())
    }

    /// Sends prompts (RFC 4256 §3.2).
    pub(crate) fn prompt(
        &mut self,
        id: AuthId,
        name: &str,
        instruction: &str,
        prompts: &[Prompt],
        sender: &mut Sender,
    ) -> Result<Result<(), Stale>, Fault> {
        match &self.phase {
            Phase::Asking { id: asked, attempt: Attempt::Interactive } if *asked == id => {}
            _ => return Ok(Err(Stale)),
        }
        let mut message = Writer::message(msg::USERAUTH_INFO_REQUEST);
        message.string(name).string(instruction).string("");
        message.u32(u32::try_from(prompts.len()).unwrap_or(u32::MAX));
        for prompt in prompts {
            message.string(&prompt.text).bool(prompt.echo == Echo::On);
        }
        sender.send(message.as_slice())?;
        self.responses = None;
        self.phase = Phase::Prompting { id, prompts: prompts.len() };
        Ok(Ok(()))
    }

    /// The answers to the last prompts, once they have come.
    pub(crate) fn take_responses(&mut self, id: AuthId) -> Result<Option<Vec<Zeroizing<Vec<u8>>>>, Stale> {
        if self.current() != Some(id) {
            return Err(Stale);
        }
        Ok(self.responses.take_if(|(of, _)| *of == id).map(|(_, answers)| answers))
    }

    /// Shows a text before the decision (RFC 4252 §5.4).
    pub(crate) fn banner(&mut self, id: AuthId, text: &str, sender: &mut Sender) -> Result<(), Fault> {
        if self.current() != Some(id) {
            return Ok(());
        }
        let mut message = Writer::message(msg::USERAUTH_BANNER);
        message.string(text).string("");
        Ok(sender.send(message.as_slice())?)
    }

    fn fail(
        &mut self,
        counting: Counting,
        sender: &mut Sender,
        config: &Config,
    ) -> Result<Option<AuthRequest>, Fault> {
        if counting == Counting::Counted {
            self.failures = self.failures.saturating_add(1);
            if self.failures >= config.max_auth_tries {
                return Err(Fault::TooManyAuthFailures);
            }
        }
        self.failure(false, sender, config).map(|()| None)
    }

    fn failure(&self, partial_success: bool, sender: &mut Sender, config: &Config) -> Result<(), Fault> {
        let methods = self.methods.as_ref().unwrap_or(&config.auth_methods);
        let mut reply = Writer::message(msg::USERAUTH_FAILURE);
        reply.name_list(methods.iter().map(String::as_str)).bool(partial_success);
        Ok(sender.send(reply.as_slice())?)
    }
}

/// Whether a failure counts towards the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counting {
    Counted,
    Free,
}

/// Reads the rest of a publickey request and checks what it proves. A malformed *message* is the outer error, an
/// unacceptable key or signature the inner one.
fn offer(
    mut reader: Reader<'_>,
    body: &[u8],
    proves: bool,
    host_bound: bool,
    algorithm: &[u8],
    blob: &[u8],
    binding: &Binding,
) -> Result<Result<Offer, KeyError>, Fault> {
    let host_key = if host_bound { Some(reader.string()?) } else { None };
    // The signature covers the session id and the request up to the signature itself (RFC 4252 §7).
    let covered = body.get(..body.len().saturating_sub(reader.remaining())).unwrap_or_default();
    let signature = if proves { Some(reader.string()?) } else { None };
    reader.finish()?;
    if host_key.is_some_and(|key| key != binding.host_key) {
        return Ok(Err(KeyError::WrongName));
    }
    let Some(algorithm) = algorithm_named(algorithm) else { return Ok(Err(KeyError::WrongName)) };
    let opened = match algorithm.form {
        Form::Certificate => {
            certificate::open(algorithm, blob).map(|(key, cert)| (key, Some(Box::new(cert))))
        }
        Form::Plain => Ok((
            PublicKey {
                key_type: algorithm.blob_name.to_owned(),
                algorithm: algorithm.name.to_owned(),
                blob: blob.to_vec(),
            },
            None,
        )),
    };
    let (key, certificate) = match opened {
        Ok(opened) => opened,
        Err(why) => return Ok(Err(why)),
    };
    let fields = match KeyFields::from_blob(&key.key_type, algorithm.key, &key.blob) {
        Ok(fields) => fields,
        Err(why) => return Ok(Err(why)),
    };
    let Some(signature) = signature else { return Ok(Ok(Offer::Probe(key, certificate))) };
    let mut message = Writer::new();
    message.string(&binding.session_id).byte(msg::USERAUTH_REQUEST).raw(covered);
    Ok(fields
        .verify(algorithm, signature, message.as_slice())
        .map(|security_key| Offer::Proved(key, certificate, security_key)))
}
