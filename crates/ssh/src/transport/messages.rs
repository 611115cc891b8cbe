//! Message numbers of the transport layer (RFC 4253 §12, RFC 8308 §2.3, OpenSSH PROTOCOL §1.12).

pub(crate) const MSG_DISCONNECT: u8 = 1;
pub(crate) const MSG_IGNORE: u8 = 2;
pub(crate) const MSG_UNIMPLEMENTED: u8 = 3;
pub(crate) const MSG_DEBUG: u8 = 4;
pub(crate) const MSG_SERVICE_REQUEST: u8 = 5;
pub(crate) const MSG_SERVICE_ACCEPT: u8 = 6;
pub(crate) const MSG_EXT_INFO: u8 = 7;
pub(crate) const MSG_KEXINIT: u8 = 20;
pub(crate) const MSG_NEWKEYS: u8 = 21;
pub(crate) const MSG_KEX_ECDH_INIT: u8 = 30;
pub(crate) const MSG_KEX_ECDH_REPLY: u8 = 31;
/// The first and last number that belongs to the method of key exchange.
pub(crate) const KEX_METHOD: std::ops::RangeInclusive<u8> = 30..=49;
/// Messages of user authentication and of the connection protocol.
pub(crate) const UPPER_LAYER: std::ops::RangeInclusive<u8> = 50..=127;
pub(crate) const MSG_GLOBAL_REQUEST: u8 = 80;
pub(crate) const MSG_REQUEST_SUCCESS: u8 = 81;
pub(crate) const MSG_PING: u8 = 192;
pub(crate) const MSG_PONG: u8 = 193;

/// True for the messages that may leave during a key exchange (RFC 4253 §7.1).
pub(super) const fn is_transport_message(kind: u8) -> bool {
    matches!(kind, MSG_DISCONNECT..=MSG_DEBUG | MSG_KEXINIT..=49)
}
