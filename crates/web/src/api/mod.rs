//! What travels over the control API, as both sides see it.

mod answers;
mod api_keys;
mod audit;
mod exec;
mod images;
mod keys;
mod login;
mod recordings;
mod sandboxes;
mod sessions;
mod status;
mod tokens;

pub use sandgate_gateway::sandboxes::{DEFAULT_DRIVER, NewSandbox};

pub use answers::{Ended, ProblemView};
pub use api_keys::{ApiKeyCreated, ApiKeyView, CreateApiKey};
pub use audit::{AuditPage, AuditView};
pub use exec::{ExecEnd, ExecRequest, ExecResult, Output};
pub use images::{ImageView, ImportImage, Login, PullEvent, PullImage};
pub use keys::{AddKey, KeyView};
pub use login::{LoginLink, LoginRequest, WhoAmI};
pub use recordings::{RecordingView, RecordingsPage, Verified};
pub use sandboxes::{Adopt, SandboxView, UsageView};
pub use sessions::{SessionView, SftpRequest};
pub use status::Status;
pub use tokens::{CreateToken, TokenCreated, TokenView};
