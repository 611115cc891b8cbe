//! Vsock by the kernel's own vhost-vsock.

use std::io;

use sandgate_guest::Link;
use tokio_vsock::{VsockAddr, VsockStream};

/// Connects to a port of a guest. The caller sets the deadline.
pub(super) async fn connect(cid: u32, port: u32) -> io::Result<Link> {
    VsockStream::connect(VsockAddr::new(cid, port)).await.map(|stream| Link::Stream(Box::new(stream) as _))
}
