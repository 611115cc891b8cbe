//! Names of images, as Docker reads them: `debian:12` is `docker.io/library/debian:12`.

use std::fmt;
use std::str::FromStr;

use oci_spec::distribution::Reference;

use super::ImageError;

const HUB: &str = "docker.io/";
const LIBRARY: &str = "docker.io/library/";

/// A name with everything in it that was left out when it was written: registry, repository, and tag or digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRef(Reference);

impl ImageRef {
    /// The whole name; two names of one image are equal in this form.
    pub fn canonical(&self) -> String {
        self.0.whole()
    }

    /// The name as people write it.
    pub fn familiar(&self) -> String {
        let whole = self.canonical();
        whole.strip_prefix(LIBRARY).or(whole.strip_prefix(HUB)).unwrap_or(&whole).to_owned()
    }

    /// The registry as it was written, `docker.io` where it was not: credentials are kept under this.
    pub fn registry(&self) -> &str {
        self.0.registry()
    }

    /// Host and port to connect to.
    pub(super) fn address(&self) -> &str {
        self.0.resolve_registry()
    }

    pub(super) fn repository(&self) -> &str {
        self.0.repository()
    }

    /// What to ask for: the digest where there is one, else the tag.
    pub(super) fn wanted(&self) -> &str {
        self.0.digest().or(self.0.tag()).unwrap_or("latest")
    }

    /// The digest in the name.
    pub(super) fn digest(&self) -> Option<&str> {
        self.0.digest()
    }
}

impl FromStr for ImageRef {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        let refuse = |reason: String| ImageError::Name { name: text.chars().take(64).collect(), reason };
        let name: Reference =
            text.parse().map_err(|error: oci_spec::distribution::ParseError| refuse(error.to_string()))?;
        if name.digest().is_some_and(|digest| !super::store::is_digest(digest)) {
            return Err(refuse("its digest is not sha256: and 64 hexadecimal digits".to_owned()));
        }
        Ok(Self(name))
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.familiar())
    }
}

/// Whether a registry's address is this very machine, which needs no TLS.
pub(super) fn is_loopback(address: &str) -> bool {
    let host = match address.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => address.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_docker_does() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, canonical, familiar) in [
            ("debian", "docker.io/library/debian:latest", "debian:latest"),
            ("debian:12", "docker.io/library/debian:12", "debian:12"),
            ("team/box", "docker.io/team/box:latest", "team/box:latest"),
            ("localhost:5000/a/b:c", "localhost:5000/a/b:c", "localhost:5000/a/b:c"),
            (
                &format!("ghcr.io/a/b@{digest}"),
                &format!("ghcr.io/a/b@{digest}"),
                &format!("ghcr.io/a/b@{digest}"),
            ),
        ] {
            let name: ImageRef = text.parse().unwrap();
            assert_eq!(
                (name.canonical().as_str(), name.familiar().as_str()),
                (canonical, familiar),
                "{text}"
            );
            assert_eq!(name.familiar().parse::<ImageRef>().unwrap(), name);
        }
        let hub: ImageRef = "debian".parse().unwrap();
        assert_ne!(hub.address(), "docker.io", "the hub's registry has a name of its own");
        for bad in ["", "A", "a b", "a:b:c", "a@sha256:00", "../a"] {
            assert!(bad.parse::<ImageRef>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for yes in ["localhost", "localhost:5000", "127.0.0.1:1", "127.9.9.9", "[::1]:5000"] {
            assert!(is_loopback(yes), "{yes}");
        }
        for no in ["localhost.example.org", "10.0.0.1:5000", "127.0.0.1.example.org", "[::2]:1", ""] {
            assert!(!is_loopback(no), "{no}");
        }
    }
}
