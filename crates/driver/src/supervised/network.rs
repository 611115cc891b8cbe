//! Sockets in a sandbox's own network, made by its shim.
//!
//! What a forwarded connection carries then passes no process but the gateway, as with sshd.

use std::os::fd::OwnedFd;

use sandgate_guest::{ByteStream, IpFamily};

use super::ask::ask;
use crate::state::SandboxDir;

/// A new socket; `None` where that cannot be had.
pub(super) async fn socket(dir: &SandboxDir, family: IpFamily) -> Option<OwnedFd> {
    let question = match family {
        IpFamily::V4 => "socket4\n",
        IpFamily::V6 => "socket6\n",
    };
    match ask(dir, question).await {
        Ok(answer) if answer.line == "socket\n" => answer.file,
        Ok(_) => None,
        Err(error) => {
            tracing::debug!(%error, "no socket can be had in the sandbox; the agent connects");
            None
        }
    }
}

/// A stream that ends with the sandbox.
pub(super) async fn presence(dir: &SandboxDir) -> Option<Box<dyn ByteStream>> {
    let answer = ask(dir, "presence\n").await.ok()?;
    (answer.line == "present\n").then(|| Box::new(answer.stream) as Box<dyn ByteStream>)
}
