//! Moving one connection's bytes through the filter, each direction to its own end.
//!
//! | one side ends its direction | then |
//! | --- | --- |
//! | the program in the sandbox | what it asked is still answered; after that the agent sees the end |
//! | the agent | what it owed fails at once; the program gets that and the end, and nothing it asks from now on is heard |
//! | either, altogether | the other side is closed |
//!
//! Nothing is read that the filter would not take, so that what is in flight is bounded by the filter and the two streams.

use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use sandgate_agent_filter::{Config, Filter, FilterError};
use sandgate_guest::{Connection, ConnectionOutput, ConnectionReady, GuestError, ProcessInput};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::time::Sleep;

use super::AgentStream;
use super::trail::Trail;

/// Read at once, in bytes. A request or an answer is a few hundred, as a rule.
const PIECE: usize = 4096;
/// How long one side may take to end as well, once the other one has and nothing is owed to it. Real programs and agents close at
/// once; this is for those that were stopped, or hold a place on purpose.
const LINGER: Duration = Duration::from_secs(30);

/// Why a connection ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum RelayError {
    /// One side broke the protocol.
    #[error("{0}")]
    Filter(#[from] FilterError),
    /// The way into the sandbox.
    #[error("the connection in the sandbox: {0}")]
    Guest(GuestError),
}

/// Relays until both sides have ended.
///
/// # Errors
/// What is worth a line in the log. The connection is closed by then.
pub(super) async fn relay(
    guest: Connection,
    agent: AgentStream,
    config: Config,
    trail: &Trail,
) -> Result<(), RelayError> {
    let (input, output) = guest.split();
    let mut relay = Relay {
        told: Told { filter: Filter::new(config), trail },
        input,
        output,
        agent,
        from_guest: Vec::new(),
        from_agent: Vec::new(),
        guest: Side::Open,
        agent_side: Side::Open,
        to_guest: Way::Open,
        to_agent: Way::Open,
        linger: None,
    };
    loop {
        let step = poll_fn(|cx| relay.poll_step(cx)).await;
        while let Some(event) = relay.told.filter.poll_event() {
            // Waits while the audit trail is behind, and so does the program then.
            trail.tell(event).await;
        }
        match step {
            // A program that floods must not keep the session's task to itself.
            Ok(Step::Moved) => tokio::task::coop::consume_budget().await,
            Ok(Step::Over) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

enum Step {
    Moved,
    Over,
}

/// Whether a side still sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Open,
    Ended,
}

/// Whether a side is still written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Open,
    Shut,
}

struct Relay<'a> {
    told: Told<'a>,
    input: ProcessInput,
    output: ConnectionOutput,
    agent: AgentStream,
    /// What was read and not taken yet; as good as always empty.
    from_guest: Vec<u8>,
    from_agent: Vec<u8>,
    guest: Side,
    agent_side: Side,
    to_guest: Way,
    to_agent: Way,
    linger: Option<Pin<Box<Sleep>>>,
}

/// The filter; what it has to tell at an end that nobody foresaw is told too.
struct Told<'a> {
    filter: Filter,
    trail: &'a Trail,
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.filter.close();
        while let Some(event) = self.filter.poll_event() {
            self.trail.tell_later(event);
        }
    }
}

impl Relay<'_> {
    /// Moves what can be moved, a piece at most in each direction.
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Result<Step, RelayError>> {
        // `|` and not `||`: when nothing moves, all of them have noted whom to wake. What is read now is written in the next step, and
        // told to the audit trail in between.
        let moved =
            self.write_guest(cx) | self.write_agent(cx)? | self.read_agent(cx)? | self.read_guest(cx)?;
        if self.guest == Side::Ended && self.output.poll_over(cx).is_ready() {
            // All is delivered there, or nobody is left to deliver to.
            return Poll::Ready(Ok(Step::Over));
        }
        if moved {
            return Poll::Ready(Ok(Step::Moved));
        }
        if self.owes_nothing() {
            let linger = self.linger.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
            if linger.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(Step::Over));
            }
        }
        Poll::Pending
    }

    /// One side has ended, and the other has got all that was for it.
    fn owes_nothing(&self) -> bool {
        let filter = &self.told.filter;
        self.to_guest == Way::Shut || self.to_agent == Way::Shut && filter.to_guest().is_empty()
    }

    fn read_agent(&mut self, cx: &mut Context<'_>) -> Result<bool, RelayError> {
        let filter = &mut self.told.filter;
        if self.agent_side == Side::Ended || !filter.takes_answers() {
            return Ok(false);
        }
        let rest = std::mem::take(&mut self.from_agent);
        if !rest.is_empty() {
            let taken = filter.agent_input(&rest)?;
            self.from_agent = left(&rest, taken);
            return Ok(true);
        }
        let mut piece = [0; PIECE];
        let mut piece = ReadBuf::new(&mut piece);
        match Pin::new(&mut self.agent.reader).poll_read(cx, &mut piece) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Ok(())) if piece.filled().is_empty() => self.agent_ended(None),
            Poll::Ready(Ok(())) => {
                let taken = filter.agent_input(piece.filled())?;
                self.from_agent = left(piece.filled(), taken);
            }
            Poll::Ready(Err(error)) => self.agent_ended(Some(error)),
        }
        Ok(true)
    }

    /// Whatever waits for the agent fails, and the program is to be told.
    fn agent_ended(&mut self, error: Option<io::Error>) {
        // Said now: the program may end its session over it.
        if let Some(error) = error {
            self.told.trail.failed(&format_args!("the connection to the agent: {error}"));
        } else if self.told.filter.outstanding() > 0 {
            self.told.trail.failed(&"the agent closed the connection before it had answered");
        }
        self.told.filter.agent_closed();
        self.agent_side = Side::Ended;
        self.to_agent = Way::Shut;
    }

    fn write_guest(&mut self, cx: &mut Context<'_>) -> bool {
        if self.to_guest == Way::Shut {
            return false;
        }
        let answers = self.told.filter.to_guest();
        if answers.is_empty() {
            if self.agent_side == Side::Open {
                return false;
            }
            // Always done at once; what is left of it is the guest agent's work.
            let _ = self.input.poll_shutdown(cx);
            self.to_guest = Way::Shut;
            return true;
        }
        match self.input.poll_write(cx, answers) {
            Poll::Pending => return false,
            Poll::Ready(Ok(taken @ 1..)) => self.told.filter.consume_to_guest(taken),
            // The program reads no more. If the way to it is lost, the reading half says so.
            Poll::Ready(Ok(0) | Err(_)) => self.to_guest = Way::Shut,
        }
        true
    }

    fn read_guest(&mut self, cx: &mut Context<'_>) -> Result<bool, RelayError> {
        let filter = &mut self.told.filter;
        // Nobody would answer, or nobody would read the answer: only the end is of interest.
        let unheard = self.agent_side == Side::Ended || self.to_guest == Way::Shut;
        let taking = filter.takes_requests();
        if unheard {
            self.from_guest.clear();
        } else if taking && !self.from_guest.is_empty() {
            let rest = std::mem::take(&mut self.from_guest);
            let taken = filter.guest_input(&rest)?;
            self.from_guest = left(&rest, taken);
            return Ok(true);
        }
        if self.guest == Side::Ended {
            return Ok(false);
        }
        match self.output.poll_ready(cx) {
            Poll::Ready(ConnectionReady::Data) if unheard || taking => {
                let mut piece = [0; PIECE];
                let piece = match self.output.try_read(&mut piece) {
                    Ok(read) => piece.get(..read).unwrap_or_default(),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                    Err(error) => return Err(RelayError::Guest(GuestError::Io(error.to_string()))),
                };
                if !unheard {
                    let taken = filter.guest_input(piece)?;
                    self.from_guest = left(piece, taken);
                }
                Ok(true)
            }
            // Taken when the filter takes it, and that needs something else to move first.
            Poll::Ready(ConnectionReady::Data) | Poll::Pending => Ok(false),
            Poll::Ready(ConnectionReady::End) => {
                self.guest = Side::Ended;
                Ok(true)
            }
            Poll::Ready(ConnectionReady::Lost(error)) => Err(RelayError::Guest(error)),
        }
    }

    fn write_agent(&mut self, cx: &mut Context<'_>) -> Result<bool, RelayError> {
        if self.to_agent == Way::Shut {
            return Ok(false);
        }
        let filter = &mut self.told.filter;
        let writer = Pin::new(&mut self.agent.writer);
        let requests = filter.to_agent();
        if requests.is_empty() {
            // An agent needs no end to answer, and stock `ssh` throws away what its agent says after an end from here ("FORCE input
            // drain" in its log). Through sshd those answers are lost.
            if self.guest == Side::Open || !self.from_guest.is_empty() || filter.outstanding() > 0 {
                return Ok(false);
            }
            filter.guest_closed()?;
            match writer.poll_shutdown(cx) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Ok(())) => self.to_agent = Way::Shut,
                Poll::Ready(Err(error)) => self.agent_ended(Some(error)),
            }
            return Ok(true);
        }
        match writer.poll_write(cx, requests) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Ok(taken @ 1..)) => filter.consume_to_agent(taken),
            Poll::Ready(Ok(0)) => self.agent_ended(Some(io::ErrorKind::WriteZero.into())),
            Poll::Ready(Err(error)) => self.agent_ended(Some(error)),
        }
        Ok(true)
    }
}

/// What was not taken of some bytes.
fn left(bytes: &[u8], taken: usize) -> Vec<u8> {
    bytes.get(taken..).unwrap_or_default().to_vec()
}
