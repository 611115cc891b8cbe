//! Moving bytes between a channel and a connection in the guest, without buffers of our own (as [`super::super::pump`]).
//!
//! Each direction ends on its own: the end of data on one side is passed on to the other, while the opposite direction goes on. A
//! side that is gone for good (a reset in the guest, a closed channel) ends both.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use sandgate_guest::{Connection, ConnectionOutput, ConnectionReady, GuestError};
use sandgate_ssh::driver::{Channel, ChannelWriter};
use sandgate_ssh::event::StreamKind;

use super::super::pump::{self, InputEnd};
use crate::recording::{Direction, ForwardRecording};
use crate::session::Traffic;

/// How long the guest's side may take what a client sent last before it closed its channel.
const LINGER: Duration = Duration::from_secs(5);

/// How a forwarded connection ended.
#[derive(Debug)]
pub(in crate::ssh) enum RelayEnd {
    /// Both directions came to their end.
    Done,
    /// The client closed the channel, or is gone.
    ClosedByClient,
    /// The connection in the guest was reset, or the way to it was lost.
    Lost(GuestError),
    /// It must be recorded and no longer can be.
    NotRecorded,
}

impl RelayEnd {
    /// For the log.
    pub(super) fn text(&self) -> String {
        match self {
            RelayEnd::Done => "done".to_owned(),
            RelayEnd::ClosedByClient => "closed by the client".to_owned(),
            RelayEnd::Lost(error) => error.to_string(),
            RelayEnd::NotRecorded => "can no longer be recorded".to_owned(),
        }
    }
}

/// As [`relay`], recorded.
pub(super) async fn relay_recorded(
    channel: Channel,
    connection: Connection,
    traffic: &Traffic,
    recording: Option<&ForwardRecording>,
) -> RelayEnd {
    let Some(recording) = recording else { return relay(channel, connection, traffic).await };
    let end = tokio::select! {
        end = relay(channel, connection, traffic) => end,
        () = recording.must_end() => RelayEnd::NotRecorded,
    };
    recording.finish(&end.text());
    end
}

/// Relays until both directions have ended, then closes both sides. Dropping the future closes them at once.
pub(super) async fn relay(channel: Channel, connection: Connection, traffic: &Traffic) -> RelayEnd {
    // Nothing can be asked on such a channel.
    let Channel { requests: _, reader, mut writer } = channel;
    let (mut input, mut output) = connection.split();
    let mut inward = Inward { future: Some(pin!(pump::input(reader, &mut input, traffic))), end: None };
    let outward = {
        let mut outward = pin!(outward(&mut writer, &mut output, traffic));
        loop {
            tokio::select! {
                end = &mut outward => break end,
                () = inward.ended(), if !inward.has_ended() => {}
            }
        }
    };
    let end = match outward {
        OutwardEnd::Eof => {
            writer.eof();
            // The client may still have something to say, unless nobody is left to hear it.
            tokio::select! {
                () = inward.ended() => {}
                () = poll_fn(|cx| output.poll_over(cx)) => {}
            }
            if inward.end == Some(InputEnd::Eof) {
                // To close now would overtake what the guest's side has not taken yet, and the agent throws that away.
                poll_fn(|cx| output.poll_over(cx)).await;
            }
            RelayEnd::Done
        }
        OutwardEnd::ClosedByClient => {
            // What it sent before is delivered.
            inward.ended().await;
            writer.close();
            if inward.end == Some(InputEnd::Eof) {
                // As above, but the guest's side may keep its own direction open for ever.
                let _ = tokio::time::timeout(LINGER, poll_fn(|cx| output.poll_over(cx))).await;
            }
            RelayEnd::ClosedByClient
        }
        OutwardEnd::Lost(error) => RelayEnd::Lost(error),
    };
    writer.close();
    end
}

/// The direction from the client to the guest, which may have ended already.
struct Inward<'a, F> {
    future: Option<Pin<&'a mut F>>,
    end: Option<InputEnd>,
}

impl<F: Future<Output = InputEnd>> Inward<'_, F> {
    fn has_ended(&self) -> bool {
        self.future.is_none()
    }

    /// Waits for its end; at once if that is past. May be dropped and asked for again.
    async fn ended(&mut self) {
        if let Some(future) = &mut self.future {
            self.end = Some(future.await);
            self.future = None;
        }
    }
}

/// How the direction to the client ended.
enum OutwardEnd {
    /// The guest's side has nothing more to say.
    Eof,
    ClosedByClient,
    Lost(GuestError),
}

/// Sends everything that comes from the guest.
async fn outward(writer: &mut ChannelWriter, output: &mut ConnectionOutput, traffic: &Traffic) -> OutwardEnd {
    loop {
        let ready = poll_fn(|cx| match output.poll_ready(cx) {
            Poll::Ready(ready) => Poll::Ready(Some(ready)),
            Poll::Pending => writer.poll_closed(cx).map(|()| None),
        });
        match ready.await {
            Some(ConnectionReady::Data) => {}
            Some(ConnectionReady::End) => return OutwardEnd::Eof,
            Some(ConnectionReady::Lost(error)) => return OutwardEnd::Lost(error),
            None => return OutwardEnd::ClosedByClient,
        }
        let Ok(allowed) = poll_fn(|cx| writer.poll_ready(cx)).await else {
            return OutwardEnd::ClosedByClient;
        };
        match writer.try_fill(StreamKind::Stdout, allowed, |packets| {
            let read = output.try_read_vectored(packets)?;
            if let Some(recorder) = traffic.recorder() {
                recorder.passed(Direction::Out, packets.iter().map(|packet| &**packet), read);
            }
            Ok(read)
        }) {
            Ok(sent) => {
                traffic.bytes_out.fetch_add(sent as u64, Ordering::Relaxed);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) if writer.is_closed() => return OutwardEnd::ClosedByClient,
            Err(error) => return OutwardEnd::Lost(GuestError::Io(error.to_string())),
        }
    }
}
