//! Bytes into a file, with many WRITEs on their way.

use std::collections::HashMap;
use std::io::{Read, Write};

use crate::codec::{Attrs, Reply, Request, Status};

use super::{Client, ClientError, Handle, Result, refusal, window};

/// Writes a file from a place on. Dropping it without [`Writer::finish`] closes the handle and leaves what was written.
#[derive(Debug)]
pub struct Writer<'c, S: Read + Write> {
    client: &'c mut Client<S>,
    handle: Handle,
    at: u64,
    /// WRITEs on their way, and where they start.
    waiting: HashMap<u32, u64>,
}

impl<'c, S: Read + Write> Writer<'c, S> {
    /// Writes an open file from `start` on.
    pub fn new(client: &'c mut Client<S>, handle: Handle, start: u64) -> Self {
        Self { client, handle, at: start, waiting: HashMap::new() }
    }

    /// Writes more. That it was written is known only after [`Self::finish`].
    ///
    /// # Errors
    /// [`ClientError`], of this write or of an earlier one. The file then ends before the first byte that is missing.
    pub fn write(&mut self, data: &[u8]) -> Result<()> {
        let longest = self.client.max_write;
        for data in data.chunks(longest) {
            while self.waiting.len() >= window(longest) {
                self.settle()?;
            }
            let (handle, offset) = (&self.handle.0, self.at);
            let id = self.client.link.send(|id| Request::Write { id, handle, offset, data })?;
            self.waiting.insert(id, offset);
            self.at = self.at.saturating_add(data.len() as u64);
        }
        Ok(())
    }

    /// Waits until all is written, sets attributes, and closes the file.
    ///
    /// # Errors
    /// [`ClientError`], of the first thing that failed.
    pub fn finish(mut self, attrs: Option<Attrs>) -> Result<()> {
        // A single WRITE that fails leaves no gap, so the rest may follow at once.
        while self.waiting.len() > 1 {
            self.settle()?;
        }
        let last_write = self.waiting.drain().next().map(|(id, _)| id);
        let handle = std::mem::take(&mut self.handle.0);
        let link = &mut self.client.link;
        let set = match attrs {
            Some(attrs) => Some(link.send(|id| Request::Fsetstat { id, handle: &handle, attrs })?),
            None => None,
        };
        let close = Some(link.send(|id| Request::Close { id, handle: &handle })?);
        let mut wanted = [last_write, set, close];
        let mut failed: [Option<ClientError>; 3] = [None, None, None];
        while wanted.iter().any(Option::is_some) {
            let (id, error) = self.receive()?;
            let asked = wanted.iter_mut().zip(&mut failed).find(|(wanted, _)| **wanted == Some(id));
            let (wanted, failed) = asked.ok_or(ClientError::Protocol("a reply to nothing that was asked"))?;
            *wanted = None;
            *failed = error;
        }
        failed.into_iter().flatten().next().map_or(Ok(()), Err)
    }

    /// Waits for one WRITE.
    fn settle(&mut self) -> Result<()> {
        match self.written()? {
            (_, None) => Ok(()),
            (offset, Some(error)) => Err(self.cut(offset, error)),
        }
    }

    /// After a failure: waits for the other WRITEs and cuts the file where the first byte is missing, so that what is left is a
    /// beginning of the whole and can be continued.
    fn cut(&mut self, offset: u64, error: ClientError) -> ClientError {
        let (mut offset, mut error) = (offset, error);
        while !self.waiting.is_empty() {
            match self.written() {
                Ok((other, Some(earlier))) if other < offset => (offset, error) = (other, earlier),
                Ok(_) => {}
                Err(lost) => return lost,
            }
        }
        let (handle, attrs) = (&self.handle.0, Attrs { size: Some(offset), ..Attrs::default() });
        match self.client.link.send(|id| Request::Fsetstat { id, handle, attrs }) {
            // A file system that takes no data may not take this either; nothing else can be tried.
            Ok(id) => self.client.link.forget(id),
            Err(lost) => return lost,
        }
        error
    }

    /// The next WRITE that is answered: where it starts, and why it failed.
    fn written(&mut self) -> Result<(u64, Option<ClientError>)> {
        let (id, error) = self.receive()?;
        let offset =
            self.waiting.remove(&id).ok_or(ClientError::Protocol("a reply to nothing that was asked"))?;
        Ok((offset, error))
    }

    fn receive(&mut self) -> Result<(u32, Option<ClientError>)> {
        let (id, packet) = self.client.link.receive()?;
        match self.client.link.reply(&packet)? {
            Reply::Status { status: Status::OK, .. } => Ok((id, None)),
            other => match refusal(other) {
                error if error.is_fatal() => Err(error),
                error => Ok((id, Some(error))),
            },
        }
    }
}

impl<S: Read + Write> Drop for Writer<'_, S> {
    fn drop(&mut self) {
        self.waiting.keys().for_each(|id| self.client.link.forget(*id));
        if !self.handle.0.is_empty() {
            // A stream that fails is noticed with the next request.
            let _ = self.client.close(Handle(std::mem::take(&mut self.handle.0)));
        }
    }
}
