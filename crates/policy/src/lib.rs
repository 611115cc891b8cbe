//! Who may do what: tokens, scopes, names and rules.
//!
//! Everything here is a function of its arguments. There is no I/O and no clock: `now` is always handed in, and the only
//! outside thing ever asked for is randomness, when a token or an identifier is made. The store keeps what this crate
//! describes, the gateway asks it to decide.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking"))]

pub mod api_key;
pub mod certificate;
pub mod env;
pub mod files;
pub mod forward;
pub mod name;
pub mod principal;
pub mod record;
pub mod scope;
pub mod token;

pub use api_key::{ApiKey, Role, RoleError, check_api_key};
pub use certificate::{CertAuthority, Permission, Principals, PrincipalsError, SessionAccess};
pub use env::{AcceptEnv, PatternError};
pub use files::{FileAccess, FileAccessError};
pub use forward::{ForwardAccess, ForwardRules, ForwardRulesError, WrittenRules};
pub use name::{KeyName, NameError, SandboxName, new_id};
pub use principal::{Action, Credential, Decision, Denied, DenyReason, Principal, certificate_label, decide};
pub use record::{RecordMode, RecordModeError};
pub use scope::{Scope, ScopeError, Scopes};
pub use token::{
    Label, LabelError, SourceNetworks, SourcesError, Token, TokenHash, TokenState, TtlError, TtlPolicy,
    TypedToken, check_token, clock, hash_presented,
};

/// The system's random generator gave nothing; no secret can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system's random number generator failed")]
pub struct NoRandomness;
