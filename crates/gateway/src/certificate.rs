//! What an OpenSSH user certificate is good for (PROTOCOL.certkeys), once its authority is known: names, time, critical options and
//! extensions. As with `cert-authority` in authorized_keys; a function of its arguments.

use std::net::IpAddr;

use sandgate_policy::{
    CertAuthority, Denied, DenyReason, Permission, Scope, Scopes, SessionAccess, SourceNetworks,
    certificate_label, clock,
};
use sandgate_ssh::event::Certificate;
use time::OffsetDateTime;

/// How a certificate was shown to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Presented {
    /// Where its holder connects from.
    pub source: IpAddr,
    /// What is known about the certified key.
    pub possession: Possession,
}

/// Whether whoever shows a key has shown to hold its private half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Possession {
    /// Not yet: the client asks whether the key would do.
    Claimed,
    /// It has signed.
    Proved,
    /// A security key has signed, after a PIN or a fingerprint.
    ProvedByVerifiedUser,
}

/// What a certificate gives.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Granted {
    pub(crate) scopes: Scopes,
    /// `None`: never by itself.
    pub(crate) expires_at: Option<OffsetDateTime>,
    pub(crate) session: SessionAccess,
}

/// What a certificate of `authority` gives in the sandbox of that name at `now`. The authority's signature and the type
/// were checked by the SSH core.
///
/// # Errors
/// [`Denied`]; the time is looked at last, and only there the holder is told.
pub(crate) fn check(
    certificate: &Certificate,
    authority: &CertAuthority,
    sandbox: &str,
    presented: Presented,
    now: OffsetDateTime,
) -> Result<Granted, Denied> {
    if !authority.vouches(&certificate.principals, sandbox) {
        return Err(Denied::silent(DenyReason::CertificatePrincipal));
    }
    let mut session = SessionAccess::default();
    for (index, (name, value)) in certificate.critical_options.iter().enumerate() {
        let earlier = certificate.critical_options.iter().take(index);
        let is_met = !earlier.map(|(name, _)| name).any(|it| it == name)
            && match name.as_slice() {
                b"source-address" => allows(value, presented.source),
                b"verify-required" => {
                    matches!(presented.possession, Possession::Claimed | Possession::ProvedByVerifiedUser)
                }
                b"force-command" => {
                    session.forced_command = Some(value.clone());
                    !value.is_empty()
                }
                _ => false,
            };
        if !is_met {
            tracing::warn!(
                option = certificate_label(name),
                certificate = certificate_label(&certificate.key_id),
                serial = certificate.serial,
                source = %presented.source,
                "certificate refused: a critical option is not met, or not known here"
            );
            return Err(Denied::silent(DenyReason::CertificateOption));
        }
    }
    let permits =
        |extension: &str| certificate.extensions.iter().any(|(name, _)| name == extension.as_bytes());
    let permission = |extension| if permits(extension) { Permission::Granted } else { Permission::Withheld };
    session.terminal = permission("permit-pty");
    session.x11 = permission("permit-X11-forwarding");
    let needs_permit = |scope: &Scope| match scope {
        Scope::Forward => permits("permit-port-forwarding"),
        Scope::Agent => permits("permit-agent-forwarding"),
        Scope::Shell | Scope::Exec | Scope::Sftp => true,
    };
    let scopes = Scope::ALL.into_iter().filter(needs_permit).collect();
    let expires_at = in_time(certificate, now)?;
    Ok(Granted { scopes, expires_at, session })
}

/// The end of the certificate's time, which is now.
fn in_time(certificate: &Certificate, now: OffsetDateTime) -> Result<Option<OffsetDateTime>, Denied> {
    // A time that the calendar does not reach is as good as never.
    let moment = |seconds: u64| {
        i64::try_from(seconds).ok().and_then(|it| OffsetDateTime::from_unix_timestamp(it).ok())
    };
    match moment(certificate.valid_after) {
        Some(start) if now >= start => {}
        start => {
            let text = start.map_or_else(
                || "Your certificate is never valid.".to_owned(),
                |start| format!("Your certificate is not valid before {}.", clock(start)),
            );
            return Err(Denied::told(text, DenyReason::CertificateTime));
        }
    }
    let end = moment(certificate.valid_before);
    match end {
        Some(end) if now >= end => Err(Denied::told(
            format!("Your certificate expired at {}.", clock(end)),
            DenyReason::CertificateTime,
        )),
        end => Ok(end),
    }
}

/// Whether a `source-address` has this address. What cannot be read allows nobody.
fn allows(list: &[u8], source: IpAddr) -> bool {
    std::str::from_utf8(list)
        .ok()
        .and_then(|list| SourceNetworks::parse(list.split(',')).ok())
        .is_some_and(|networks| networks.allow(source))
}

#[cfg(test)]
mod tests {
    use sandgate_policy::Principals;
    use sandgate_ssh::event::PublicKey;

    use super::*;

    const EVERY_EXTENSION: [&str; 4] =
        ["permit-pty", "permit-port-forwarding", "permit-agent-forwarding", "permit-X11-forwarding"];

    fn certificate() -> Certificate {
        Certificate {
            serial: 7,
            key_id: b"alice".to_vec(),
            principals: vec![b"box".to_vec()],
            valid_after: 1000,
            valid_before: 2000,
            critical_options: Vec::new(),
            extensions: EVERY_EXTENSION.iter().map(|it| (it.as_bytes().to_vec(), Vec::new())).collect(),
            ca: PublicKey { key_type: String::new(), algorithm: String::new(), blob: Vec::new() },
        }
    }

    fn at(seconds: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(seconds).expect("a time")
    }

    fn shown(source: &str, possession: Possession) -> Presented {
        Presented { source: source.parse().expect("an address"), possession }
    }

    fn ask(certificate: &Certificate, possession: Possession) -> Result<Granted, DenyReason> {
        let authority = CertAuthority::default();
        check(certificate, &authority, "box", shown("192.0.2.1", possession), at(1500)).map_err(|it| it.log)
    }

    fn with_option(name: &str, value: &str) -> Certificate {
        Certificate { critical_options: vec![(name.into(), value.into())], ..certificate() }
    }

    #[test]
    fn its_time_is_from_its_first_second_to_before_its_last() {
        let authority = CertAuthority::default();
        let when = |seconds| {
            check(&certificate(), &authority, "box", shown("192.0.2.1", Possession::Proved), at(seconds))
        };
        assert_eq!(when(1000).expect("valid").expires_at, Some(at(2000)));
        assert!(when(1999).is_ok());
        for (seconds, word) in [(999, "not valid before"), (2000, "expired at")] {
            let denied = when(seconds).expect_err("refused");
            assert_eq!(denied.log, DenyReason::CertificateTime);
            assert!(denied.public.expect("told").contains(word));
        }
    }

    #[test]
    fn the_ends_of_time_are_numbers_like_others() {
        let endless = Certificate { valid_after: 0, valid_before: u64::MAX, ..certificate() };
        assert_eq!(ask(&endless, Possession::Proved).expect("valid").expires_at, None);
        let never = Certificate { valid_after: u64::MAX, valid_before: u64::MAX, ..certificate() };
        assert_eq!(ask(&never, Possession::Proved), Err(DenyReason::CertificateTime));
    }

    #[test]
    fn it_names_the_sandbox_or_a_principal_of_its_authority() {
        let nobody = Certificate { principals: Vec::new(), ..certificate() };
        assert_eq!(ask(&nobody, Possession::Proved), Err(DenyReason::CertificatePrincipal));
        let authority = CertAuthority { principals: Principals::parse("ops").expect("a list") };
        let presented = shown("192.0.2.1", Possession::Proved);
        let refused = check(&certificate(), &authority, "box", presented, at(1500)).expect_err("refused");
        assert_eq!(refused, Denied::silent(DenyReason::CertificatePrincipal));
    }

    #[test]
    fn source_addresses_hold() {
        for (list, is_in) in [
            ("192.0.2.0/24", true),
            ("2001:db8::/32,192.0.2.1", true),
            ("192.0.2.2", false),
            ("", false),
            ("192.0.2.0/24,nonsense", false),
        ] {
            let asked = ask(&with_option("source-address", list), Possession::Proved);
            assert_eq!(asked.is_ok(), is_in, "{list}");
        }
    }

    #[test]
    fn options_that_are_unknown_or_there_twice_are_refused() {
        let unknown = with_option("no-such-option@example.com", "");
        assert_eq!(ask(&unknown, Possession::Proved), Err(DenyReason::CertificateOption));
        let mut twice = with_option("source-address", "192.0.2.1");
        twice.critical_options.extend(twice.critical_options.clone());
        assert_eq!(ask(&twice, Possession::Proved), Err(DenyReason::CertificateOption));
        let forced = ask(&with_option("force-command", "id -u"), Possession::Proved).expect("valid");
        assert_eq!(forced.session.forced_command.as_deref(), Some(b"id -u".as_slice()));
    }

    #[test]
    fn a_verified_user_is_asked_for_when_the_key_signs() {
        let strict = with_option("verify-required", "");
        assert!(ask(&strict, Possession::Claimed).is_ok());
        assert_eq!(ask(&strict, Possession::Proved), Err(DenyReason::CertificateOption));
        assert!(ask(&strict, Possession::ProvedByVerifiedUser).is_ok());
    }

    #[test]
    fn what_no_extension_permits_is_withheld() {
        let all = ask(&certificate(), Possession::Proved).expect("valid");
        assert_eq!((all.scopes, &all.session), (Scopes::all(), &SessionAccess::default()));
        for (index, missing) in EVERY_EXTENSION.iter().enumerate() {
            let mut fewer = certificate();
            fewer.extensions.remove(index);
            let given = ask(&fewer, Possession::Proved).expect("valid");
            assert_eq!(given.scopes.contains(Scope::Forward), *missing != "permit-port-forwarding");
            assert_eq!(given.scopes.contains(Scope::Agent), *missing != "permit-agent-forwarding");
            assert_eq!(given.session.terminal == Permission::Granted, *missing != "permit-pty");
            assert_eq!(given.session.x11 == Permission::Granted, *missing != "permit-X11-forwarding");
            assert!([Scope::Shell, Scope::Exec, Scope::Sftp].iter().all(|it| given.scopes.contains(*it)));
        }
    }
}
