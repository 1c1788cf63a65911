//! The page: runs, catalog, schedules, devices and cache of a workspace in a browser, and what operators watch.
//!
//! Rendered here, live by server-sent events, with one small script; nothing is fetched from elsewhere. It has a port of
//! its own: devices and people have nothing in common but the workspace.
//!
//! # Layout
//! - [`Page`]: the page of a workspace; [`PageOptions`], [`Origins`]: what it shows, and where it is reached.
//! - [`Tokens`], [`Role`]: who may sign in. `sessions`: who has. `guard`: checks before a request is handled.
//! - `views`: a module for each view. `live`: news of runs. `index`: the list of runs.
//! - `metrics`: `/metrics`, `/healthz`, `/readyz`. `hooks`: signed calls from outside.
//! - `layout`, `reply`: what all answers have. `connection`: the port.

mod app;
mod connection;
mod guard;
mod hooks;
mod index;
mod layout;
mod live;
mod metrics;
mod origin;
mod reply;
mod sessions;
mod tokens;
mod views;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::header;
use axum::middleware;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use app::App;
pub use app::{Details, Health, PageOptions};
pub use connection::{CertificateError, tls};
pub use origin::{OriginError, Origins};
pub use tokens::{Role, Token, TokenError, Tokens};
use views::{cache, catalog, compare, devices, run, runs, schedules, sign_in, stage};

/// Bytes of a form or of a webhook's body at most.
const LARGEST_BODY: usize = 64 << 10;

/// The page of a workspace.
pub struct Page {
    app: App,
    closing: CancellationToken,
}

impl Page {
    /// The page, which nobody sees before it is served.
    pub fn new(options: PageOptions) -> Self {
        let closing = CancellationToken::new();
        Self { app: App::new(options, closing.clone()), closing }
    }

    /// Ends it when it is cancelled.
    pub fn closing(&self) -> CancellationToken {
        self.closing.clone()
    }

    /// Serves until [`Page::closing`] is cancelled.
    pub async fn serve(self, listener: TcpListener, tls: Option<TlsAcceptor>) {
        connection::serve(listener, router(self.app), tls, self.closing).await;
    }
}

fn router(app: App) -> Router {
    let inside = Router::new()
        .route("/runs", get(runs::list))
        .route("/runs/{run}", get(run::show))
        .route("/runs/{run}/news", get(run::news))
        .route("/runs/{run}/outputs", get(run::outputs))
        .route("/runs/{run}/stages/{instance}", get(stage::show))
        .route("/compare", get(compare::show))
        .route("/catalog", get(catalog::show))
        .route("/schedules", get(schedules::show).post(schedules::change))
        .route("/devices", get(devices::show).post(devices::change))
        .route("/cache", get(cache::show))
        .route("/metrics", get(metrics::metrics))
        .route_layer(middleware::from_fn_with_state(app.clone(), guard::signed_in));
    Router::new()
        .merge(inside)
        .route("/", get(|| async { Redirect::to("/runs") }))
        .route("/sign-in", get(sign_in::show).post(sign_in::enter))
        .route("/sign-out", post(sign_in::leave))
        .route("/assets/page.css", get(style))
        .route("/assets/page.js", get(script))
        .route("/assets/icon.svg", get(icon))
        .route("/healthz", get(metrics::alive))
        .route("/readyz", get(metrics::ready))
        .route("/hooks/{name}", post(hooks::call))
        .fallback(reply::not_found)
        .layer(middleware::from_fn(in_time))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .layer(middleware::from_fn_with_state(app.clone(), guard::check))
        .with_state(app)
}

/// How long a handler may take to begin its answer: reading a body counts.
const ANSWER: std::time::Duration = std::time::Duration::from_secs(30);

/// Ends requests whose bodies trickle in.
async fn in_time(request: axum::extract::Request, next: middleware::Next) -> Response {
    match tokio::time::timeout(ANSWER, next.run(request)).await {
        Ok(response) => response,
        Err(_) => layout::refusal(axum::http::StatusCode::REQUEST_TIMEOUT, "The request took too long."),
    }
}

/// The report's style, its graph's, and the page's own.
async fn style(State(_): State<App>) -> Response {
    let text = [headstart_report::STYLE, headstart_report::graph::STYLE, include_str!("page.css")].concat();
    asset("text/css; charset=utf-8", text)
}

async fn script() -> Response {
    asset("text/javascript; charset=utf-8", include_str!("page.js").to_owned())
}

async fn icon() -> Response {
    asset("image/svg+xml", include_str!("icon.svg").to_owned())
}

fn asset(kind: &'static str, text: String) -> Response {
    let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "private, max-age=300")];
    (headers, text).into_response()
}
