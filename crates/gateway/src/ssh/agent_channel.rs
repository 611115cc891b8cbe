//! The client's agent, reached by `auth-agent@openssh.com` channels (OpenSSH PROTOCOL.agent, draft-ietf-sshm-ssh-agent section 5).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use sandgate_ssh::driver::{Channel, ChannelReader, ConnectionHandle};
use sandgate_ssh::event::{OpenReason, ServerOpen};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::agent_forward::{AgentStream, OpenError, UserAgent};
use crate::metrics::{ChannelKind, ChannelMetrics, OpenChannel};

/// How long the client may take to answer. It connects to a local socket and asks nobody.
const OPEN_DEADLINE: Duration = Duration::from_secs(30);

/// The agent of the client of one connection.
#[derive(Debug, Clone)]
pub(super) struct ClientAgent {
    handle: ConnectionHandle,
    /// Channels that the agents of all sessions of the connection may have at once.
    places: Arc<Semaphore>,
    channels: Arc<ChannelMetrics>,
}

impl ClientAgent {
    /// `max_channels` are those of the connection. A quarter of them is for agents. Programs in the sandbox may take half of them by
    /// connecting to listeners, so at least a quarter is left to the user for sessions.
    pub(super) fn new(handle: ConnectionHandle, max_channels: usize, channels: Arc<ChannelMetrics>) -> Self {
        let places = (max_channels / 4).clamp(1, Semaphore::MAX_PERMITS);
        Self { handle, places: Arc::new(Semaphore::new(places)), channels }
    }
}

impl UserAgent for ClientAgent {
    async fn open(&self) -> Result<AgentStream, OpenError> {
        let place = self.places.clone().acquire_owned().await;
        let place = place.map_err(|_| OpenError::Refused("the connection has ended".to_owned()))?;
        let opened = tokio::time::timeout(OPEN_DEADLINE, self.handle.open(ServerOpen::AuthAgent)).await;
        let Ok(opened) = opened else {
            return Err(OpenError::Refused(format!("the client did not answer within {OPEN_DEADLINE:?}")));
        };
        match opened {
            // Nothing is ever asked on such a channel.
            Ok(Channel { requests: _, reader, writer }) => Ok(AgentStream {
                reader: Box::new(Reader {
                    reader,
                    _place: place,
                    _counted: self.channels.enter(ChannelKind::AuthAgent),
                }),
                writer: Box::new(writer),
            }),
            Err(failure) => {
                // The client's text is its own; stock `ssh` sends none.
                let text = format!(
                    "the client refused the channel: {:?} \"{}\"",
                    failure.reason,
                    shown(&failure.text)
                );
                Err(match failure.reason {
                    OpenReason::UnknownChannelType => OpenError::Refused(text),
                    // The session asked for its agent. Stock `ssh` says "administratively prohibited" also when it merely cannot reach
                    // its agent, so that this is no reason to believe a client.
                    _ => OpenError::Unreachable(text),
                })
            }
        }
    }
}

/// The client's words in one line of the log.
fn shown(text: &str) -> String {
    /// The most characters of them.
    const MAX: usize = 200;
    text.escape_debug().take(MAX).collect()
}

/// The reading half, which holds the channel's place.
struct Reader {
    reader: ChannelReader,
    _place: OwnedSemaphorePermit,
    _counted: OpenChannel,
}

impl AsyncRead for Reader {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        AsyncRead::poll_read(Pin::new(&mut self.get_mut().reader), cx, buf)
    }
}
