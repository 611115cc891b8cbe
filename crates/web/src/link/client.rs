//! The client's way to a link, for `sandgate-guest`.

use std::io;
use std::sync::{Mutex, PoisonError};

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use sandgate_guest::{BoxFuture, Dial, Link};

use crate::client::{Client, ClientError};

/// Makes a link to one sandbox through the gateway for every request.
pub struct LinkDial {
    client: Client,
    sandbox: String,
    /// Made beforehand, so that a gateway or sandbox that is not there is told plainly and at once.
    first: Mutex<Option<TokioIo<Upgraded>>>,
}

impl LinkDial {
    /// Makes the first link.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn new(client: Client, sandbox: &str) -> Result<LinkDial, ClientError> {
        let first = client.link(sandbox).await?;
        Ok(LinkDial { client, sandbox: sandbox.to_owned(), first: Mutex::new(Some(first)) })
    }
}

impl Dial for LinkDial {
    fn dial(&self) -> BoxFuture<'_, io::Result<Link>> {
        Box::pin(async move {
            let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
            let stream = match first {
                Some(stream) => stream,
                None => self.client.link(&self.sandbox).await.map_err(io::Error::other)?,
            };
            Ok(Link::Stream(Box::new(stream)))
        })
    }
}
