//! The resources of the API, who may use them, and the document that describes them.

use std::sync::Arc;

use axum::extract::OriginalUri;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use sandgate_gateway::Gateway;
use sandgate_policy::Role;
use utoipa::openapi::OpenApi;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi as _};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::caller::{COOKIE, require};
use crate::problem::{self, Problem};
use crate::{
    api_keys, audit, exec, exec_stream, images, keys, login, recordings, sandboxes, sessions, ssh_config,
    status, terminal, tokens,
};

/// Where the API lies.
pub(crate) const BASE: &str = "/api/v1";

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "sandgate",
        description = "Sandboxes, the ways into them, and what happened there. Errors are problem details (RFC 9457); times are RFC 3339 in UTC.",
    ),
    servers((url = "/api/v1")),
    security(("key" = []), ("cookie" = [])),
    modifiers(&Schemes),
)]
struct Document;

struct Schemes;

impl Modify for Schemes {
    fn modify(&self, document: &mut OpenApi) {
        let key = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("sgk_…").build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("key", SecurityScheme::Http(key));
        let cookie = ApiKey::Cookie(ApiKeyValue::new(COOKIE));
        components.add_security_scheme("cookie", SecurityScheme::ApiKey(cookie));
    }
}

/// What the API has for callers who are known, with its document. The layer that finds out who a caller is goes around it.
pub(crate) fn api() -> (Router<Arc<Gateway>>, OpenApi) {
    let viewer = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(login::whoami))
        .routes(routes!(login::logout))
        .routes(routes!(status::show))
        .routes(routes!(ssh_config::all))
        .routes(routes!(ssh_config::one))
        .routes(routes!(sandboxes::list))
        .routes(routes!(sandboxes::inspect))
        .routes(routes!(tokens::list))
        .routes(routes!(keys::list))
        .routes(routes!(images::list))
        .routes(routes!(sessions::list))
        .routes(routes!(audit::list))
        .routes(routes!(recordings::list))
        .routes(routes!(recordings::download))
        .routes(routes!(recordings::verify))
        .routes(routes!(terminal::list))
        // To watch; to write needs more, and the handler looks.
        .routes(routes!(terminal::ticket))
        .routes(routes!(sessions::ticket));
    let user = OpenApiRouter::new()
        .routes(routes!(sandboxes::start))
        .routes(routes!(sandboxes::stop))
        .routes(routes!(sandboxes::pause))
        .routes(routes!(sandboxes::resume))
        .routes(routes!(exec::run))
        .routes(routes!(terminal::create))
        .routes(routes!(terminal::end))
        .routes(routes!(tokens::create))
        .routes(routes!(tokens::revoke))
        .routes(routes!(sessions::kill))
        // A WebSocket, which the document has no words for.
        .route("/sandboxes/{name}/exec/stream", get(exec_stream::stream))
        .route_layer(from_fn_with_state(Role::User, require));
    let admin = OpenApiRouter::new()
        .routes(routes!(sandboxes::create))
        .routes(routes!(sandboxes::adopt))
        .routes(routes!(sandboxes::remove))
        .routes(routes!(recordings::remove))
        .routes(routes!(keys::add))
        .routes(routes!(keys::remove))
        .routes(routes!(images::import))
        .routes(routes!(images::pull))
        .routes(routes!(images::remove))
        .routes(routes!(api_keys::list))
        .routes(routes!(api_keys::create))
        .routes(routes!(api_keys::revoke))
        .routes(routes!(login::code))
        .route_layer(from_fn_with_state(Role::Admin, require));
    viewer.merge(user).merge(admin).split_for_parts()
}

/// `GET /api/v1/openapi.json`.
pub(crate) fn document(document: OpenApi) -> Router<Arc<Gateway>> {
    let document = Arc::new(document);
    Router::new().route("/openapi.json", get(async move || Json((*document).clone())))
}

/// Puts the API where it lies, makes problems of all errors, and keeps answers out of caches.
pub(crate) fn mount(api: Router<Arc<Gateway>>) -> Router<Arc<Gateway>> {
    Router::new()
        .nest(BASE, api.fallback(not_found))
        .layer(map_response(async |mut response: axum::response::Response| {
            response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response
        }))
        .layer(map_response(problem::of_framework))
}

pub(crate) async fn not_found(OriginalUri(uri): OriginalUri) -> impl IntoResponse {
    Problem::new(StatusCode::NOT_FOUND, format!("there is nothing at {}", uri.path()))
}
