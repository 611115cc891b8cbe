//! User authentication (RFC 4252, RFC 4256).

/// `SHA256:` and the unpadded base64 of the blob's SHA-256, as OpenSSH prints it.
pub(crate) fn fingerprint(_blob: &[u8]) -> String {
    String::new()
}
