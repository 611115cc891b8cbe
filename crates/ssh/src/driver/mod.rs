//! The thin tokio driver: one future per connection that moves bytes between a socket and the sans-IO
//! [`Connection`](crate::connection::Connection), and cheap handles for the application.
//!
//! Nothing is spawned here. [`accept`] gives the [`Driver`] future, which must be polled for anything to happen, and a
//! [`ConnectionHandle`]. The driver and the futures of the application may run in one task or in many; they meet in a
//! mutex that is held briefly and never across an await.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use sandgate_ssh::{Config, driver, driver::Event};
//! # async fn serve(stream: tokio::net::TcpStream, config: Arc<Config>) {
//! let (driver, connection) = driver::accept(stream, config);
//! let application = async {
//!     while let Some(event) = connection.next_event().await {
//!         match event {
//!             Event::Auth(question) => question.accept(),
//!             Event::Open(question) => {
//!                 let _channel = question.accept();
//!             }
//!             Event::Global(question) => question.refuse(),
//!             Event::Ended(_) => break,
//!         }
//!     }
//! };
//! let (_ended, ()) = tokio::join!(driver, application);
//! # }
//! ```
#![expect(clippy::todo, unused_variables, dead_code, reason = "skeleton")]

mod channel;
mod handle;
mod question;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};

pub use channel::{Channel, ChannelReader, ChannelWriter, Request, Requests};
pub use handle::{ConnectionHandle, Event, Traffic};
pub use question::{AuthAbandoned, AuthQuestion, ForwardQuestion, OpenQuestion, RequestQuestion};

use crate::connection::Config;
use crate::event::Ended;

/// The connection's future: does all socket I/O and ends with the reason of the connection's end. Dropping it ends the
/// connection at once, without `SSH_MSG_DISCONNECT`.
#[must_use = "nothing happens unless the driver is polled"]
#[derive(Debug)]
pub struct Driver<S> {
    stream: S,
}

/// Takes a fresh connection. Nothing is read or written before the driver is polled.
pub fn accept<S>(stream: S, config: Arc<Config>) -> (Driver<S>, ConnectionHandle)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    todo!()
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Driver<S> {
    type Output = Ended;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        todo!()
    }
}
