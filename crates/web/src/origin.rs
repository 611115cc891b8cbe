//! Whose page makes a request.
//!
//! A browser sends cookies along, and opens WebSockets, for pages of anybody. It also says in `Origin` whose page it is, which a page cannot forge.

use axum::http::{HeaderMap, Uri, header};

/// Whether the request comes from a page that was served here (the host and port are those of `Host`) or is allowed. One that says nothing, or that
/// says `null` (a file, a sandboxed frame), is not.
pub(crate) fn origin_allowed(headers: &HeaderMap, allowed: &[String]) -> bool {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let (Some(origin), None) = (origins.next(), origins.next()) else { return false };
    let Some(origin) = origin.to_str().ok().and_then(Origin::parse) else { return false };
    if allowed.iter().filter_map(|other| Origin::parse(other)).any(|other| other == origin) {
        return true;
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    // The scheme that a client used is not known behind a proxy that ends TLS. It is part of the port, which must agree: a page of another
    // scheme on the same port cannot be.
    host.to_str().ok().and_then(|host| Origin::parse(&format!("{}://{host}", origin.scheme))) == Some(origin)
}

/// Scheme, host and port, the default ones filled in.
#[derive(Debug, PartialEq, Eq)]
struct Origin {
    scheme: &'static str,
    host: String,
    port: u16,
}

impl Origin {
    fn parse(text: &str) -> Option<Origin> {
        let uri: Uri = text.parse().ok()?;
        let (scheme, usual) = match uri.scheme_str()? {
            "http" => ("http", 80),
            "https" => ("https", 443),
            _ => return None,
        };
        let authority = uri.authority()?;
        let plain = uri.query().is_none() && uri.path() == "/" && !text.ends_with('/');
        if !plain || authority.as_str().contains('@') || authority.host().is_empty() {
            return None;
        }
        let port = match authority.as_str().strip_prefix(authority.host())? {
            "" => usual,
            port => port.strip_prefix(':')?.parse().ok()?,
        };
        Some(Origin { scheme, host: authority.host().to_ascii_lowercase(), port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(host: &str, origin: &str) -> bool {
        let mut headers = HeaderMap::new();
        if !host.is_empty() {
            headers.insert(header::HOST, host.parse().expect("a value"));
        }
        if !origin.is_empty() {
            headers.insert(header::ORIGIN, origin.parse().expect("a value"));
        }
        origin_allowed(&headers, &["https://embed.example".to_owned()])
    }

    #[test]
    fn the_page_that_was_served_here_is() {
        for (host, origin) in [
            ("box:8022", "http://box:8022"),
            ("Box:8022", "http://bOX:8022"),
            ("box", "http://box"),
            ("box", "https://box"),
            ("box:443", "https://box"),
            ("box", "http://box:80"),
            ("[::1]:8022", "http://[::1]:8022"),
            ("box:8022", "https://embed.example"),
            ("box:8022", "https://embed.example:443"),
        ] {
            assert!(allowed(host, origin), "{origin} at {host}");
        }
    }

    #[test]
    fn others_are_not() {
        for (host, origin) in [
            ("box:8022", ""),
            ("box:8022", "null"),
            ("box:8022", "http://box:8023"),
            ("box:8022", "http://box"),
            ("box", "http://box:8022"),
            ("box:443", "http://box"),
            ("box", "https://box:80"),
            ("box:8022", "http://evil"),
            ("box:8022", "http://box:8022.evil"),
            ("box:8022", "http://evil@box:8022"),
            ("box:8022", "http://box:8022/"),
            ("box:8022", "http://box:8022/x"),
            ("box:8022", "ws://box:8022"),
            ("box:8022", "file://box:8022"),
            ("box:8022", "http://embed.example"),
            ("box:8022", "https://embed.example.evil"),
            ("", "http://box:8022"),
            ("", "http://"),
            ("evil@box:8022", "http://box:8022"),
        ] {
            assert!(!allowed(host, origin), "{origin} at {host}");
        }
    }

    #[test]
    fn two_answers_are_none() {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, "box".parse().expect("a value"));
        headers.append(header::ORIGIN, "http://box".parse().expect("a value"));
        assert!(origin_allowed(&headers, &[]));
        headers.append(header::ORIGIN, "http://box".parse().expect("a value"));
        assert!(!origin_allowed(&headers, &[]));
    }
}
