//! Whose page makes a request.
//!
//! A browser sends cookies along, and opens WebSockets, for pages of anybody. It also says in `Origin` whose page it is, which a page cannot forge.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName, Uri, header};
use sandgate_gateway::config::HttpConfig;

/// Whether the request comes from a page that was served here (the host and port are those of `Host`) or is allowed. One that says nothing, or that
/// says `null` (a file, a sandboxed frame), is not.
pub(crate) fn origin_allowed(headers: &HeaderMap, config: &HttpConfig) -> bool {
    let Some(origin) = Origin::of(headers) else { return false };
    config.origins.iter().filter_map(|other| Origin::parse(other)).any(|other| other == origin)
        || is_own(&origin, headers, config)
}

/// Whether a browser may be told to send its cookie by https alone: it comes by https, as far as is known.
pub(crate) fn is_by_https(headers: &HeaderMap, config: &HttpConfig) -> bool {
    let past_the_proxy = |origin: Origin| origin.is_plain_and_local() && is_own(&origin, headers, config);
    is_https_the_way(config) && !Origin::of(headers).is_some_and(past_the_proxy)
}

fn is_own(origin: &Origin, headers: &HeaderMap, config: &HttpConfig) -> bool {
    // The scheme that a client used is not known behind a proxy that ends TLS. It is part of the port, which must agree; but a `Host` without a
    // port agrees with both. Where https is the way here, a page by http is that of whoever sits on the network. Only on this machine, or at the
    // end of a tunnel to it, nobody sits between: there the listener is reached past the proxy.
    let scheme_fits = origin.scheme == "https"
        || !is_https_the_way(config)
        || (config.tls.is_none() && origin.is_plain_and_local());
    let here =
        only(headers, header::HOST).and_then(|host| Origin::parse(&format!("{}://{host}", origin.scheme)));
    scheme_fits && here.as_ref() == Some(origin)
}

/// Whether TLS is served here or, as `public_url` says, by a proxy in front.
fn is_https_the_way(config: &HttpConfig) -> bool {
    config.tls.is_some() || config.public_url.as_deref().is_some_and(|url| url.starts_with("https://"))
}

/// The value of a header that must be there once.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    value.to_str().ok()
}

/// Scheme, host and port, the default ones filled in.
#[derive(Debug, PartialEq, Eq)]
struct Origin {
    scheme: &'static str,
    host: String,
    port: u16,
}

impl Origin {
    fn of(headers: &HeaderMap) -> Option<Origin> {
        only(headers, header::ORIGIN).and_then(Origin::parse)
    }

    /// By http from this machine itself.
    fn is_plain_and_local(&self) -> bool {
        let host = self.host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&self.host);
        let is_local = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        self.scheme == "http" && is_local
    }

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
    use sandgate_gateway::config::TlsFiles;

    use super::*;

    fn headers(host: &str, origin: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if !host.is_empty() {
            headers.insert(header::HOST, host.parse().expect("a value"));
        }
        if !origin.is_empty() {
            headers.insert(header::ORIGIN, origin.parse().expect("a value"));
        }
        headers
    }

    fn config() -> HttpConfig {
        HttpConfig { origins: vec!["https://embed.example".to_owned()], ..HttpConfig::default() }
    }

    /// Behind a proxy that ends TLS.
    fn proxied() -> HttpConfig {
        HttpConfig { public_url: Some("https://box.example".to_owned()), ..config() }
    }

    fn with_tls() -> HttpConfig {
        let files = TlsFiles { certificate: "/cert.pem".into(), key: "/key.pem".into() };
        HttpConfig { tls: Some(files), ..config() }
    }

    fn allowed(host: &str, origin: &str) -> bool {
        origin_allowed(&headers(host, origin), &config())
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
    fn a_page_by_http_is_not_ours_where_https_is_the_way() {
        for (config, name) in [(proxied(), "a proxy"), (with_tls(), "TLS")] {
            for (host, origin, ours) in [
                ("box.example", "https://box.example", true),
                ("box.example", "http://box.example", false),
                ("box.example:80", "http://box.example", false),
                ("box.example:8022", "https://box.example:8022", true),
                ("box.example:8022", "http://box.example:8022", false),
                ("box.example", "https://embed.example", true),
                ("192.168.0.7:8022", "http://192.168.0.7:8022", false),
                ("localhost.evil", "http://localhost.evil", false),
            ] {
                let headers = headers(host, origin);
                assert_eq!(origin_allowed(&headers, &config), ours, "{origin} at {host}, {name}");
                assert!(is_by_https(&headers, &config), "{origin} at {host}, {name}");
            }
        }
        let http = HttpConfig { public_url: Some("http://box.example".to_owned()), ..config() };
        assert!(origin_allowed(&headers("box.example", "http://box.example"), &http));
        assert!(!is_by_https(&headers("box.example", "https://box.example"), &http));
    }

    #[test]
    fn the_listener_itself_is_reached_by_http_from_its_own_machine() {
        for host in ["127.0.0.1:8022", "localhost:8022", "[::1]:8022", "127.9.9.9"] {
            let headers = headers(host, &format!("http://{host}"));
            for config in [config(), proxied()] {
                assert!(origin_allowed(&headers, &config), "{host}");
                assert!(!is_by_https(&headers, &config), "{host}: a browser would not keep the cookie");
            }
            assert!(!origin_allowed(&headers, &with_tls()), "{host}: there is no such page");
            assert!(is_by_https(&headers, &with_tls()), "{host}");
        }
        // A page of this machine, but not of here.
        let other = headers("box.example", "http://localhost");
        assert!(!origin_allowed(&other, &proxied()) && is_by_https(&other, &proxied()));
        assert!(is_by_https(&headers("box.example", ""), &proxied()), "who says nothing");
        assert!(!is_by_https(&headers("box", ""), &config()));
    }

    #[test]
    fn two_answers_are_none() {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, "box".parse().expect("a value"));
        headers.append(header::ORIGIN, "http://box".parse().expect("a value"));
        assert!(origin_allowed(&headers, &config()));
        headers.append(header::ORIGIN, "http://box".parse().expect("a value"));
        assert!(!origin_allowed(&headers, &config()));
    }
}
