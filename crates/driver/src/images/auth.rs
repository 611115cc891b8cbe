//! Who we are to a registry.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::ImageError;

/// How Docker's own file names the hub.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// Name and password for one registry. The `Debug` form leaves the password out.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    /// The user.
    pub username: String,
    /// The password, or a token in its place.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

impl Credentials {
    /// Value of an `Authorization` header.
    pub(super) fn basic(&self) -> String {
        format!("Basic {}", STANDARD.encode(format!("{}:{}", self.username, self.password)))
    }

    /// What a Docker `config.json` holds for a registry (`docker.io` for the hub), if it holds something.
    ///
    /// # Errors
    /// The text is not such a file, or leaves this registry to a helper program, which is not run.
    pub fn from_docker_config(text: &str, registry: &str) -> Result<Option<Credentials>, ImageError> {
        #[derive(Deserialize)]
        struct File {
            #[serde(default)]
            auths: BTreeMap<String, Auth>,
            #[serde(default, rename = "credHelpers")]
            helpers: BTreeMap<String, String>,
            #[serde(default, rename = "credsStore")]
            store: Option<String>,
        }
        #[derive(Deserialize)]
        struct Auth {
            #[serde(default)]
            auth: Option<String>,
        }
        // Errors of the parser name the place and the kind, never a value.
        let file: File = serde_json::from_str(text).map_err(|error| {
            ImageError::Credentials(format!(
                "line {}, column {} is not what Docker writes",
                error.line(),
                error.column()
            ))
        })?;
        let matches = |key: &str| {
            if registry == "docker.io" && key == HUB_KEY {
                return true;
            }
            let key = key.strip_prefix("https://").or(key.strip_prefix("http://")).unwrap_or(key);
            key.split('/').next() == Some(registry)
        };
        let malformed = || ImageError::Credentials(format!("what it has for {registry} is malformed"));
        if let Some((_, Auth { auth: Some(auth) })) =
            file.auths.iter().find(|(key, auth)| matches(key) && auth.auth.is_some())
        {
            let plain = STANDARD
                .decode(auth)
                .ok()
                .and_then(|bytes| String::from_utf8(bytes).ok())
                .ok_or_else(malformed)?;
            let (username, password) = plain.split_once(':').ok_or_else(malformed)?;
            return Ok(Some(Credentials { username: username.to_owned(), password: password.to_owned() }));
        }
        let helper = file.helpers.iter().find(|(key, _)| matches(key)).map(|(_, helper)| helper);
        let known = file.auths.keys().any(|key| matches(key));
        match helper.or(file.store.as_ref().filter(|_| known)) {
            Some(helper) => Err(ImageError::Credentials(format!(
                "it leaves {registry} to the program docker-credential-{helper}, which is not run"
            ))),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_file_is_read() {
        let text = r#"{"auths": {"localhost:5000": {"auth": "bWU6YTpi"}, "https://index.docker.io/v1/": {"auth": "aHViOnB3"}, "helped": {}},
                      "credsStore": "desktop", "HttpHeaders": {}}"#;
        let find = |registry| Credentials::from_docker_config(text, registry);
        let me = find("localhost:5000").unwrap().unwrap();
        assert_eq!((me.username.as_str(), me.password.as_str()), ("me", "a:b"));
        assert_eq!(find("docker.io").unwrap().unwrap().username, "hub");
        assert_eq!(find("localhost").unwrap(), None);
        assert!(find("helped").unwrap_err().to_string().contains("docker-credential-desktop"));
        assert!(!format!("{me:?}").contains("a:b"));
        let secret = Credentials::from_docker_config(r#"{"auths": {"a": {"auth": 7, "x": "hunter2"}}}"#, "a")
            .unwrap_err();
        assert!(!secret.to_string().contains("hunter2"), "{secret}");
    }
}
