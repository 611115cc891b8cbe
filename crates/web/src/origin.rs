//! Where a browser's request comes from.

use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri, header};

/// Whether the page behind a request is ours: its `Origin` (RFC 6454 §7) names the host that was asked, or is one of `others`. Without an
/// `Origin`, or with `null`, it is not: browsers send one with each request that this is asked for.
pub(crate) fn origin_allowed(headers: &HeaderMap, others: &[String]) -> bool {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let (Some(origin), None) = (origins.next(), origins.next()) else { return false };
    let Ok(origin) = origin.to_str() else { return false };
    if others.iter().any(|other| other == origin) {
        return true;
    }
    let Ok(uri) = origin.parse::<Uri>() else { return false };
    let (Some(scheme), Some(from)) = (uri.scheme_str(), uri.authority()) else { return false };
    let standard = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return false,
    };
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let Some(asked) = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()) else {
        return false;
    };
    // A proxy in front of us may speak TLS to the browser, so the scheme is the browser's and only fills in the port.
    from.host().eq_ignore_ascii_case(asked.host())
        && from.port_u16().unwrap_or(standard) == asked.port_u16().unwrap_or(standard)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(host: &str, origin: &str, others: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().expect("a host"));
        if !origin.is_empty() {
            headers.insert(header::ORIGIN, origin.parse().expect("an origin"));
        }
        let others: Vec<String> = others.iter().map(|other| (*other).to_owned()).collect();
        origin_allowed(&headers, &others)
    }

    #[test]
    fn the_own_page_is_allowed() {
        assert!(allowed("127.0.0.1:8022", "http://127.0.0.1:8022", &[]));
        assert!(allowed("box.example", "https://box.example", &[]));
        assert!(allowed("Box.example:443", "https://box.EXAMPLE", &[]));
        assert!(allowed("[::1]:8022", "http://[::1]:8022", &[]));
    }

    #[test]
    fn every_other_is_not() {
        for origin in [
            "",
            "null",
            "http://127.0.0.1",
            "http://127.0.0.1:8023",
            "http://localhost:8022",
            "http://127.0.0.1:8022.evil.example",
            "http://evil.example",
            "file://127.0.0.1:8022",
            "127.0.0.1:8022",
        ] {
            assert!(!allowed("127.0.0.1:8022", origin, &[]), "{origin}");
        }
        let mut twice = HeaderMap::new();
        twice.insert(header::HOST, "a".parse().expect("a host"));
        twice.append(header::ORIGIN, "http://a".parse().expect("an origin"));
        twice.append(header::ORIGIN, "http://evil.example".parse().expect("an origin"));
        assert!(!origin_allowed(&twice, &[]));
    }

    #[test]
    fn another_may_be_named() {
        let page = "https://portal.example";
        assert!(allowed("box.example", page, &[page]));
        assert!(!allowed("box.example", "https://portal.example.evil", &[page]));
    }
}
