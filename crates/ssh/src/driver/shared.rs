//! What the driver and the handles share: the connection under a mutex, and the wakers of those who wait.
//!
//! Every access goes through [`Shared::with`], which turns the connection's notices into wakers and wakes them after the
//! lock is released. No lock is held across an await.

use std::fmt;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use parking_lot::Mutex;

use super::handle::Traffic;
use crate::connection::{ChannelId, Connection, Event, ForwardAnswer, Notice, Verdict};
use crate::event::OpenFailure;
use crate::transport::DisconnectReason;

/// Tasks that wait for one kind of thing. Bounded by the number of tasks that the application makes wait.
#[derive(Debug, Default)]
pub(super) struct Waiters(Vec<Waker>);

impl Waiters {
    pub(super) fn register(&mut self, cx: &Context<'_>) {
        if !self.0.iter().any(|waker| waker.will_wake(cx.waker())) {
            self.0.push(cx.waker().clone());
        }
    }
}

/// Those who wait on one channel: at most one task for each half.
#[derive(Debug, Default)]
struct ChannelWakers {
    request: Option<Waker>,
    read: Option<Waker>,
    write: Option<Waker>,
    closed: Option<Waker>,
}

/// For what somebody waits on a channel.
#[derive(Debug, Clone, Copy)]
pub(super) enum Awaited {
    Request,
    Read,
    Write,
    Closed,
}

/// Everything behind the mutex.
pub(super) struct State {
    pub(super) connection: Connection,
    pub(super) events: Waiters,
    /// Keepalives, prompts, opens, the end: rare enough to share a list.
    pub(super) progress: Waiters,
    /// By our channel number; bounded by the configured number of channels.
    channels: Vec<ChannelWakers>,
    /// The driver's, while it sleeps.
    pub(super) driver: Option<Waker>,
    /// The socket takes no more at the moment and will wake the driver itself.
    pub(super) write_blocked: bool,
    /// No [`ConnectionHandle`](super::ConnectionHandle) is left.
    pub(super) orphaned: bool,
    pub(super) end_told: bool,
    pub(super) last_activity: Instant,
    pub(super) last_received: Instant,
    pub(super) traffic: Traffic,
}

impl State {
    pub(super) fn register(&mut self, id: ChannelId, what: Awaited, cx: &Context<'_>) {
        let index = usize::try_from(id.index).unwrap_or(usize::MAX);
        while self.channels.len() <= index {
            self.channels.push(ChannelWakers::default());
        }
        let Some(wakers) = self.channels.get_mut(index) else { return };
        let slot = match what {
            Awaited::Request => &mut wakers.request,
            Awaited::Read => &mut wakers.read,
            Awaited::Write => &mut wakers.write,
            Awaited::Closed => &mut wakers.closed,
        };
        match slot {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *slot = Some(cx.waker().clone()),
        }
    }

    /// With no handle left nobody can answer new questions: they are answered with no, and without channels the
    /// connection has no purpose.
    fn refuse_everything(&mut self) {
        while let Some(event) = self.connection.poll_event() {
            match event {
                Event::Auth(request) => self.connection.answer_auth(request.id, Verdict::Reject(None)),
                Event::Open { channel, .. } => {
                    let failure = OpenFailure::prohibited("The server takes no more channels.");
                    self.connection.refuse_open(channel, &failure);
                }
                Event::Forward { id, .. } => self.connection.answer_forward(id, ForwardAnswer::No),
            }
        }
        if self.connection.channels() == 0 {
            self.connection
                .disconnect(DisconnectReason::ByApplication, "The server has ended the connection.");
        }
    }

    fn collect(&mut self, wakes: &mut Vec<Waker>) {
        if self.orphaned && self.connection.ended().is_none() {
            self.refuse_everything();
        }
        let Self { connection, channels, events, progress, .. } = self;
        for notice in connection.take_notices() {
            let mut on = |id: ChannelId, pick: fn(&mut ChannelWakers) -> &mut Option<Waker>| {
                let index = usize::try_from(id.index).unwrap_or(usize::MAX);
                wakes.extend(channels.get_mut(index).and_then(|wakers| pick(wakers).take()));
            };
            match notice {
                Notice::Request(id) => on(id, |w| &mut w.request),
                Notice::Readable(id) => on(id, |w| &mut w.read),
                Notice::Writable(id) => on(id, |w| &mut w.write),
                Notice::Closed(id) => on(id, |w| &mut w.closed),
                Notice::Event => wakes.append(&mut events.0),
                Notice::Opened(_) | Notice::Progress => wakes.append(&mut progress.0),
                Notice::Ended => {
                    wakes.append(&mut events.0);
                    wakes.append(&mut progress.0);
                    for wakers in channels.drain(..) {
                        let ChannelWakers { request, read, write, closed } = wakers;
                        wakes.extend([request, read, write, closed].into_iter().flatten());
                    }
                }
            }
        }
        let work = self.connection.output_len() > 0 && !self.write_blocked;
        if work || self.connection.ended().is_some() || self.connection.take_new_deadline() {
            wakes.extend(self.driver.take());
        }
    }
}

/// The shared state.
pub(super) struct Shared {
    state: Mutex<State>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shared")
    }
}

impl Shared {
    pub(super) fn new(connection: Connection, now: Instant) -> Self {
        Self {
            state: Mutex::new(State {
                connection,
                events: Waiters::default(),
                progress: Waiters::default(),
                channels: Vec::new(),
                driver: None,
                write_blocked: false,
                orphaned: false,
                end_told: false,
                last_activity: now,
                last_received: now,
                traffic: Traffic::default(),
            }),
        }
    }

    /// Runs `work` under the lock, then wakes those whose wait is over.
    pub(super) fn with<R>(&self, work: impl FnOnce(&mut State) -> R) -> R {
        let mut wakes = Vec::new();
        let result = {
            let mut state = self.state.lock();
            let result = work(&mut state);
            state.collect(&mut wakes);
            result
        };
        for waker in wakes {
            waker.wake();
        }
        result
    }

    /// Waits until `check` gives something. It is tried again after every notice that goes to the common list.
    pub(super) async fn wait_for<R>(&self, mut check: impl FnMut(&mut State) -> Option<R>) -> R {
        std::future::poll_fn(|cx| {
            self.with(|state| match check(state) {
                Some(found) => Poll::Ready(found),
                None => {
                    state.progress.register(cx);
                    Poll::Pending
                }
            })
        })
        .await
    }
}
