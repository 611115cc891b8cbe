//! What the application is told and asked, as plain data. The sans-IO [`Connection`](crate::connection::Connection)
//! pairs these with ids; the tokio [`driver`](crate::driver) wraps them into questions that are answered once.

mod auth;
mod channel;
mod ended;

pub use auth::{AuthMethod, Certificate, CertificateRefused, Echo, Prompt, PublicKey, SecurityKeyUse};
pub use channel::{
    ChannelOpen, ChannelRequest, CoreDump, ExitSignal, ForwardRequest, OpenFailure, OpenReason, PtyRequest,
    ServerOpen, StreamKind, WindowChange, X11Connections, X11Request,
};
pub use ended::{EndReason, Ended};
