//! The dashboard: files that are part of this program, and the policy that browsers hold them to.

use std::sync::Arc;

use axum::Router;
use axum::extract::{OriginalUri, Path, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use rust_embed::{Embed, EmbeddedFile};
use sandgate_gateway::Gateway;

use crate::problem::Problem;

/// What `npm run build` has made.
#[derive(Embed)]
#[folder = "../../ui/dist/"]
struct Files;

/// Nothing comes from elsewhere, nothing goes elsewhere, and no script or style stands in a page.
const POLICY: &str = "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    font-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; require-trusted-types-for 'script'";
/// No pages of it: programs ask for these, and must not take a page for an answer where they are served elsewhere.
const OPERATIONS: [&str; 3] = ["/healthz", "/readyz", "/metrics"];
/// Where the pages are that other pages may show in a frame: one for each sandbox.
const EMBED: &str = "/embed/";

/// Its routes; whatever else is asked for by name is a page of the dashboard, which finds its way by itself.
pub(crate) fn routes() -> Router<Arc<Gateway>> {
    Router::new().route("/assets/{*path}", get(asset)).fallback(page)
}

async fn page(
    State(gateway): State<Arc<Gateway>>,
    method: Method,
    OriginalUri(uri): OriginalUri,
) -> Response {
    let is_page = matches!(method, Method::GET | Method::HEAD)
        && !uri.path().starts_with("/api/")
        && !OPERATIONS.contains(&uri.path());
    let Some(index) = Files::get("index.html").filter(|_| is_page) else {
        return Problem::new(StatusCode::NOT_FOUND, format!("there is nothing at {}", uri.path()))
            .into_response();
    };
    let mut response = file(index, "text/html; charset=utf-8", "no-cache");
    let for_embedding = is_for_embedding(uri.path());
    let frames = match for_embedding {
        true if !gateway.config.http.frame_ancestors.is_empty() => {
            format!("'self' {}", gateway.config.http.frame_ancestors.join(" "))
        }
        true => "'self'".to_owned(),
        false => "'none'".to_owned(),
    };
    if let Ok(policy) = HeaderValue::from_str(&format!("{POLICY}; frame-ancestors {frames}")) {
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    if for_embedding {
        // A page that shows it lives in another origin.
        let name = HeaderName::from_static("cross-origin-resource-policy");
        response.headers_mut().insert(name, HeaderValue::from_static("cross-origin"));
    }
    response
}

/// Whether this is the page for embedding, and not another one below its address.
fn is_for_embedding(path: &str) -> bool {
    path.strip_prefix(EMBED).is_some_and(|sandbox| !sandbox.is_empty() && !sandbox.contains('/'))
}

/// Their names hold a hash of their content, so they never change.
async fn asset(Path(path): Path<String>) -> Response {
    let Some(found) = Files::get(&format!("assets/{path}")) else {
        return Problem::new(StatusCode::NOT_FOUND, "there is no such file").into_response();
    };
    let kind = match path.rsplit_once('.').map(|(_, ending)| ending) {
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("txt") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    };
    file(found, kind, "public, max-age=31536000, immutable")
}

fn file(found: EmbeddedFile, kind: &'static str, kept: &'static str) -> Response {
    let head = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, kept)];
    (head, found.data.into_owned()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_page_alone_is_for_embedding() {
        assert!(is_for_embedding("/embed/box"));
        for other in [
            "/",
            "/embed",
            "/embed/",
            "/embed//",
            "/embed//box",
            "/embed/box/",
            "/embed/box/more",
            "/embedded/box",
        ] {
            assert!(!is_for_embedding(other), "{other}");
        }
    }
}
