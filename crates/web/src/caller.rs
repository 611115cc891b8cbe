//! Who makes a request, as found out before a handler sees it.

use axum::http::StatusCode;
use sandgate_gateway::Gateway;
use sandgate_policy::{Credential, Principal};

use crate::problem::Problem;
use crate::upgrade;

/// The one who makes a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Name of the API key; `owner` on the control socket.
    pub name: String,
    /// Identifier of the API key; `None` on the control socket.
    pub key_id: Option<String>,
    /// What they may do.
    pub role: Role,
    /// How they came in.
    pub via: Via,
}

/// What a caller may do. Each includes the ones before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look.
    Viewer,
    /// Use sandboxes.
    User,
    /// Everything.
    Admin,
}

/// How a caller came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// The control socket: the owner.
    ControlSocket,
    /// An API key in a header, which no browser sends by itself.
    Key,
    /// A browser's cookie.
    Cookie,
}

impl Caller {
    /// Whoever gets through to the control socket.
    pub fn owner() -> Caller {
        Caller { name: "owner".to_owned(), key_id: None, role: Role::Admin, via: Via::ControlSocket }
    }

    /// Refuses those whose role does not include `role`.
    pub(crate) fn needs(&self, role: Role) -> Result<(), Problem> {
        if self.role >= role {
            return Ok(());
        }
        let role = match role {
            Role::Viewer => "viewer",
            Role::User => "user",
            Role::Admin => "admin",
        };
        Err(Problem::new(StatusCode::FORBIDDEN, format!("this needs the role \"{role}\"")))
    }

    /// The caller as one who has come to a sandbox.
    pub(crate) fn principal(&self, gateway: &Gateway, sandbox: String) -> Result<Principal, Problem> {
        let owner = upgrade::owner(gateway, sandbox)?;
        let credential = match &self.key_id {
            Some(id) => Credential::ApiKey { id: id.clone(), name: self.name.clone() },
            None => Credential::Local,
        };
        Ok(Principal { credential, ..owner })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_include_those_before() {
        let user = Caller { role: Role::User, ..Caller::owner() };
        assert!(user.needs(Role::Viewer).is_ok() && user.needs(Role::User).is_ok());
        assert!(user.needs(Role::Admin).is_err());
    }
}
