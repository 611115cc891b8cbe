//! Host keys. (Skeleton.)

/// A host key pair with what is needed to sign.
#[derive(Debug)]
pub struct HostKey {
    pub(crate) _private: (),
}
