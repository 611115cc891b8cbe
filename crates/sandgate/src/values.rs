//! Values on the command line: sizes, lengths of time, variables.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::time::Duration;

use sandgate_driver::{ImageSource, InvalidSpec};

/// A number of bytes: `512M`, `1G`, `2GiB`, `1048576`. The units are powers of 1024.
pub fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_lowercase().trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err("a size is a number with K, M, G or T, such as 512M".to_owned()),
    };
    let number: u64 =
        number.parse().map_err(|_| "a size is a number with K, M, G or T, such as 512M".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "the size is too large".to_owned())
}

/// An image. A word that is the path of something there is a path, also without `./`; any other is a name.
pub fn image(text: &str) -> Result<ImageSource, InvalidSpec> {
    match text {
        "host" => Ok(ImageSource::Host),
        path if std::path::Path::new(path).exists() => Ok(ImageSource::Path(path.into())),
        other => other.parse(),
    }
}

/// A length of time: `90s`, `1h`, `7days`.
pub fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("write for example 1h or 7days ({error})"))
}

/// A variable `K=V` as text.
pub fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

/// A variable `K=V` as bytes.
pub fn variable_bytes(text: &OsString) -> Result<(Vec<u8>, Vec<u8>), String> {
    let bytes = text.as_bytes();
    match bytes.iter().position(|byte| *byte == b'=') {
        Some(at) if at > 0 => Ok((bytes[..at].to_vec(), bytes[at + 1..].to_vec())),
        _ => Err(format!("\"{}\" is not NAME=VALUE", text.to_string_lossy())),
    }
}

/// Variables `K=V`, as bytes.
pub fn variables(list: &[OsString]) -> anyhow::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    list.iter().map(variable_bytes).collect::<Result<_, _>>().map_err(anyhow::Error::msg)
}

/// A length of time that is not zero.
pub fn interval(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("it must not be zero".to_owned()),
        interval => Ok(interval),
    }
}

/// The bytes of an argument.
pub fn into_bytes(text: OsString) -> Vec<u8> {
    text.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(bytes("512M"), Ok(512 << 20));
        assert_eq!(bytes("1g"), Ok(1 << 30));
        assert_eq!(bytes("2GiB"), Ok(2 << 30));
        assert_eq!(bytes("77"), Ok(77));
        for bad in ["", "M", "1.5G", "-1", "1X", "99999999T"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_image_that_is_there_is_a_path() {
        assert_eq!(image("Cargo.toml"), Ok(ImageSource::Path("Cargo.toml".into())));
        assert_eq!(image("/nowhere"), Ok(ImageSource::Path("/nowhere".into())));
        assert!(matches!(image("debian:12"), Ok(ImageSource::Named(_))));
        assert!(image("no such file.tar").is_err());
    }

    #[test]
    fn variables_are_cut_at_the_first_sign() {
        assert_eq!(variable("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert!(variable("=x").is_err() && variable("A").is_err());
        let odd = OsString::from_vec(b"A=\xff".to_vec());
        assert_eq!(variable_bytes(&odd), Ok((b"A".to_vec(), b"\xff".to_vec())));
    }
}
