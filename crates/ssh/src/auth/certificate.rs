//! OpenSSH user certificates (PROTOCOL.certkeys). Names and option values are kept as bytes, which is why the fields are
//! read here rather than through a type that wants UTF-8.

use super::key::{Algorithm, KeyError, KeyFields, algorithm_of};
use crate::codec::{Reader, Writer};
use crate::event::{Certificate, PublicKey};

/// `SSH2_CERT_TYPE_USER`.
const USER: u32 = 1;
/// The most principals or options that are read (OpenSSH stops at 256 principals).
const MOST_ENTRIES: usize = 256;

/// Reads a certificate, checks the CA's signature and gives it with the plain key inside.
pub(crate) fn open(algorithm: &Algorithm, blob: &[u8]) -> Result<(PublicKey, Certificate), KeyError> {
    let mut reader = Reader::new(blob);
    if reader.string()? != algorithm.blob_name.as_bytes() {
        return Err(KeyError::WrongName);
    }
    let _nonce = reader.string()?;
    let at_fields = reader.rest();
    KeyFields::read(algorithm.key, &mut reader)?;
    let fields = at_fields.get(..at_fields.len().saturating_sub(reader.remaining())).unwrap_or_default();
    let serial = reader.u64()?;
    let kind = reader.u32()?;
    let key_id = reader.string()?.to_vec();
    let principals = strings(reader.string()?)?;
    let (valid_after, valid_before) = (reader.u64()?, reader.u64()?);
    let critical_options = options(reader.string()?)?;
    let extensions = options(reader.string()?)?;
    let _reserved = reader.string()?;
    let ca_blob = reader.string()?;
    let signed = blob.get(..blob.len().saturating_sub(reader.remaining())).unwrap_or_default();
    let signature = reader.string()?;
    reader.finish()?;
    if kind != USER {
        return Err(KeyError::NotForUsers);
    }
    let ca_algorithm = algorithm_of(ca_blob, signature).ok_or(KeyError::WrongName)?;
    let ca_fields = KeyFields::from_blob(ca_algorithm.blob_name, ca_algorithm.key, ca_blob)?;
    ca_fields.verify(ca_algorithm, signature, signed)?;

    let plain_type = match algorithm.signature_name {
        "rsa-sha2-256" | "rsa-sha2-512" => "ssh-rsa",
        other => other,
    };
    let mut plain = Writer::new();
    plain.string(plain_type).raw(fields);
    let key = PublicKey {
        key_type: plain_type.to_owned(),
        algorithm: algorithm.signature_name.to_owned(),
        blob: plain.into_vec(),
    };
    let ca = PublicKey {
        key_type: ca_algorithm.blob_name.to_owned(),
        algorithm: ca_algorithm.signature_name.to_owned(),
        blob: ca_blob.to_vec(),
    };
    let certificate = Certificate {
        serial,
        key_id,
        principals,
        valid_after,
        valid_before,
        critical_options,
        extensions,
        ca,
    };
    Ok((key, certificate))
}

fn strings(packed: &[u8]) -> Result<Vec<Vec<u8>>, KeyError> {
    let mut reader = Reader::new(packed);
    let mut found = Vec::new();
    while !reader.is_empty() {
        if found.len() >= MOST_ENTRIES {
            return Err(KeyError::Size);
        }
        found.push(reader.string()?.to_vec());
    }
    Ok(found)
}

/// Names with their data.
type Options = Vec<(Vec<u8>, Vec<u8>)>;

/// Reads options. Data is a string in a string, or empty for flags.
fn options(packed: &[u8]) -> Result<Options, KeyError> {
    let mut reader = Reader::new(packed);
    let mut found = Vec::new();
    while !reader.is_empty() {
        if found.len() >= MOST_ENTRIES {
            return Err(KeyError::Size);
        }
        let (name, data) = (reader.string()?, reader.string()?);
        let mut inner = Reader::new(data);
        let value = match inner.string() {
            Ok(value) if inner.is_empty() => value,
            _ => data,
        };
        found.push((name.to_vec(), value.to_vec()));
    }
    Ok(found)
}
