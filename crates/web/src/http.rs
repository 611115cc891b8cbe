//! The HTTP front door on TCP: the API for holders of keys, and the pages for operations where those have no listener of their own.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::Response;
use sandgate_gateway::Gateway;
use sandgate_gateway::config::TlsFiles;

use crate::server::Bound;
use crate::tls::Tls;
use crate::{caller, health, login, pages, routes, terminal};

pub use crate::tls::TlsError;

/// A bound HTTP listener.
pub struct HttpServer {
    bound: Bound,
    tls: Option<Tls>,
}

impl HttpServer {
    /// Binds `address`; port 0 takes any.
    ///
    /// # Errors
    /// The address is in use or not ours.
    pub async fn bind(address: SocketAddr) -> io::Result<HttpServer> {
        Ok(HttpServer { bound: Bound::new(address).await?, tls: None })
    }

    /// Serves by TLS alone, with a certificate that is read again when its file changes.
    ///
    /// # Errors
    /// The certificate or its key cannot be used.
    pub fn with_tls(mut self, files: &TlsFiles) -> Result<HttpServer, TlsError> {
        self.tls = Some(Tls::load(files)?);
        Ok(self)
    }

    /// The bound address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.bound.address
    }

    /// Serves until `stop` resolves. To be called when the gateway is ready.
    pub async fn serve(self, gateway: Arc<Gateway>, stop: impl Future<Output = ()>) {
        let router = router(gateway);
        match self.tls {
            None => self.bound.serve(router, None, stop).await,
            Some(tls) => {
                let watched = tls.clone();
                tokio::select! {
                    () = self.bound.serve(router, Some(tls), stop) => {}
                    () = watched.follow() => {}
                }
            }
        }
    }
}

fn router(gateway: Arc<Gateway>) -> Router {
    let (api, mut document) = routes::api();
    let open = utoipa_axum::router::OpenApiRouter::new().routes(utoipa_axum::routes!(login::login));
    let (open, open_document) = open.split_for_parts();
    document.merge(open_document);
    let known = api.layer(from_fn_with_state(gateway.clone(), caller::identify));
    let mut router =
        routes::mount(known.merge(open).merge(terminal::socket()).merge(routes::document(document)));
    if gateway.config.operations_listen.is_none() {
        router = router.merge(health::routes());
    }
    router.merge(pages::routes()).layer(map_response(headers)).with_state(gateway)
}

/// What every answer says to a browser: nothing may be loaded from elsewhere, guessed, or shown in a page of others.
async fn headers(mut response: Response) -> Response {
    const POLICY: &str = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";
    let set = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in set {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}
