//! Where a sandbox's root file system comes from.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::InvalidSpec;

/// Longest name of an image in bytes. Docker's own limit of the part before the tag is 255.
const MAX_NAME: usize = 512;

/// Where the root file system comes from. As text: `host`, a path that begins with `/` or `.`, or the name of an image.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ImageSource {
    /// The host's own /usr, read-only, with a generated /etc.
    #[default]
    Host,
    /// A directory (root file system or OCI layout) or a tar file (of either). A relative path is relative to the working
    /// directory of the process that creates the sandbox, so callers make it absolute before they send it elsewhere.
    Path(PathBuf),
    /// An image that was pulled or imported before, or one that a container engine has.
    Named(ImageName),
}

impl FromStr for ImageSource {
    type Err = InvalidSpec;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "" => Err(InvalidSpec::Empty("the image")),
            "host" => Ok(Self::Host),
            path if path.starts_with(['/', '.']) => Ok(Self::Path(path.into())),
            name => name.parse().map(Self::Named),
        }
    }
}

impl fmt::Display for ImageSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Named(name) => name.fmt(f),
        }
    }
}

impl TryFrom<String> for ImageSource {
    type Error = InvalidSpec;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ImageSource> for String {
    fn from(image: ImageSource) -> Self {
        image.to_string()
    }
}

/// The name of an image as people write it: `debian:12`, `registry.example/team/box@sha256:…`. Only its alphabet is checked here;
/// whoever looks the image up parses it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageName(String);

impl ImageName {
    /// The name as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ImageName {
    type Err = InvalidSpec;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Enough that a name is no option, no path that leads elsewhere, and one word in a log line.
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-:/@[]".contains(&b);
        let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'[');
        if first && text.len() <= MAX_NAME && text.bytes().all(plain) && !text.contains("..") {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidSpec::Image(text.chars().take(64).collect()))
        }
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_as_text() {
        let parse = |text: &str| text.parse::<ImageSource>();
        assert_eq!(parse("host"), Ok(ImageSource::Host));
        assert_eq!(parse("/a/b.tar"), Ok(ImageSource::Path("/a/b.tar".into())));
        assert_eq!(parse("./host"), Ok(ImageSource::Path("./host".into())));
        for name in ["debian", "debian:12", "localhost:5000/a/b:c", "[::1]:5000/a", "a/b@sha256:00"] {
            assert_eq!(parse(name).map(|image| image.to_string()), Ok(name.to_owned()));
            assert!(matches!(parse(name), Ok(ImageSource::Named(_))), "{name}");
        }
        for bad in ["", "-v", "a b", "a/../b", "a\nb", "ä", "@a"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
